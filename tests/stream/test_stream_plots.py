import matplotlib.pyplot as plt
import pandas as pd
import pytest
from streams import event, make_events

from lib import artifacts
from lib.stream import plots, recording


@pytest.fixture
def read(tmp_path):
    def read(texts):
        artifacts.write(tmp_path, events=len(texts))
        if texts:
            recording.write_segment(tmp_path / recording.segment_name(1), texts)
        return plots.read_events(tmp_path)

    return read


def test_what_is_read(read):
    frame = read([event(0, bot=True), event(1, bot=False, wiki=None), event(2, type="log", bot=...)])
    assert list(frame["wiki"]) == ["enwiki", plots.NO_NAME, "enwiki"]
    assert list(frame["kind"][:2]) == ["bot", "human"] and pd.isna(frame["kind"][2])


def test_rates_are_per_minute_and_minutes_without_events_count(read):
    rates = plots.event_rates(read([event(n, bot=n == 0) for n in (0, 1, 2, 190)]))
    assert rates.per_minute.to_dict("list") == {"human": [2, 0, 0, 1], "bot": [1, 0, 0, 0]}


def test_years_between_two_halves_are_drawn_in_longer_steps(read):
    later = [event(n, bot=False, meta={"dt": f"2035-01-01T00:00:{n:02}Z"}) for n in range(40)]
    rates = plots.event_rates(read([*make_events(40, bot=False), *later]))
    assert rates.step > 500 and len(rates.per_minute) < 11_000 and rates.outliers == 0
    assert (rates.per_minute.sum().sum() * rates.step).round() == 80


def test_shares_have_counts_and_intervals(read):
    frame = read([event(n, bot=n < 3, wiki="dewiki" if n < 4 else "enwiki") for n in range(14)])
    table = plots.bot_shares(frame, "wiki")
    assert list(table.index) == ["enwiki", "dewiki"]
    assert table.loc["dewiki", "share"] == 0.75
    assert table.loc["enwiki", "low"] == 0 < table.loc["enwiki", "high"] < 0.31


@pytest.mark.parametrize(
    "texts", [[], make_events(3), [event(0, bot=True)], [event(0, type="$x_1$", wiki="<b>", bot=False)]]
)
def test_every_recording_can_be_drawn(read, texts):
    frame = read(texts)
    for drawn in (
        plots.rate_figure(plots.event_rates(frame)),
        plots.share_figure(plots.bot_shares(frame, "wiki"), "title", "wiki"),
        plots.share_figure(plots.bot_shares(frame, "type"), "title", "type"),
    ):
        drawn.canvas.draw()
        plt.close(drawn)


def test_a_clock_that_was_wrong_is_left_out_of_the_picture_and_counted(read):
    days = ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]
    wrong = [event(n, bot=True, meta={"dt": day}) for n, day in enumerate(days, 50)]
    frame = read([*make_events(40, bot=False), *wrong])
    assert len(frame) == 42
    rates = plots.event_rates(frame)
    assert (rates.per_minute.sum().sum(), rates.outliers) == (40, 2)
    only = plots.event_rates(frame[frame["kind"] == "bot"])
    assert only.per_minute.empty and only.outliers == 2
