"""The producer: killed and started again it skips nothing, and what it repeats has the same id."""

import zlib
from collections import Counter

import pytest
import world
from kafka import KafkaProducer

from lib import events
from lib.infra import kafka as clients
from lib.online import producer
from lib.online.state import StateStore
from lib.replay import server as replay
from lib.stream.client import EventStreamClient


@pytest.fixture
def topic(kafka, request):
    name = f"events-{abs(hash(request.node.nodeid))}"
    clients.make_topics(kafka.bootstrap, [name], 3, {})
    return name


@pytest.fixture
def state(tmp_path):
    with StateStore(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def raws():
    return world.make_events()


def publish(kafka, topic, url, state, max_events=0, limit=clients.MAX_MESSAGE_BYTES, **options):
    """One run of a producer that continues where the last one was."""
    client = EventStreamClient(
        url,
        yield_idle=True,
        position=state.get_meta("position"),
        **options,
    )
    out = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    try:
        producer.Publisher(client, out, topic, state, limit).run(max_events)
    finally:
        out.close()
    return client


def in_topic(kafka, topic):
    return Counter(message.value for message in world.messages(kafka.bootstrap, topic))


def once(raws):
    """What the stream gives of some events: duplicates by meta.id once."""
    found, seen = Counter(), set()
    for raw in raws:
        try:
            name = events.decode(raw).meta.id
        except events.InvalidEvent:
            name = None
        if name is None or name not in seen:
            found[raw] += 1
        seen.add(name)
    return found


@pytest.mark.parametrize("flush", [7, 100, 10_000])
def test_a_producer_that_ends_anywhere_is_followed_by_one_that_continues(
    kafka, topic, state, raws, monkeypatch, flush
):
    monkeypatch.setattr(producer, "FLUSH_EVENTS", flush)
    with replay.Server(raws, canary_seconds=0) as server:
        for most in (1, 5, 300, 40, 0):
            publish(kafka, topic, server.url, state, most)
    assert in_topic(kafka, topic) == once(raws)
    assert state.get_meta("stream_duplicates") == len(raws) - once(raws).total()


def test_only_the_wikis_that_are_asked_for_are_sent_however_it_is_cut(kafka, topic, state, raws):
    wikis = [raw.replace(b'"enwiki"', b'"dewiki"') if zlib.crc32(raw) % 3 else raw for raw in raws]
    with replay.Server(wikis, canary_seconds=0) as server:
        for most in (100, 100, 0):
            publish(kafka, topic, server.url, state, most, wikis=("enwiki",))
    assert in_topic(kafka, topic) == once([raw for raw in wikis if b"dewiki" not in raw])


def test_one_that_dies_is_followed_by_one_that_repeats_under_the_same_ids(
    kafka, topic, state, raws, monkeypatch
):
    sent = Counter()

    def dies(self, event):
        sent["n"] += 1
        if sent["n"] in (150, 600):
            raise SystemExit
        return send(self, event)

    send = producer.Publisher._send
    monkeypatch.setattr(producer.Publisher, "_send", dies)
    monkeypatch.setattr(producer, "FLUSH_EVENTS", 50)
    with replay.Server(raws, canary_seconds=0) as server:
        for _ in range(2):
            with pytest.raises(SystemExit):
                publish(kafka, topic, server.url, state)
        publish(kafka, topic, server.url, state)
    ids = {}
    for message in world.messages(kafka.bootstrap, topic):
        header = dict(message.headers).get(producer.ID_HEADER)
        ids[header or events.decode(message.value).meta.id] = message.value
    assert Counter(ids.values()) == once(raws)


def test_a_user_s_events_are_in_one_partition_and_in_order(kafka, topic, state, raws):
    with replay.Server(raws, canary_seconds=0) as server:
        publish(kafka, topic, server.url, state)
    partition, order_of = {}, {}
    for message in world.messages(kafka.bootstrap, topic):
        if message.key is not None:
            assert partition.setdefault(message.key, message.partition) == message.partition
            order_of.setdefault(message.key, []).append(message.value)
    place = {raw: number for number, raw in reversed(list(enumerate(raws)))}
    for values in order_of.values():
        assert [place[value] for value in values] == sorted(place[value] for value in values)


def test_an_event_that_is_too_long_for_kafka_is_sent_as_its_beginning(kafka, topic, state, raws):
    long = [
        raws[0].replace(b'"id 0"', b'"long"')[:-1] + b', "n": "%b"}' % (b"x" * 90_000),
        raws[0].replace(b'"id":', b'"no":') + b" " * 90_000,
    ]
    with replay.Server([*raws[1:20], *long, *raws[20:40]], canary_seconds=0) as server:
        for most in (19, 5, 0):
            publish(kafka, topic, server.url, state, most, limit=90_000)
    cut = {}
    for message in world.messages(kafka.bootstrap, topic):
        if reason := dict(message.headers).get(producer.REASON_HEADER):
            cut[message.value] = reason.decode().split(" ", 1)[1]
    assert sorted(cut) == sorted(raw[: producer.MAX_DEAD_LETTER_BYTES] for raw in long)
    assert set(cut.values()) == {"bytes are too many for Kafka, which takes 90000; the beginning"}


def test_topics_are_made_once(kafka, topic):
    assert clients.max_message_bytes(kafka.bootstrap, topic, {}) == clients.MAX_MESSAGE_BYTES
    assert (
        clients.max_message_bytes(kafka.bootstrap, "no-such-topic", {}) == clients.DEFAULT_MAX_MESSAGE_BYTES
    )
    clients.make_topics(kafka.bootstrap, [topic], 3, {})
