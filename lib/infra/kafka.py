"""Kafka's clients, one set of properties for both: Spark's (Java) as they are, kafka-python's translated.

``KAFKA_PROPERTIES`` names a file in Java's format, the one that Kafka's own tools take with ``--command-config``:

    security.protocol=SASL_SSL
    sasl.mechanism=SCRAM-SHA-512
    sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="me" password="…";
    ssl.truststore.type=PEM
    ssl.truststore.location=/etc/kafka/ca.pem

Certificates must be PEM: that is what both clients read. The passwords in it go to the clients and nowhere else.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic
from kafka.errors import BrokerResponseError, KafkaError, TopicAlreadyExistsError

from lib import paths

REPLICAS = 3  # of a topic, where there are so many brokers
MAX_MESSAGE_BYTES = 8 << 20  # bytes of a message in our topics
DEFAULT_MAX_MESSAGE_BYTES = 1 << 20  # what Kafka takes when it is told nothing else
OPTION_NAMES = {
    "security.protocol": "security_protocol",
    "sasl.mechanism": "sasl_mechanism",
    "ssl.truststore.location": "ssl_cafile",
    "ssl.keystore.location": "ssl_certfile",
    "ssl.key.password": "ssl_password",
}
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_INLINE = ("ssl.truststore.certificates", "ssl.keystore.key", "ssl.keystore.certificate.chain")
_TALK = ("kafka.net.manager", "kafka.net.connection")  # loggers that tell why a connection fails
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


class PropertiesError(ValueError):
    """A file of client properties cannot be used; the message says which rule it breaks."""


class KafkaAuthError(ConnectionError):
    """Kafka is there and does not let us in; the message says why."""


def read_properties(path: Path | None) -> dict[str, str]:
    """Read a file of client properties.

    Parameters
    ----------
    path : Path or None
        Lines of ``name=value``; comments begin with ``#`` or ``!``, a line that ends in a backslash goes on. As Java
        reads it, a backslash in a value is written twice.

    Returns
    -------
    dict
        Empty without a file.

    Raises
    ------
    PropertiesError
        When the file is missing or a line is not ``name=value``.
    """
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PropertiesError(
            f"KAFKA_PROPERTIES must be a readable file. Got {paths.show(path)} ({error.strerror}). Check the path."
        ) from None
    properties = {}
    for line in re.sub(r"(?<!\\)((?:\\\\)*)\\\n\s*", r"\1", text).splitlines():
        line = line.strip()
        if not line or line[0] in "#!":
            continue
        name, separator, value = line.partition("=")
        if not separator:
            raise PropertiesError(
                f"A line of {paths.show(path)} must be name=value. Got {line.split()[0]!r} without “=”. Mend the line."
            )
        properties[name.strip()] = _unescape(value.strip())
    return properties


def _unescape(value: str) -> str:
    r"""Take a value's backslashes as Java does.

    Examples
    --------
    >>> _unescape(r"a\\b=\u00e9\"")
    'a\\b=é"'
    """

    def meant(match: re.Match[str]) -> str:
        return chr(int(match[1], 16)) if match[1] else _ESCAPES.get(match[2], match[2])

    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", meant, value)


def for_spark(properties: Mapping[str, str]) -> dict[str, str]:
    """Give the properties as options of Spark's Kafka source and sink.

    Examples
    --------
    >>> for_spark({"security.protocol": "SSL"})
    {'kafka.security.protocol': 'SSL'}
    """
    return {f"kafka.{name}": value for name, value in properties.items()}


def for_python(properties: Mapping[str, str]) -> dict[str, Any]:
    """Give the properties as arguments of kafka-python's clients.

    Raises
    ------
    PropertiesError
        When certificates are not PEM files, or the log-in is one that only Java can do.

    Examples
    --------
    >>> login = 'x.PlainLoginModule required username="me" password="a b";'
    >>> given = {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.jaas.config": login}
    >>> options = for_python(given)
    >>> options["sasl_plain_username"], options["sasl_plain_password"]
    ('me', 'a b')
    """
    _check_stores(properties)
    options: dict[str, Any] = {
        OPTION_NAMES[name]: value for name, value in properties.items() if name in OPTION_NAMES
    }
    if "ssl_certfile" in options:
        options["ssl_keyfile"] = options["ssl_certfile"]  # a PEM store holds the chain and the key
    if properties.get("ssl.endpoint.identification.algorithm") == "":
        options["ssl_check_hostname"] = False
    if properties.get("security.protocol", "").startswith("SASL_"):
        options |= _login(properties)
    return options


def _check_stores(properties: Mapping[str, str]) -> None:
    for name in _INLINE:
        if name in properties:
            raise PropertiesError(
                "Certificates must be in PEM files, which both clients read. "
                f"Got {name}. Write it into a file and give ssl.truststore.location or ssl.keystore.location."
            )
    for store in ("ssl.truststore", "ssl.keystore"):
        place = properties.get(f"{store}.location")
        if place is None:
            continue
        kind = properties.get(f"{store}.type", "nothing")
        if kind.upper() != "PEM":
            raise PropertiesError(
                f"{store}.type must be PEM, which both clients read. Got {kind!r}. "
                "Turn the store into PEM (keytool, openssl)."
            )
        if not Path(place).is_file():
            raise PropertiesError(
                f"{store}.location must be a readable file. Got {place!r}. Give its whole path, on every machine."
            )


def _login(properties: Mapping[str, str]) -> dict[str, str]:
    """Find user and password in what Java's login modules are given; no message shows that text."""
    mechanism = properties.get("sasl.mechanism", "GSSAPI")
    if mechanism not in _MECHANISMS:
        raise PropertiesError(
            f"sasl.mechanism must be one that both clients speak: {', '.join(_MECHANISMS)}. Got {mechanism!r}. "
            "Give Kafka's user one of them."
        )
    login = {word: _option(word, properties.get("sasl.jaas.config", "")) for word in ("username", "password")}
    missing = [word for word, value in login.items() if value is None]
    if missing:
        raise PropertiesError(
            'sasl.jaas.config must be MODULE required username="…" password="…"; with both. '
            f"Got none that can be read: {' and '.join(missing)}. Put the values into quotation marks."
        )
    return {f"sasl_plain_{word}": value for word, value in login.items() if value is not None}


def _option(word: str, login: str) -> str | None:
    match = re.search(rf'\b{word}\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', login)
    if match is None:
        return None
    return match[2] if match[1] is None else re.sub(r"\\(.)", r"\1", match[1])


def ping(bootstrap: str, properties: Mapping[str, str], seconds: float) -> bool:
    """Return whether a Kafka broker answers within so many seconds.

    Parameters
    ----------
    bootstrap : str
        ``host:port``, or several with commas.
    properties : mapping
        Kafka client properties.
    seconds : float
        How long to wait for an answer.

    Raises
    ------
    KafkaAuthError
        When somebody answers and refuses us, or is none whom we trust.
    PropertiesError
        When the properties cannot be used.
    """
    options, milliseconds = for_python(properties), int(seconds * 1000)
    with _overheard() as failures, contextlib.suppress(KafkaError, OSError):
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap,
            request_timeout_ms=milliseconds,
            bootstrap_timeout_ms=milliseconds,
            **options,
        )
        try:
            return bool(admin.describe_cluster())
        finally:
            admin.close()
    for failure in failures:
        _explain(bootstrap, properties, options, failure)
    return False


