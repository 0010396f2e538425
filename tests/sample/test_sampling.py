"""The sample over a real socket into a real Spark: whole, the same each time, and honest about a relay that breaks."""

import _thread
import json
import socket
import threading

import pyarrow as pa
import pytest
import xxhash

from lib import artifacts, events
from lib.sample import edits_csv, sampling
from lib.sample.tally import Tally
from lib.stream import recording, relay

HOSTILE = [
    None,
    "",
    "~2026-12345-67",
    "Müller, Jr.",
    'the "quoted"',
    "two\nlines",
    "DOS\r\nlines",
    "old\rMac",
    "🦊🏽\u200d",
    "\u200fعربي",
    "nul\0inside",
    " blanks ",
    "=HYPERLINK(1)",
    "back\\slash",
    "{'$relay': 1}",
]


def event(user="Ada", kind="edit", number=0, **fields):
    content = {
        "meta": {"dt": f"2015-09-12T00:46:{number % 60:02d}.771Z", "id": f"id-{number}"},
        "type": kind,
        "user": user,
        "title": user,
        "comment": user,
        "wiki": "enwiki",
        "namespace": 0,
        "bot": False,
    }
    return json.dumps({**content, **fields}, ensure_ascii=number % 2 == 0).encode()


def bucket(user):
    """Spark's pmod(xxhash64(user), 100): xxHash64 with seed 42, as a signed number; null is the seed itself."""
    if user is None:
        return 42
    unsigned = xxhash.xxh64_intdigest(user.encode(), seed=42)
    return (unsigned - (unsigned >> 63 << 64)) % 100


CROWD = [event(f"user {number % 40}", number=number, bot=number % 40 == 0) for number in range(200)]
NOISE = [
    event(number=201, kind="log"),
    event(number=202, kind="categorize"),
    b'{"meta": {"domain": "canary"}, "type": 7}',
    b"not JSON",
    b'{"meta": {"dt": "2015-09-12T00:00:00Z"}, "user": "broken \xff"}',
    b'{"meta": {"dt": "2015-09-12T00:00:00Z"},\r"type": "log"}',
    b'{"$relay": {"end": true, "events": 0}}',
]


class ScriptedRelay:
    """A server whose n-th client is sent the n-th script; the last script is for all clients after it."""

    def __init__(self, *scripts, port=0):
        self.scripts = list(scripts)
        self.server = socket.create_server(("127.0.0.1", port))
        self.address = "{}:{}".format(*self.server.getsockname())
        self.held = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            client.sendall(b"".join(line + b"\n" for line in script))
            if script[-1] == relay.ALIVE:
                self.held.append(client)
            else:
                client.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.close()
        for client in self.held:
            client.close()


@pytest.fixture
def in_dir(tmp_path):
    """Fill a folder of stage 1."""
    folder = tmp_path / "stream"
    folder.mkdir()

    def fill(*lines):
        recording.write_segment(folder / recording.segment_name(1), lines)
        return folder

    return fill


def whole(lines):
    return [*lines, relay.end_line(len(lines))]


def sample_of(spark, folder, percent, out_dir):
    with relay.Relay(folder) as server:
        return sampling.take(spark, server.address, percent, out_dir, seed=0)


def read(sample):
    return [row for path in sample.files for row in edits_csv.rows_by_python(path)]


# What is kept


@pytest.mark.slow
def test_all_edits_of_some_users_and_none_of_the_others(spark, in_dir, tmp_path):
    folder, out_dir = in_dir(*CROWD, *NOISE), tmp_path / "sample"
    sample = sample_of(spark, folder, 20, out_dir)
    chosen = {user for user in (f"user {number}" for number in range(40)) if bucket(user) < 20}
    expected = [events.decode(line).user for line in CROWD if events.decode(line).user in chosen]
    assert [row[events.COLUMNS.index("user")] for row in read(sample)] == expected
    assert sample.balance() == {
        "relay_sent": 207,
        "edits_kept": 5 * len(chosen),
        "edits_left_out": 200 - 5 * len(chosen),
        "not_edits": 3,
        "canaries": 1,
        "invalid": 3,
    }
    assert sample.balances() and sample.books().endswith(" + 3 + 1 + 3 = 207: the books balance.")
    told = artifacts.read(out_dir, "notebooks/02_sample.ipynb")
    assert {name: told[name] for name in ("percent", "events_read", "edits_read", "edits_kept")} == {
        "percent": 20,
        "events_read": 207,
        "edits_read": 200,
        "edits_kept": 5 * len(chosen),
    }
    assert (told["users_read"], told["users_kept"], told["complete"]) == (40, len(chosen), True)
    letters = [json.loads(line) for line in (out_dir / "dead_letters.jsonl").read_text().splitlines()]
    assert [letter["raw"].strip()[:9] for letter in letters] == ["not JSON", '{"meta": ', '{"$relay"']
    assert told["files"] == {
        path.name: artifacts.sha256(path) for path in out_dir.iterdir() if path.name in told["files"]
    }
    assert sorted(path.name for path in out_dir.iterdir()) == [
        "dead_letters.jsonl",
        "edits-00000.csv",
        "manifest.json",
    ]


