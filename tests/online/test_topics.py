"""The producer: killed and started again it skips nothing, and what it repeats has the same id."""

import zlib
from collections import Counter
from threading import Timer

import pytest
import world
from kafka import KafkaProducer

from lib import events
from lib.infra import kafka as clients
from lib.online import topics
from lib.online.state import StateStore
from lib.replay import server as replay
from lib.stream.client import EventStreamClient


@pytest.fixture
def publish(kafka, tmp_path, request):
    """One run of a producer that continues where the last one was; ``publish.found`` is what is in the topic."""
    topic = f"events-{abs(hash(request.node.nodeid))}"
    clients.make_topics(kafka.bootstrap, [topic], 3, {})

    def run(url, max_events=0, **options):
        client = EventStreamClient(url, yield_idle=True, position=state.get_meta("position"), **options)
        out = KafkaProducer(bootstrap_servers=kafka.bootstrap)
        try:
            topics.Publisher(client, out, topic, state).run(max_events)
        finally:
            out.close()

    run.found = lambda: world.messages(kafka.bootstrap, topic)
    with StateStore(tmp_path) as state:
        run.state = state
        yield run


def values(messages):
    return Counter(message.value for message in messages)


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


@pytest.mark.parametrize("flush", [7, 10_000])
def test_a_producer_that_ends_anywhere_is_followed_by_one_that_continues(publish, raws, monkeypatch, flush):
    monkeypatch.setattr(topics, "FLUSH_EVENTS", flush)
    with replay.Server(raws) as server:
        for most in (1, 5, 300, 40, 0):
            publish(server.url, most)
    assert values(publish.found()) == once(raws)
    assert publish.state.get_meta("stream_duplicates") == len(raws) - once(raws).total()


def test_only_the_wikis_that_are_asked_for_are_sent_however_it_is_cut(publish, raws):
    wikis = [raw.replace(b'"enwiki"', b'"dewiki"') if zlib.crc32(raw) % 3 else raw for raw in raws]
    with replay.Server(wikis) as server:
        for most in (100, 100, 0):
            publish(server.url, most, wikis=("enwiki",))
    assert values(publish.found()) == once([raw for raw in wikis if b"dewiki" not in raw])


def test_one_that_dies_is_followed_by_one_that_repeats_under_the_same_ids(publish, raws, monkeypatch):
    sent = Counter()

    def dies(self, *arguments, **options):
        sent["n"] += 1
        if sent["n"] in (150, 600):
            raise SystemExit
        return send(self, *arguments, **options)

    send = KafkaProducer.send
    monkeypatch.setattr(KafkaProducer, "send", dies)
    monkeypatch.setattr(topics, "FLUSH_EVENTS", 50)
    with replay.Server(raws) as server:
        for _ in range(2):
            with pytest.raises(SystemExit):
                publish(server.url)
        publish(server.url)
    ids = {}
    for message in publish.found():
        header = dict(message.headers).get(topics.ID_HEADER)
        ids[header or events.decode(message.value).meta.id] = message.value
    assert Counter(ids.values()) == once(raws)


def test_a_user_s_events_are_in_one_partition_and_in_order(publish, raws):
    with replay.Server(raws) as server:
        publish(server.url)
    partition, order_of = {}, {}
    for message in publish.found():
        if message.key is not None:
            assert partition.setdefault(message.key, message.partition) == message.partition
            order_of.setdefault(message.key, []).append(message.value)
    place = {raw: number for number, raw in reversed(list(enumerate(raws)))}
    for sent in order_of.values():
        assert [place[value] for value in sent] == sorted(place[value] for value in sent)


def test_a_topic_that_a_broker_does_not_know_yet_has_an_id_and_partitions(kafka):
    """Kafka says that a topic is made as soon as its controller has it; the brokers hear of it afterwards."""
    news = Timer(1, clients.make_topics, (kafka.bootstrap, ["late", "later"], 2, {}))
    news.start()
    assert (
        clients.topic_id(kafka.bootstrap, "late", {}) == clients.topic_id(kafka.bootstrap, "late", {}) != ""
    )
    assert clients.offset_ranges(kafka.bootstrap, "later", {}) == {0: (0, 0), 1: (0, 0)}
    news.join()