def _explain(
    bootstrap: str, properties: Mapping[str, str], options: Mapping[str, Any], failure: BaseException
) -> None:
    """Say what a refusal means; what is none is passed over."""
    said, protocol = str(failure), properties.get("security.protocol", "")
    if "CERTIFICATE_VERIFY_FAILED" in said:
        reason = re.sub(r".*certificate verify failed: (.*?) \(_ssl.*", r"\1", said)
        raise KafkaAuthError(
            f"Kafka at {bootstrap} must show a certificate for that name, signed by an authority in "
            f"ssl.truststore.location. Got one that is refused ({reason}), with the authorities in "
            f"{properties.get('ssl.truststore.location', 'this system')!r}. Give the right PEM file, or the right name."
        )
    if alert := re.search(r"\] .*alert ((?:bad |unknown )?(?:certificate|ca)\b.*?) \(_ssl", said):
        store = properties.get("ssl.keystore.location")
        raise KafkaAuthError(
            f"ssl.keystore.location must be a PEM file with a key and a certificate that Kafka at {bootstrap} trusts. "
            f"Got {'none' if store is None else repr(store)}, and Kafka hangs up ({alert[1]}). "
            "Give the file that belongs to you, with ssl.keystore.type=PEM."
        )
    if "Handshake failed" in said:
        raise KafkaAuthError(
            f"security.protocol must be what Kafka speaks at {bootstrap}. "
            f"Got {protocol!r}, and no TLS comes about ({said}). "
            "Give the protocol of that listener, or the port of another."
        )
    # After a refusal Kafka hangs up, and kafka-python may see that before it reads the refusal.
    if protocol.startswith("SASL_") and ("disconnected" in said or isinstance(failure, BrokerResponseError)):
        raise KafkaAuthError(
            f"KAFKA_PROPERTIES must name a user whom Kafka at {bootstrap} knows, with the right password. "
            f"Got {options['sasl_plain_username']!r} by {options['sasl_mechanism']} over {protocol}, who is refused. "
            "Correct sasl.jaas.config, or else sasl.mechanism or security.protocol."
        )