@pytest.mark.slow
def test_hostile_text_survives_the_socket_spark_and_the_csv(spark, in_dir, tmp_path):
    lines = [event(user, number=number) for number, user in enumerate(HOSTILE)]
    sample = sample_of(spark, in_dir(*lines), 100, tmp_path / "sample")
    (path,) = sample.files
    table = events.parse(lines).edits
    assert edits_csv.rows_by_spark(spark, path) == list(edits_csv.rows(table))
    plain = [tuple(cell or "" for cell in row) for row in edits_csv.rows(table)]
    assert edits_csv.rows_by_python(path) == edits_csv.rows_by_pandas(path) == plain
    assert sample.counts["users_read"] == len(HOSTILE) - 1
    assert sample.counts["edits_without_user_read"] == sample.counts["edits_without_user_kept"] == 1


@pytest.mark.slow
def test_running_again_replaces_the_sample_by_the_same(spark, in_dir, tmp_path):
    out_dir = tmp_path / "sample"
    out_dir.mkdir()
    (out_dir / "edits-00007.csv").write_text("an older, larger sample")
    with ScriptedRelay(
        whole(CROWD), [relay.ALIVE, *CROWD[:7], relay.ALIVE, *CROWD[7:], relay.end_line(200)]
    ) as server:
        first = sampling.take(spark, server.address, 20, out_dir)
        content = [path.read_bytes() for path in first.files]
        again = sampling.take(spark, server.address, 20, out_dir)
    assert again.files == first.files == [out_dir / "edits-00000.csv"]
    assert [path.read_bytes() for path in again.files] == content
    assert again.users.sort_by("user").equals(first.users.sort_by("user"))


def test_spark_hashes_as_the_reference_does(spark):
    table = selected(spark, [event(user, number=n) for n, user in enumerate(HOSTILE)], 20)
    assert table["bucket"].to_pylist() == [bucket(user) for user in HOSTILE]
    assert table["kept"].to_pylist() == [bucket(user) < 20 for user in HOSTILE]


@pytest.mark.parametrize(("percent", "kept"), [(42, False), (43, True), (100, True)])
def test_edits_without_a_user_follow_sparks_rule_for_null(spark, percent, kept):
    assert selected(spark, [event(None)], percent)["kept"].to_pylist() == [kept]


def selected(spark, lines, percent):
    frame = spark.createDataFrame([(line.decode(),) for line in lines], "value string").coalesce(1)
    table = sampling.select(frame, percent).toArrow().sort_by("place")
    return table.filter(pa.compute.equal(table["kind"], "edit"))


@pytest.mark.parametrize("percent", [0, 101, -20])
def test_percent_outside_1_to_100_is_an_error(spark, percent):
    with pytest.raises(ValueError, match=rf"PERCENT must be from 1 to 100. Got {percent}."):
        sampling.select(spark.createDataFrame([], "value string"), percent)


def test_how_spark_cuts_its_batches_changes_nothing(tmp_path):
    lines = [*CROWD, *NOISE[:4], relay.end_line(204)]
    outcomes = [
        tallied(tmp_path / f"cuts {len(cuts)}", lines, cuts) for cuts in ([205], [1] * 205, [0, 100, 0, 105])
    ]
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert outcomes[0][0]["events_read"] == 204


def tallied(folder, lines, cuts):
    folder.mkdir()
    tally, start = Tally(folder, 20), 0
    for cut in cuts:
        rows = sampling.rows(lines[start : start + cut], list(range(start, start + cut)))
        tally.add(marked(rows, 20))
        start += cut
    files = tally.close()
    assert (tally.over, tally.relay_sent) == (True, tally.events)
    return tally.counts(), sorted(tally.users.to_pylist(), key=str), [path.read_bytes() for path in files]


