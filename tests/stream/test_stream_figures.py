import matplotlib.pyplot as plt
import pandas as pd
import pytest
from streams import ID, START, event, make_events

from lib import artifacts
from lib.stream import figures, recording
from lib.stream.client import KINDS


@pytest.fixture
def read(tmp_path):
    def read(texts):
        artifacts.write(tmp_path, events=len(texts))
        if texts:
            recording.write_segment(tmp_path / recording.segment_name(1), texts)
        return figures.read(tmp_path)

    return read


def test_what_is_read(read):
    frame = read([event(0, bot=True), event(1, bot=False, wiki=None), event(2, type="log", bot=...)])
    assert list(frame["wiki"]) == ["enwiki", figures.NO_NAME, "enwiki"]
    assert list(frame["kind"][:2]) == ["bot", "human"] and pd.isna(frame["kind"][2])


@pytest.mark.parametrize(("received", "says"), [(9, "the books balance"), (10, "THE BOOKS DO NOT BALANCE")])
def test_the_books_balance_when_every_message_is_one_of_its_kinds(received, says):
    made = {**dict.fromkeys(KINDS, 1), "events": 3, "received": received, "reconnects": 1}
    table, finding = figures.books(made)
    assert table["messages"].sum() == 9 and list(table.index)[5] == "other wikis"
    assert (
        finding.startswith(f"{received} messages came over 2 connection(s), 3 were kept") and says in finding
    )


def test_rates_are_per_minute_and_minutes_without_events_count(read):
    found = figures.rates(read([event(n, bot=n == 0) for n in (0, 1, 2, 190)]))
    assert found.per_minute.to_dict("list") == {"human": [2, 0, 0, 1], "bot": [1, 0, 0, 0]}
    assert figures.rate_finding(found, 4).startswith(
        "4 events in 0.1 hours: 1.0 per minute on average, 3 at most"
    )


def test_long_recordings_are_counted_in_wider_steps(read):
    found = figures.rates(read([event(n, at=START + n * 3_600_000 // 2, bot=False) for n in range(40)]))
    assert found.step_minutes == 2 and len(found.per_minute) <= figures.BINS
    assert found.per_minute["human"].max() == 0.5


def test_shares_have_counts_and_intervals(read):
    frame = read([event(n, bot=n < 3, wiki="dewiki" if n < 4 else "enwiki") for n in range(14)])
    table = figures.shares(frame, "wiki")
    assert list(table.index) == ["enwiki", "dewiki"]
    assert table.loc["dewiki", "share"] == 0.75
    assert table.loc["enwiki", "low"] == 0 < table.loc["enwiki", "high"] < 0.31
    assert "3 of 14; 95 % interval" in figures.share_finding(frame, table)


@pytest.mark.parametrize(
    "texts", [[], make_events(3), [event(0, bot=True)], [event(0, type="$x_1$", wiki="<b>", bot=False)]]
)
def test_every_recording_can_be_drawn(read, texts):
    frame = read(texts)
    for drawn in (
        figures.rate_figure(figures.rates(frame)),
        figures.share_figure(figures.shares(frame, "wiki"), "title", "wiki"),
        figures.share_figure(figures.shares(frame, "type"), "title", "type"),
    ):
        drawn.canvas.draw()
        plt.close(drawn)
    assert figures.type_finding(frame) and figures.share_finding(frame, figures.shares(frame, "wiki"))
    assert figures.rate_finding(figures.rates(frame), len(frame))


def test_a_position_is_shown_with_what_is_asked_for():
    topic = {"topic": ID.format("eqiad"), "partition": 0, "timestamp": START + 60_001}
    silent = {"topic": ID.format("codfw"), "partition": 0, "offset": -1}
    table = figures.positions({"base": START, "time": START, "topics": [topic, silent]})
    assert list(table["last event"]) == ["offset -1", f"{START + 60_001} (2015-09-12T00:01:00.001Z)"]
    assert table["asked for"].iloc[0] == f"{START} (2015-09-12T00:00:00.000Z)"
    assert figures.positions({"base": None, "time": None, "topics": []}).empty


def test_a_clock_that_was_wrong_is_left_out_of_the_picture_and_counted(read):
    days = ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]
    frame = read(
        [
            *make_events(40, bot=False),
            *(event(n, bot=True, meta={"dt": day}) for n, day in enumerate(days, 50)),
        ]
    )
    assert len(frame) == 42
    found = figures.rates(frame)
    assert (found.per_minute.sum().sum(), found.far) == (40, 2)
    assert figures.rate_finding(found, 42).endswith(
        "Not in the picture: 2 whose time lies far from the others'."
    )
    plt.close(figures.rate_figure(found))
    only = figures.rates(frame[frame["kind"] == "bot"])
    assert only.per_minute.empty and only.far == 2
