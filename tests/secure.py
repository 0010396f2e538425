"""A broker that takes only clients it can trust: TLS with its own authority, and a password or a certificate."""

import shutil
import subprocess
from pathlib import Path
from typing import Self

import javaproperties
import pytest
from kafka.admin import KafkaAdminClient, UserScramCredentialUpsertion

from lib.infra import broker

WORD = "sesame"  # of the password: what must not be read anywhere
USER, PASSWORD = "ada", f'open "{WORD}" \\ $$'
MODULES = {"PLAIN": "plain.PlainLoginModule", "SCRAM-SHA-256": "scram.ScramLoginModule"}


def login(mechanism: str, **options: str) -> str:
    """Return a line of JAAS: a login module and its options, quoted."""
    quoted = {name: text.replace("\\", "\\\\").replace('"', '\\"') for name, text in options.items()}
    words = [f'{name}="{text}"' for name, text in quoted.items()]
    return f"org.apache.kafka.common.security.{MODULES[mechanism]} required {' '.join(words)};"


class SecureBroker(broker.Broker):
    """The embedded broker with two more listeners over TLS: one wants a password, the other a certificate."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.authority, keystore, self.mine = certificates(folder / "certificates", "kafka", USER)
        self.secure, self.mutual = (f"{broker.LOOPBACK}:{broker.free_port()}" for _ in range(2))
        controller = f"{broker.LOOPBACK}:{broker.free_port()}"
        clients = f"PLAINTEXT://{self.bootstrap},SASL_SSL://{self.secure},SSL://{self.mutual}"
        pem = {"ssl.keystore.type": "PEM", "ssl.keystore.location": keystore}
        trusted = {"ssl.truststore.type": "PEM", "ssl.truststore.location": self.authority}
        passwords = {
            "plain.sasl.jaas.config": login("PLAIN", **{f"user_{USER}": PASSWORD}).replace("\\", "\\\\"),
            "scram-sha-256.sasl.jaas.config": login("SCRAM-SHA-256"),
        }
        self.settings = {
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"{clients},CONTROLLER://{controller}",
            "advertised.listeners": clients,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": ",".join(MODULES),
            **{f"listener.name.sasl_ssl.{name}": value for name, value in (pem | passwords).items()},
            **{f"listener.name.ssl.{name}": value for name, value in (pem | trusted).items()},
            "listener.name.ssl.ssl.client.auth": "required",
        }

    def start(self) -> Self:
        """Start it, and make the user known to SCRAM, whose passwords Kafka keeps itself."""
        super().start()
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        admin.alter_user_scram_credentials([UserScramCredentialUpsertion(USER, "SCRAM-SHA-256", PASSWORD)])
        admin.close()
        return self

    def properties(self, folder: Path, mechanism: str, password: str = PASSWORD, authority: str = "") -> Path:
        """Write a file of client properties as a user would."""
        module = login(mechanism, username=USER, password=password)
        options = {"security.protocol": "SASL_SSL", "sasl.mechanism": mechanism, "sasl.jaas.config": module}
        return self._write(folder / f"client-{mechanism}.properties", options, authority)

    def with_certificate(self, folder: Path, store: Path | None) -> Path:
        """Write a file of client properties of somebody who shows a certificate, or none."""
        mine = {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(store)} if store else {}
        return self._write(folder / "client-certificate.properties", {"security.protocol": "SSL", **mine})

    def _write(self, path: Path, options: dict[str, str], authority: str = "") -> Path:
        trusted = {"ssl.truststore.type": "PEM", "ssl.truststore.location": authority or str(self.authority)}
        path.write_text(javaproperties.dumps(options | trusted))
        return path


def certificates(folder: Path, *names: str) -> list[Path]:
    """Make an authority and certificates for 127.0.0.1 that it signed; return the authority and the key stores, PEM."""
    if shutil.which("openssl") is None:
        pytest.skip("TLS and SASL were NOT tested: there is no openssl to make certificates with.")
    folder.mkdir(parents=True)
    new = ["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
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