def marked(table, percent):
    """Do what Spark does to the rows: the bucket, and whether it is kept."""
    buckets = pa.array([bucket(user) for user in table["user"].to_pylist()], pa.int64())
    kept = pa.compute.and_(pa.compute.equal(table["kind"], "edit"), pa.compute.less(buckets, percent))
    return table.append_column("bucket", buckets).append_column("kept", kept)


# What breaks


@pytest.mark.slow
def test_a_relay_that_breaks_off_is_read_again_from_the_start(spark, tmp_path):
    told = []
    with ScriptedRelay(CROWD[:120], whole(CROWD)) as server:
        sample = sampling.take(spark, server.address, 100, tmp_path, say=told.append)
    assert [row[0] for row in read(sample)] == [f"id-{number}" for number in range(200)]
    assert sample.complete and sample.balances()
    assert sample.troubles == ("its connection closed before its end line",)
    assert told == [
        f"Reading the relay at {server.address} broke off: {sample.troubles[0]}. Attempt 2 of 5 begins anew."
    ]


@pytest.mark.slow
def test_a_relay_that_is_not_there_yet_is_waited_for(spark, tmp_path):
    late = []
    with socket.create_server(("127.0.0.1", 0)) as place:
        address = "{}:{}".format(*place.getsockname())
    port = int(address.rpartition(":")[2])
    sample = sampling.take(
        spark, address, 100, tmp_path, say=lambda _: late.append(ScriptedRelay(whole(CROWD), port=port))
    )
    with late[0]:
        assert sample.counts["edits_kept"] == 200
        assert sample.troubles == ("Connection refused",)


def test_a_relay_that_never_answers_ends_in_one_sentence_and_an_older_sample_stays(spark, tmp_path):
    (tmp_path / "edits-00000.csv").write_text("older")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(
        sampling.RelayLost, match=r"Got, after 1 attempts: Connection refused\. Start the relay"
    ):
        sampling.take(spark, "127.0.0.1:9", 20, tmp_path, attempts=1)
    assert (tmp_path / "edits-00000.csv").read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edits-00000.csv", "manifest.json"]


@pytest.mark.slow
def test_a_relay_whose_count_is_not_what_arrived_is_not_believed(spark, tmp_path):
    told = []
    with ScriptedRelay([*CROWD[:3], relay.end_line(5)], whole(CROWD[:5])) as server:
        sample = sampling.take(spark, server.address, 100, tmp_path, say=told.append)
    assert sample.troubles == ("it sent 5 events and 3 arrived",)
    assert sample.counts["edits_kept"] == 5


@pytest.mark.slow
def test_an_interrupt_leaves_the_sample_of_what_was_read(spark, tmp_path, monkeypatch):
    add, told = Tally.add, []

    def add_then_interrupt(tally, batch):
        add(tally, batch)
        if tally.events == len(CROWD):
            _thread.interrupt_main()

    monkeypatch.setattr(Tally, "add", add_then_interrupt)
    with ScriptedRelay([*CROWD, relay.ALIVE]) as server:
        sample = sampling.take(spark, server.address, 100, tmp_path, say=told.append)
    assert told == ["Interrupted after 200 events: the sample is of these."]
    assert (sample.complete, sample.relay_sent, sample.counts["edits_kept"]) == (False, None, 200)
    assert artifacts.read(tmp_path, "")["complete"] is False
    assert spark.streams.active == []


def test_a_full_disk_is_told_and_not_tried_again(spark, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Tally, "add", fail)
    with ScriptedRelay(whole(CROWD)) as server, pytest.raises(OSError, match="No space left on device"):
        sampling.take(spark, server.address, 20, tmp_path)
    assert not (tmp_path / "manifest.json").exists()


# What goes in


def test_a_missing_recording_names_the_notebook_that_makes_it(tmp_path):
    with pytest.raises(artifacts.MissingInput, match="Run notebooks/01_stream.ipynb first"):
        sampling.inputs(tmp_path / "nothing")


def test_a_damaged_recording_is_found_before_spark_starts(in_dir):
    folder = in_dir(*CROWD)
    path = folder / recording.segment_name(1)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(recording.RecordingError, match="breaks off"):
        sampling.inputs(folder)


def test_inputs_are_named_with_their_hashes(in_dir):
    folder = in_dir(*CROWD)
    name = recording.segment_name(1)
    assert sampling.inputs(folder) == {name: artifacts.sha256(folder / name)}
