"""The producer: killed and started again it neither skips nor repeats an event."""

import zlib
from collections import Counter

import msgspec
import pytest
import streams
import world
from kafka.admin import KafkaAdminClient

from lib import events
from lib.online import excerpt, producer
from lib.online.sender import ProducerError, Sender
from lib.replay import server as replay
from lib.stream import client


@pytest.fixture
def topic(kafka, request):
    name = f"events-{abs(hash(request.node.nodeid))}"
    kafka.make_topics(kafka.bootstrap, [name], 3, {})
    return name


@pytest.fixture(scope="module")
def raws():
    return world.make_events()


def order(kafka, topic, url, **more):
    return producer.Order(kafka.bootstrap, topic, 3, url, "a recording", **more)


def in_topic(kafka, topic):
    return Counter(message.value for message in world.messages(kafka.bootstrap, topic))


def unlike(raws):
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


def test_everything_is_in_the_topic_once(kafka, topic, raws):
    with replay.Server(raws, canary_seconds=0) as server:
        report = producer.Producer(order(kafka, topic, server.url)).run()
    assert in_topic(kafka, topic) == unlike(raws)
    assert report.sent == unlike(raws).total() and not report.resumed
    assert report.duplicates == len(raws) - report.sent


@pytest.mark.parametrize("step", [7, 100, 10_000])
def test_a_producer_that_ends_anywhere_is_followed_by_one_that_goes_on(kafka, topic, raws, monkeypatch, step):
    monkeypatch.setattr(producer, "STEP", step)
    with replay.Server(raws, canary_seconds=0) as server:
        for most in (1, 5, 300, 40, 0):
            report = producer.Producer(order(kafka, topic, server.url, max_events=most)).run()
    assert report.resumed
    assert in_topic(kafka, topic) == unlike(raws)


def test_what_comes_again_because_we_went_back_is_no_duplicate(kafka, topic, raws, monkeypatch):
    monkeypatch.setattr(producer, "STEP", 50)
    wikis = [raw.replace(b'"enwiki"', b'"dewiki"') if zlib.crc32(raw) % 3 else raw for raw in raws]
    with replay.Server(wikis, canary_seconds=0) as server:
        reports = [
            producer.Producer(order(kafka, topic, server.url, max_events=most, wikis=("enwiki",))).run()
            for most in (100, 100, 0)
        ]
    once = unlike([raw for raw in wikis if b"dewiki" not in raw])
    assert in_topic(kafka, topic) == once
    assert sum(report.duplicates for report in reports) <= len(wikis) - unlike(wikis).total()


def test_duplicates_are_the_same_number_however_the_stream_is_cut(kafka, topic, raws):
    position, reports = None, []
    with replay.Server(raws, canary_seconds=60) as server:
        for most in (100, 1, 250, 40, 0):
            given_ = order(kafka, topic, server.url, max_events=most, position=position)
            reports.append(producer.Producer(given_).run())
            position = reports[-1].position
    assert in_topic(kafka, topic) == unlike(raws)
    assert sum(report.duplicates for report in reports) == len(raws) - unlike(raws).total() > 0


def test_one_that_dies_in_the_middle_is_followed_by_one_that_goes_on(kafka, topic, raws, monkeypatch):
    place, sent = producer.Producer._place, Counter()

    def dies(self, item):
        sent["n"] += 1
        if sent["n"] in (150, 600):
            raise SystemExit
        return place(self, item)

    monkeypatch.setattr(producer.Producer, "_place", dies)
    monkeypatch.setattr(producer, "STEP", 50)
    with replay.Server(raws, canary_seconds=0) as server:
        for _ in range(2):
            with pytest.raises(SystemExit):
                producer.Producer(order(kafka, topic, server.url)).run()
        producer.Producer(order(kafka, topic, server.url)).run()
    assert in_topic(kafka, topic) == unlike(raws)


