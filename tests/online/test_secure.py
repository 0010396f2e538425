"""Stage 4 with a Kafka that wants TLS and a password; the password itself is nowhere to be read afterwards."""

import logging

import pytest
import secure
import world
from pyspark.errors import StreamingQueryException

from lib.infra import InfraError, broker, kafka
from lib.infra.spark import log_file
from lib.online.run import OnlineJob
from lib.online.topics import VerdictTopic
from lib.replay import server as replay

pytestmark = pytest.mark.slow
WRONG = f"{secure.WORD}, please"
PATIENCE = 1.0  # seconds: so long a client that is refused tries again


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    with secure.SecureBroker(tmp_path_factory.mktemp("locked")) as running:
        yield running


@pytest.fixture(scope="module")
def properties(locked, tmp_path_factory):
    """Of a user who is let in, as read from a file."""
    path = locked.properties(tmp_path_factory.mktemp("client"), "SCRAM-SHA-256")
    return kafka.read_properties(path)


@pytest.fixture
def no_password(capfd, caplog):
    """See that neither password was printed, logged or is in a text that the test adds; at the end in Spark's log."""
    caplog.set_level(logging.DEBUG, "kafka")
    texts = []
    yield texts.append
    out, err = capfd.readouterr()
    log = log_file("tests")
    everything = [*map(str, texts), out, err, caplog.text, log.read_text() if log.exists() else ""]
    assert not [text for text in everything if secure.WORD in text]


def test_the_whole_stage_goes_through_tls_and_a_password(
    locked, properties, spark, model_dir, tmp_path, no_password
):
    raws = world.make_events()[:60]
    recording = world.record(tmp_path / "day.jsonl", raws)
    out = tmp_path / "out"
    with (
        replay.serve(recording) as server,
        OnlineJob(out, model_dir, bootstrap=locked.secure, properties=properties) as job,
    ):
        no_password(world.run(job, spark, world.client(job, server.url)))
        topics = job.topics["events"], job.topics["verdicts"]
    assert {message.value for message in world.messages(locked.bootstrap, topics[0])} == set(raws)
    keys = [message.key.decode() for message in world.messages(locked.bootstrap, topics[1])]
    assert sorted(keys) == sorted(row[0] for row in world.rows(out)) and len(keys) > 20
    files = [path for path in out.rglob("*") if path.is_file()]
    assert files and not [path for path in files if secure.WORD.encode() in path.read_bytes()]


@pytest.mark.parametrize("way", ["PLAIN", "SCRAM-SHA-256", "certificate"])
def test_one_file_serves_python_and_spark(locked, spark, tmp_path, no_password, way):
    where, path = locked.secure, None
    if way == "certificate":
        where, path = locked.mutual, locked.with_certificate(tmp_path, locked.mine)
    given = kafka.read_properties(path or locked.properties(tmp_path, way))
    topic = f"letters-{way}"
    kafka.make_topics(where, [topic], 2, given)
    verdicts = world.verdict_table(("A", True, "kept"), ("B", False, "kept"))
    VerdictTopic(where, topic, given).send(verdicts)
    reader = spark.read.format("kafka").options(**kafka.for_spark(given))
    found = reader.option("kafka.bootstrap.servers", where).option("subscribe", topic).load()
    assert sorted(bytes(row.key) for row in found.select("key").collect()) == [b"000", b"001"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_a_wrong_password_is_one_sentence_without_it(locked, tmp_path, no_password, mechanism):
    given = kafka.read_properties(locked.properties(tmp_path, mechanism, password=WRONG))
    sentence = "SASL authentication error.*Correct user, password"
    with pytest.raises(kafka.KafkaAuthError, match=sentence) as raised:
        broker.external(locked.secure, given, seconds=PATIENCE)
    no_password(raised.value)


def test_spark_names_what_is_wrong_without_the_password(locked, spark, tmp_path, no_password):
    kafka.make_topics(locked.bootstrap, ["closed"], 1, {})
    given = kafka.read_properties(locked.properties(tmp_path, "PLAIN", password=WRONG))
    reader = spark.readStream.format("kafka").options(**kafka.for_spark(given))
    source = reader.option("kafka.bootstrap.servers", locked.secure).option("subscribe", "closed").load()
    running = source.writeStream.format("noop").option("checkpointLocation", str(tmp_path / "log")).start()
    with pytest.raises(StreamingQueryException, match="Authentication failed") as raised:
        running.awaitTermination(60)
    running.stop()
    no_password(raised.value)


def test_a_client_that_is_not_trusted_or_does_not_trust_is_one_sentence(locked, properties, tmp_path):
    authority, other = secure.certificates(tmp_path / "other", "other")
    unsigned = locked.properties(tmp_path, "PLAIN", authority=str(authority))
    cases = [
        (locked.secure, kafka.read_properties(unsigned), "certificate (could not be verified|verify failed)"),
        (locked.bootstrap, properties, "connecting to a PLAINTEXT broker listener"),
    ]
    for store in (None, other):  # no certificate, or one that another authority signed
        given = kafka.read_properties(locked.with_certificate(tmp_path, store))
        cases.append((locked.mutual, given, "SSL.* certificate"))
    for bootstrap, given, sentence in cases:
        with pytest.raises(kafka.KafkaAuthError, match=sentence):
            broker.external(bootstrap, given, seconds=PATIENCE)
    with pytest.raises(InfraError, match="none answers.*set KAFKA_PROPERTIES if it needs TLS"):
        broker.external(locked.secure, seconds=PATIENCE)