@contextlib.contextmanager
def _overheard() -> Iterator[list[BaseException]]:
    """Collect why connections fail, which kafka-python tells only its log; nothing of it is printed."""
    failures: list[BaseException] = []

    def keep(record: logging.LogRecord) -> bool:
        given = record.args if isinstance(record.args, tuple) else ()
        failures.extend(one for one in given if isinstance(one, BaseException))
        return False

    whole, talking = logging.getLogger("kafka"), [logging.getLogger(name) for name in _TALK]
    levels = [(logger, logger.level) for logger in (whole, *talking)]
    whole.setLevel(logging.CRITICAL)
    for logger in talking:
        logger.setLevel(logging.ERROR)
        logger.addFilter(keep)
    try:
        yield failures
    finally:
        for logger in talking:
            logger.removeFilter(keep)
        for logger, level in levels:
            logger.setLevel(level)


def make_topics(bootstrap: str, names: list[str], partitions: int, properties: Mapping[str, str]) -> None:
    """Make topics that are not there yet, with as many replicas as there are brokers, at most three.

    Parameters
    ----------
    bootstrap : str
        ``host:port``, or several with commas.
    names : list of str
        The topics.
    partitions : int
        Of each new one.
    properties : mapping
        Kafka client properties.

    Raises
    ------
    ConnectionError
        When no broker answers.
    """
    options = for_python(properties)
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, **options)
        try:
            replicas = min(REPLICAS, len(admin.describe_cluster()["brokers"]))
            configuration = {
                "min.insync.replicas": str(max(1, replicas - 1)),
                "retention.ms": "-1",
                "max.message.bytes": str(MAX_MESSAGE_BYTES),
            }
            there = set(admin.list_topics())
            wanted = [
                NewTopic(
                    name, num_partitions=partitions, replication_factor=replicas, topic_configs=configuration
                )
                for name in names
                if name not in there
            ]
            if wanted:
                admin.create_topics(wanted)
        finally:
            admin.close()
    except TopicAlreadyExistsError:
        return
    except KafkaError as error:
        raise ConnectionError(
            f"Kafka at {bootstrap} must let topics be made. Got {type(error).__name__}: {error}."
        ) from None


def max_message_bytes(bootstrap: str, topic: str, properties: Mapping[str, str]) -> int:
    """Find out how many bytes a message of a topic may have; what Kafka usually takes, where it does not tell."""
    setting = "max.message.bytes"
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, **for_python(properties))
        try:
            wanted = ConfigResource(ConfigResourceType.TOPIC, topic, {setting: None})
            found = admin.describe_configs([wanted], config_filter="all")
            return int(found["topic"][topic][setting]["value"])
        finally:
            admin.close()
    except (KafkaError, KeyError, TypeError, ValueError):
        return DEFAULT_MAX_MESSAGE_BYTES
