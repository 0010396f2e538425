import json

import pytest
from streams import event, make_events

from lib import events
from lib.replay import faults


def served(plan, lines):
    """Return what a stream sends of a recording under a plan."""
    return [*faults.stream(lines, faults.load(plan))]


def kinds(plan, lines):
    """Return the kind of every record that a plan makes of a recording."""
    seen, found = set(), []
    for record in served(plan, lines):
        try:
            read = events.decode(record.raw)
            found.append("canary" if read.is_canary else "again" if read.meta.id in seen else "event")
            seen.add(read.meta.id)
        except events.InvalidEvent:
            found.append("invalid")
    return found


def test_content_faults_stand_where_the_plan_says():
    plan = {"canary_seconds": 2, "malformed": {"at": [2]}, "duplicates": {"every": 3}}
    found = " ".join(kinds(plan, make_events(5)))
    assert found == "event event canary canary event invalid event again canary canary event"
    assert [record.raw for record in served({}, make_events(5))] == make_events(5)


def test_every_damaged_event_is_unreadable_and_fits_a_line():
    plan = {"malformed": {"every": 1}}
    for record in served(plan, make_events(8)):
        assert b"\n" not in record.raw and b"\r" not in record.raw
    assert kinds(plan, make_events(8)).count("invalid") == 7


def test_a_switch_moves_every_later_event():
    moved = served({"switch": {"at": [2]}}, make_events(4))
    assert [record.topic.partition(".")[0] for record in moved] == ["eqiad", "eqiad", "codfw", "codfw"]
    assert [json.loads(record.raw)["meta"]["topic"] for record in moved] == [record.topic for record in moved]


def test_what_cannot_be_read_has_the_time_of_its_neighbour():
    lines = [b"?", event(0), b"[1]", b'{"meta": {"dt": "soon"}}', event(1)]
    times = [record.time for record in faults.records(lines)]
    assert times[:4] == [times[1]] * 4
    assert times[4] == times[1] + 1000


@pytest.mark.parametrize("plan", ["cuts: 3", "cuts: {evry: 3}", "other: 1", "[1]", "gzip: maybe", "a: b: c"])
def test_a_plan_with_a_mistake_is_refused(plan):
    with pytest.raises(ValueError, match=r"must follow lib/replay/faults.py\. Got: "):
        faults.load(plan)


def test_the_plan_of_the_manual_can_be_read():
    manual = faults.__doc__.partition("::\n")[2].rpartition("Where it happens")[0]
    plan = faults.load(manual.replace("\n    ", "\n"))
    assert plan.cuts.where == "middle" and plan.refuse[0].retry_after == 1 and plan.canary_seconds == 3600
