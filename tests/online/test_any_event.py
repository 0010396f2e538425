"""Whatever `events.decode` accepts goes through the producer, the query, a resume, and all that is shown of it."""

import json
from datetime import UTC

import matplotlib.pyplot as plt
import world
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib import events
from lib.online import cards, drift, metrics, plots
from lib.online.run import OnlineJob

INT64 = st.integers(-(2**63), 2**63 - 1)
SIZE = st.integers(0, 2**63 - 1)
NAME = st.text(max_size=40) | st.text(min_size=990, max_size=1000)
TEXT = NAME | st.integers(2_000, 900_000).map(lambda n: "x<b>\u202e" * (n // 5))
FIELDS = st.fixed_dictionaries(
    {"type": st.sampled_from(["edit", "new", "log", "categorize", ""])},
    optional={
        "user": st.none() | st.sampled_from(["Ada", "AnyBot"]) | NAME,
        "title": NAME,
        "comment": TEXT,
        "wiki": NAME,
        "namespace": INT64,
        "timestamp": INT64,
        "delta": INT64,
        "length": st.fixed_dictionaries({}, optional={"old": SIZE, "new": SIZE}),
        "bot": st.booleans(),
        "minor": st.booleans(),
        "id": st.integers(),
    },
)
META = st.fixed_dictionaries(
    {"dt": st.datetimes(timezones=st.just(UTC)).map(lambda time: time.isoformat())},
    optional={"id": NAME, "topic": st.sampled_from("ab"), "offset": INT64, "partition": INT64},
)


def drawn(n):
    """Events that hypothesis thinks of, each id once, by time: a stream is resumed by time."""
    found = {}

    @settings(max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(META, FIELDS)
    def draw(meta, fields):
        raw = json.dumps({"meta": meta, **fields}).encode()
        try:
            event = events.decode(raw)
            found[event.meta.id or raw] = raw, event
        except events.InvalidEvent:
            pass  # such as half of a surrogate pair

    draw()
    return sorted(found.values(), key=lambda pair: pair[1].time_ms)


def test_any_event_is_judged_once_and_can_be_shown(here, model_dir, tmp_path):
    found = drawn(300)
    recording = world.record(tmp_path / "day.jsonl", [raw for raw, _ in found])
    found_metrics = world.judge(tmp_path / "out", model_dir, recording, (50, 0), **here)
    keys = {events.event_key(raw, event) for raw, event in found if event.is_edit}
    assert {row[0] for row in world.rows(tmp_path / "out")} == keys
    assert len(keys) > 50 and found_metrics["invalid"] == 0
    with OnlineJob(tmp_path / "out", model_dir, bootstrap=here["bootstrap"], resume=True) as job:
        cards.write(tmp_path / "out", job.state.ledger, job.events.texts)
        data = metrics.load_verdicts(tmp_path / "out")
        for card in cards.pick_examples(cards.load(tmp_path / "out"), data):
            assert "<b>" not in card._repr_html_()
    drift.report(tmp_path / "out", model_dir, data)
    plots.compare(data, {"wikisieve": data["stopped"]})
    for figure in (plots.over_time(data), plots.stopped_so_far(data, {"wikisieve": data["stopped"]})):
        figure.canvas.draw()
        plt.close(figure)
