"""A broker that takes only clients it can trust: TLS with its own authority, and a password."""

import shutil
import subprocess
from pathlib import Path
from typing import Self

import pytest
from kafka.admin import KafkaAdminClient, UserScramCredentialUpsertion

from lib.infra import broker

WORD = "sesame"  # of the password: what must not be read anywhere
USER, PASSWORD = "ada", f'open "{WORD}" \\ $$'
MODULES = "org.apache.kafka.common.security"
LISTENER = "listener.name.sasl_ssl"
SETTINGS = """
controller.quorum.voters=1@{host}:{controller}
listeners=PLAINTEXT://{host}:{plain},SASL_SSL://{host}:{port},SSL://{host}:{mutual},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{plain},SASL_SSL://{host}:{port},SSL://{host}:{mutual}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
{listener}.ssl.keystore.type=PEM
{listener}.ssl.keystore.location={keystore}
{listener}.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required user_{user}={password};
{listener}.scram-sha-256.sasl.jaas.config={modules}.scram.ScramLoginModule required;
listener.name.ssl.ssl.client.auth=required
listener.name.ssl.ssl.keystore.type=PEM
listener.name.ssl.ssl.keystore.location={keystore}
listener.name.ssl.ssl.truststore.type=PEM
listener.name.ssl.ssl.truststore.location={authority}
"""


class SecureBroker(broker.Broker):
    """The embedded broker with two more listeners over TLS: one wants a password, the other a certificate."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.authority, self._keystore, self.mine = certificates(folder / "certificates", "kafka", USER)
        self.secure_port, self.mutual_port = broker.free_port(), broker.free_port()
        more = SETTINGS.format(
            host=broker.LOOPBACK,
            plain=self.port,
            port=self.secure_port,
            mutual=self.mutual_port,
            controller=broker.free_port(),
            authority=self.authority,
            listener=LISTENER,
            keystore=self._keystore,
            modules=MODULES,
            user=USER,
            password=in_a_file(quoted(PASSWORD)),
        )
        self.settings = dict(line.split("=", 1) for line in more.splitlines() if line)

    @property
    def secure(self) -> str:
        """What clients with a password call ``bootstrap.servers``."""
        return f"{broker.LOOPBACK}:{self.secure_port}"

    @property
    def mutual(self) -> str:
        """What clients with a certificate call ``bootstrap.servers``."""
        return f"{broker.LOOPBACK}:{self.mutual_port}"

    def start(self) -> Self:
        """Start it, and make the user known to SCRAM, whose passwords Kafka keeps itself."""
        super().start()
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        admin.alter_user_scram_credentials([UserScramCredentialUpsertion(USER, "SCRAM-SHA-256", PASSWORD)])
        admin.close()
        return self

    def properties(self, folder: Path, mechanism: str, password: str = PASSWORD, authority: str = "") -> Path:
        """Write a file of client properties as a user would."""
        module = {"PLAIN": "plain.PlainLoginModule", "SCRAM-SHA-256": "scram.ScramLoginModule"}[mechanism]
        login = f"{MODULES}.{module} required"
        path = folder / f"client-{mechanism}.properties"
        path.write_text(
            "# how to reach our Kafka\n"
            "security.protocol=SASL_SSL\n"
            f"sasl.mechanism={mechanism}\n"
            f"sasl.jaas.config={login} \\\n    username={quoted(USER)} password={in_a_file(quoted(password))};\n"
            "ssl.truststore.type=PEM\n"
            f"ssl.truststore.location={authority or self.authority}\n"
        )
        return path

    def with_certificate(self, folder: Path, store: Path | None) -> Path:
        """Write a file of client properties of somebody who shows a certificate, or none."""
        path = folder / "client-certificate.properties"
        mine = f"ssl.keystore.type=PEM\nssl.keystore.location={store}\n" if store else ""
        path.write_text(
            f"security.protocol=SSL\nssl.truststore.type=PEM\nssl.truststore.location={self.authority}\n{mine}"
        )
        return path


def quoted(text: str) -> str:
    """Write a text as a login module's options want it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def in_a_file(text: str) -> str:
    """Write a value as a file of Java properties wants it: a backslash is doubled."""
    return text.replace("\\", "\\\\")


def certificates(folder: Path, *names: str) -> list[Path]:
    """Make an authority and, signed by it, certificates for 127.0.0.1; give the authority and the key stores, PEM."""
    if shutil.which("openssl") is None:
        pytest.skip("TLS and SASL were NOT tested: there is no openssl to make certificates with.")
    folder.mkdir(parents=True)
    new = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    _openssl(folder, *new, "-subj", "/CN=our authority", "-keyout", "ca.key", "-out", "ca.pem")
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", f"subjectAltName=IP:{broker.LOOPBACK}"]
    leaf = ["-addext", "basicConstraints=critical,CA:FALSE"]
    for name in names:
        key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
        _openssl(folder, *new, *signed, *leaf, "-subj", f"/CN={name}", "-keyout", key, "-out", certificate)
        (folder / f"{name}.pem").write_bytes(key.read_bytes() + certificate.read_bytes())
    return [folder / "ca.pem", *(folder / f"{name}.pem" for name in names)]


def _openssl(folder: Path, *arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
