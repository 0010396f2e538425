"""Kafka's clients, one set of properties for both: Spark's (Java) as they are, kafka-python's translated.

``KAFKA_PROPERTIES`` names a file in Java's format, the one that Kafka's own tools take with ``--command-config``:

    security.protocol=SASL_SSL
    sasl.mechanism=SCRAM-SHA-512
    sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="me" password="…";
    ssl.truststore.type=PEM
    ssl.truststore.location=/etc/kafka/ca.pem

Certificates must be PEM: that is what both clients read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from lib import paths

REPLICAS = 3  # of a topic, where there are so many brokers
_SAME = {
    "security.protocol": "security_protocol",
    "sasl.mechanism": "sasl_mechanism",
    "ssl.truststore.location": "ssl_cafile",
    "ssl.keystore.location": "ssl_certfile",
    "ssl.key.password": "ssl_password",
}


class PropertiesError(ValueError):
    """A file of client properties cannot be used; the message says which rule it breaks."""


def read_properties(path: Path | None) -> dict[str, str]:
    """Read a file of client properties.

    Parameters
    ----------
    path : Path or None
        Lines of ``name=value``; comments begin with ``#`` or ``!``, a line that ends in a backslash goes on.

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
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        line = line.strip()
        if not line or line[0] in "#!":
            continue
        name, separator, value = line.partition("=")
        if not separator:
            raise PropertiesError(
                f"A line of {paths.show(path)} must be name=value. Got {line.split()[0]!r} without “=”. Mend the line."
            )
        properties[name.strip()] = value.strip()
    return properties


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
        When certificates are not PEM.

    Examples
    --------
    >>> options = for_python({"sasl.jaas.config": 'x.PlainLoginModule required username="me" password="a b";'})
    >>> options["sasl_plain_username"], options["sasl_plain_password"]
    ('me', 'a b')
    """
    for store in ("ssl.truststore", "ssl.keystore"):
        if f"{store}.location" in properties and properties.get(f"{store}.type", "").upper() != "PEM":
            kind = properties.get(f"{store}.type", "nothing")
            raise PropertiesError(
                f"{store}.type must be PEM, which both clients read. Got {kind!r}. "
                "Turn the store into PEM (keytool, openssl)."
            )
    options: dict[str, Any] = {_SAME[name]: value for name, value in properties.items() if name in _SAME}
    if "ssl_certfile" in options:
        options["ssl_keyfile"] = options["ssl_certfile"]  # a PEM store holds the chain and the key
    if properties.get("ssl.endpoint.identification.algorithm") == "":
        options["ssl_check_hostname"] = False
    for word in ("username", "password"):
        if match := re.search(rf'\b{word}="((?:[^"\\]|\\.)*)"', properties.get("sasl.jaas.config", "")):
            options[f"sasl_plain_{word}"] = re.sub(r"\\(.)", r"\1", match[1])
    return options


def make_topics(bootstrap: str, names: list[str], partitions: int, properties: Mapping[str, str]) -> None:
    """Make topics that are not there yet, with as many replicas as there are brokers, at most three.

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
            configuration = {"min.insync.replicas": str(max(1, replicas - 1)), "retention.ms": "-1"}
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
