"""Kafka's clients, with one file of properties for all three: Spark's (Java), kafka-python and librdkafka.

``KAFKA_PROPERTIES`` names a file in Java's format, the one that Kafka's own tools take with ``--command-config``:

    security.protocol=SASL_SSL
    sasl.mechanism=SCRAM-SHA-512
    sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="me" password="…";
    ssl.truststore.type=PEM
    ssl.truststore.location=/etc/kafka/ca.pem

Certificates must be PEM: that is what all three read. The passwords in it go to the clients and nowhere else.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import javaproperties
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from lib import paths
from lib.params import ParameterError

MAX_MESSAGE_BYTES = 8 << 20  # in our topics
ADMIN_SECONDS = 30
ANSWER_SECONDS = 5.0  # of one broker; in so many it also knows of a topic that the controller has made
ELECTION_SECONDS = 60.0  # until a partition of a broker that died has another leader
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
# Whether librdkafka sees more than the end of a connection depends on the moment.
CLOSED = " (as for a client without its SSL certificate, or connecting to a PLAINTEXT broker listener)"
HOST_NAME_CHECK = "ssl.endpoint.identification.algorithm"
OPTION_NAMES = {  # Java's: kafka-python's, librdkafka's
    "security.protocol": ("security_protocol", "security.protocol"),
    "sasl.mechanism": ("sasl_mechanism", "sasl.mechanism"),
    "ssl.truststore.location": ("ssl_cafile", "ssl.ca.location"),
    "ssl.keystore.location": ("ssl_certfile", "ssl.certificate.location"),
    "ssl.key.location": ("ssl_keyfile", "ssl.key.location"),
    "ssl.key.password": ("ssl_password", "ssl.key.password"),
    "username": ("sasl_plain_username", "sasl.username"),
    "password": ("sasl_plain_password", "sasl.password"),
    HOST_NAME_CHECK: ("ssl_check_hostname", HOST_NAME_CHECK),
}


class KafkaAuthError(ConnectionError):
    """A Kafka broker refuses the client, or is one that the client does not trust."""


def read_properties(path: Path | None) -> dict[str, str]:
    """Return the client properties in a file of Java's format; none without a file.

    Raises
    ------
    ParameterError
        When the file cannot be read.
    """
    if path is None:
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            properties = javaproperties.load(file)
    except (OSError, ValueError) as error:
        raise ParameterError(
            f"KAFKA_PROPERTIES must be a readable file. Got {paths.show(path)} ({error}). Check the path."
        ) from None
    # Java reads values in either case, kafka-python does not; names of another case nobody would.
    known = {name.lower(): name for name in (*OPTION_NAMES, "sasl.jaas.config")}
    properties = {known.get(name.lower(), name): value for name, value in properties.items()}
    for name in {"security.protocol", "sasl.mechanism"} & properties.keys():
        properties[name] = properties[name].upper()
    if properties.get("security.protocol", PROTOCOLS[0]) not in PROTOCOLS:
        raise ParameterError(
            f"security.protocol must be one of {', '.join(PROTOCOLS)}. Got {properties['security.protocol']}. "
            f"Correct it in {paths.show(path)}."
        )
    return properties


def for_spark(properties: Mapping[str, str]) -> dict[str, str]:
    """Return the properties as options of Spark's Kafka source and sink.

    Examples
    --------
    >>> for_spark({"security.protocol": "SSL"})
    {'kafka.security.protocol': 'SSL'}
    """
    return {f"kafka.{name}": value for name, value in properties.items()}


def for_python(properties: Mapping[str, str]) -> dict[str, Any]:
    """Return the properties as arguments of kafka-python's clients.

    Raises
    ------
    ParameterError
        When certificates are not PEM files, or the login is one that only Java can do.

    Examples
    --------
    >>> login = 'x.PlainLoginModule required username="me" password="a b";'
    >>> properties = {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.jaas.config": login}
    >>> options = for_python(properties)
    >>> options["sasl_plain_username"], options["sasl_plain_password"]
    ('me', 'a b')
    """
    return _translate(properties, 0)


def for_librdkafka(properties: Mapping[str, str]) -> dict[str, Any]:
    """Return the properties as the configuration of confluent-kafka's clients.

    Raises
    ------
    ParameterError
        As in :func:`for_python`.

    Examples
    --------
    >>> for_librdkafka({"security.protocol": "SSL", "ssl.endpoint.identification.algorithm": ""})
    {'security.protocol': 'SSL', 'ssl.endpoint.identification.algorithm': 'none'}
    """
    return _translate(properties, 1)


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
        With Kafka's own reason, when there is a broker that refuses the client, or one that it does not trust.
    ParameterError
        When the properties cannot be used.
    """
    errors, refusal = list[KafkaError](), ""
    admin, end = _admin(bootstrap, properties, error_cb=errors.append), time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not refusal:
        # It fails at once where a connection breaks: the next one may hold. It lists no broker while the controller has
        # not heard of them for some time.
        with contextlib.suppress(KafkaException):
            if admin.list_topics(timeout=left).brokers:
                return True
        admin.poll(0.1)
        refusal = "".join([text for text in map(KafkaError.str, errors) if re.search("SSL|SASL", text)][-1:])
    if refusal:
        refusal += CLOSED * ("closed by peer" in refusal and "PLAINTEXT" not in refusal)
        raise KafkaAuthError(
            f"KAFKA_PROPERTIES must describe a client that Kafka at {bootstrap} trusts, and that trusts it. "
            f"Got: {refusal}. Correct user, password, certificates or protocol there."
        )
    return False


def make_topics(bootstrap: str, names: Sequence[str], partitions: int, properties: Mapping[str, str]) -> None:
    """Make the topics that are not there yet, with as many replicas as there are brokers, at most three.

    Parameters
    ----------
    bootstrap : str
        ``host:port``, or several with commas.
    names : sequence of str
        The topics.
    partitions : int
        Of each new one.
    properties : mapping
        Kafka client properties.

    Raises
    ------
    ConnectionError
        When no broker answers, or the topics may not be made.
    """
    admin = _admin(bootstrap, properties)
    try:
        cluster = admin.list_topics(timeout=ADMIN_SECONDS)
        replicas = min(3, len(cluster.brokers))
        config = {
            "min.insync.replicas": str(max(1, replicas - 1)),
            "retention.ms": "-1",
            "cleanup.policy": "delete",
            "max.message.bytes": str(MAX_MESSAGE_BYTES),
        }
        missing = [name for name in names if name not in cluster.topics]
        new = [NewTopic(name, partitions, replicas, config=config) for name in missing]
        for made in admin.create_topics(new).values() if new else ():
            made.result()
    except KafkaException as error:
        raise ConnectionError(
            f"Kafka at {bootstrap} must let topics be made. Got: {error.args[0].str()}."
        ) from None


def topic_id(bootstrap: str, name: str, properties: Mapping[str, str]) -> str:
    """Return the id of a topic, which another one of the same name does not have; empty if there is no such topic."""
    admin, start = _admin(bootstrap, properties), time.monotonic()
    while True:
        try:
            described = admin.describe_topics(TopicCollection([name]), request_timeout=ANSWER_SECONDS)
            return str(described[name].result().topic_id)
        except KafkaException as error:  # also of a broker that has just died
            is_unknown = error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
            if time.monotonic() - start >= (ANSWER_SECONDS if is_unknown else ELECTION_SECONDS):
                if is_unknown:
                    return ""
                raise ConnectionError(f"Kafka must describe the topic {name}. Got: {error}.") from None
        time.sleep(0.2)


def offset_ranges(bootstrap: str, name: str, properties: Mapping[str, str]) -> dict[int, tuple[int, int]]:
    """Return the first offset of each partition of a topic, and the one after its last."""
    options = {"bootstrap.servers": bootstrap, "group.id": "wikisieve", "log_level": 0}
    consumer, end = Consumer(options | for_librdkafka(properties)), time.monotonic() + ELECTION_SECONDS
    with contextlib.closing(consumer):
        while True:
            try:
                topic = consumer.list_topics(name, ADMIN_SECONDS).topics[name]
                if topic.error:
                    raise KafkaException(topic.error)
                partitions = sorted(topic.partitions)
                places = [TopicPartition(name, number) for number in partitions]
                ranges = [consumer.get_watermark_offsets(place, ADMIN_SECONDS) for place in places]
                return dict(zip(partitions, ranges, strict=True))
            except KafkaException as error:  # of a broker that died, until another one leads its partitions
                if time.monotonic() >= end:
                    raise ConnectionError(f"Kafka must have the topic {name}. Got: {error}.") from None
                time.sleep(0.5)


def is_compacted(bootstrap: str, name: str, properties: Mapping[str, str]) -> bool:
    """Return whether Kafka deletes all but the last record of each key of a topic; False where that cannot be read."""
    admin, resource = _admin(bootstrap, properties), ConfigResource(ResourceType.TOPIC, name)
    try:
        config = admin.describe_configs([resource])[resource].result(ADMIN_SECONDS)
        return "compact" in config["cleanup.policy"].value
    except KafkaException:
        return False


def _admin(bootstrap: str, properties: Mapping[str, str], **options: Any) -> AdminClient:
    # Without a log level librdkafka writes every failed connection to the terminal.
    options |= {"bootstrap.servers": bootstrap, "log_level": 0}
    return AdminClient({**for_librdkafka(properties), **options})


def _translate(properties: Mapping[str, str], column: int) -> dict[str, Any]:
    """Return the properties under another client's names."""
    options: dict[str, Any] = {**properties, **_login(properties)}
    for store in ("ssl.truststore", "ssl.keystore"):
        kind, location = options.get(f"{store}.type", ""), options.get(f"{store}.location", "")
        is_set = any(name.startswith(f"{store}.") for name in options)
        if is_set and not (kind.upper() == "PEM" and Path(location).is_file()):
            raise ParameterError(
                f"{store}.location must be a readable PEM file, with {store}.type=PEM: all clients read that. "
                f"Got {location!r} and {kind!r}. Turn the store into PEM (keytool, openssl), or correct its path."
            )
    if "ssl.keystore.location" in options:
        options["ssl.key.location"] = options["ssl.keystore.location"]  # the file holds the chain and the key
    if options.pop(HOST_NAME_CHECK, "https") == "":
        options[HOST_NAME_CHECK] = (False, "none")[column]  # where Java has an empty text
    return {names[column]: options[name] for name, names in OPTION_NAMES.items() if name in options}


def _login(properties: Mapping[str, str]) -> dict[str, str]:
    """Return user and password from what Java's login modules read; no message shows that text."""
    if not properties.get("security.protocol", "").startswith("SASL_"):
        return {}
    login = {}
    for name in ("username", "password"):
        option = rf'\b{name}\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))'
        match = re.search(option, properties.get("sasl.jaas.config", ""))
        if match is None:
            raise ParameterError(
                'sasl.jaas.config must be MODULE required username="…" password="…"; as for PLAIN and SCRAM. '
                f"Got no {name} that can be read. Use a Kafka user with a password, in quotation marks."
            )
        login[name] = match[2] or re.sub(r"\\(.)", r"\1", match[1])
    return login