def test_a_user_s_events_are_in_one_partition_and_in_order(kafka, topic, raws):
    with replay.Server(raws, canary_seconds=0) as server:
        producer.Producer(order(kafka, topic, server.url)).run()
    partition, order_of = {}, {}
    for message in world.messages(kafka.bootstrap, topic):
        if message.key is not None:
            assert partition.setdefault(message.key, message.partition) == message.partition
            order_of.setdefault(message.key, []).append(message.value)
    place = {raw: number for number, raw in reversed(list(enumerate(raws)))}
    for values in order_of.values():
        assert [place[value] for value in values] == sorted(place[value] for value in values)


def test_positions_of_another_stream_are_not_gone_on_from(kafka, topic, raws):
    with replay.Server(raws, canary_seconds=0) as server:
        producer.Producer(order(kafka, topic, server.url)).run()
        other = msgspec.structs.replace(order(kafka, topic, server.url), source="another", max_events=3)
        assert not producer.Producer(other).run().resumed


def test_the_process_reports_what_it_did_and_what_it_cannot(kafka, topic):
    with replay.Server(streams.make_events(20), canary_seconds=0) as server:
        with Sender(order(kafka, topic, server.url)) as sender:
            while not sender.done:
                sender.check()
        assert sender.report.sent == 20 and "over" in sender.report.ended
        wrong = order(kafka, topic, server.url.replace("recentchange", "nothing"))
        with Sender(wrong) as sender, pytest.raises(ProducerError, match="status 404"):
            while True:
                sender.check()


def test_an_event_that_is_too_long_for_kafka_goes_as_its_beginning_and_once(kafka, topic, raws, monkeypatch):
    monkeypatch.setattr(kafka, "largest", lambda *_: 90_000)
    long = [
        raws[0].replace(b'"id 0"', b'"long"')[:-1] + b', "n": "%b"}' % (b"x" * 90_000),
        raws[0].replace(b'"id":', b'"no":') + b" " * 90_000,
    ]
    with replay.Server([*raws[1:20], *long, *raws[20:40]], canary_seconds=0) as server:
        for most in (19, 5, 0):
            producer.Producer(order(kafka, topic, server.url, max_events=most)).run()
    cut = [excerpt.unpack(raw, "?") for raw in in_topic(kafka, topic).elements() if raw.startswith(b"\0")]
    assert sorted(raw for raw, _ in cut) == sorted(raw[: excerpt.LONGEST] for raw in long)
    assert {reason.split(" ", 1)[1] for _, reason in cut} == {
        "bytes are too many for Kafka, which takes 90000; the beginning"
    }


def test_a_report_may_be_longer_than_a_pipe_holds(kafka, topic):
    others = [streams.event(n, wiki="dewiki", meta={"id": f"{n:06d}" * 10}) for n in range(2_000)]
    with replay.Server([streams.event(0), *others], canary_seconds=0) as server:
        given = order(kafka, topic, server.url, wikis=("enwiki",))
        with Sender(given) as sender:
            while not sender.done:
                sender.check()
    assert sender.report.sent == 1 and len(sender.report.position["remembered"]) == 2_000


def test_topics_are_made_once(kafka, topic):
    assert kafka.max_message_bytes(kafka.bootstrap, topic, {}) == kafka.MAX_MESSAGE_BYTES
    assert kafka.max_message_bytes(kafka.bootstrap, "no-such-topic", {}) == kafka.DEFAULT_MAX_MESSAGE_BYTES
    kafka.make_topics(kafka.bootstrap, [topic], 3, {})
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    assert topic in admin.list_topics()
    admin.close()


def test_stages_1_and_4_count_the_same_invalid_and_duplicate_events(tmp_path):
    empty = b'{"meta": {"dt": "2015-09-12T20:00:00Z", "id": ""}, "type": "edit", "user": "x"}'
    recording = world.record(tmp_path / "day.jsonl", [*world.make_events(), *[b"not JSON"] * 5, *[empty] * 3])
    found = []
    for kind in (client.EventStreamClient, producer.KeyedStream):
        with replay.serve(recording, "--canaries", "0") as server:
            stream = kind(server.url)
            assert sum(1 for _ in stream) == stream.counts.events + stream.counts.invalid
            found.append((stream.counts.events, stream.counts.invalid, stream.counts.duplicates))
    assert found[0] == found[1] and found[0][1] > 20
