"""The pictures of stage 4, whatever times the stream claims."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib.online import plots

HOUR = 1_442_016_000_000
FIRST, LAST = -62_135_596_800_000, 253_402_300_799_999  # of the years 1 to 9999


def verdicts(times):
    n = np.arange(len(times))
    users, flagged = [f"User {i % 3}" for i in n], n % 2 == 0
    data = pd.DataFrame({"user": users, "flagged": flagged, "stopped": flagged, "is_bot": n % 3 == 0})
    when = pd.Series(np.sort(np.array(times, "datetime64[ms]"))).dt.tz_localize("UTC")
    verdict = np.where(flagged, "flagged", "kept")
    return data.assign(timestamp=when, verdict=verdict, late=4 * n >= 3 * len(n), edits=1)


@pytest.mark.filterwarnings("error:AutoDateLocator")
@pytest.mark.parametrize(
    "times", [[], [HOUR], [LAST], [FIRST, *(HOUR + 300_000 * n for n in range(50)), LAST]]
)
def test_times_far_from_the_others_are_counted_and_do_not_squeeze_the_picture(times):
    data = verdicts(times)
    systems = {"wikisieve": data["stopped"], "none": data["user"] == "nobody"}
    figures = [
        plots.over_time(data),
        plots.growth(data, [{"run": 1, "flagged": 26, "members_start": 3}]),
        plots.stopped_so_far(data, systems),
    ]
    far = sum(time in (FIRST, LAST) for time in times)
    for figure in figures:
        axes = figure.axes[0]
        low, high = axes.get_xlim()
        assert len(times) < 2 or high - low < 1  # days
        assert (f"Not in the picture: {far} " in axes.get_xlabel()) == (far > 0)
        figure.savefig(io.BytesIO())
        plt.close(figure)
    if len(times) > 1:
        sizes = figures[1].axes[0].lines[0].get_ydata()
        assert (sizes[0], sizes[-1]) == (4, 29)  # the first edit of the picture is the second of the stream


def test_systems_are_compared_by_bots_and_by_humans():
    data = verdicts([HOUR + n for n in range(8)])
    systems = {"wikisieve": data["stopped"], "all": data["user"].notna()}
    table = plots.compare(data, systems).set_index("system")
    late, humans = "100.0 % (2.5 to 100.0)", "100.00 % (at most 100.00)"
    assert table.loc["all"].tolist() == ["100.0 % (29.2 to 100.0)", late, humans, humans, "2 of 2"]
    humans = "40.00 % (at most 81.07)"
    assert table.loc["wikisieve"].tolist() == ["66.7 % (9.4 to 99.2)", late, humans, humans, "2 of 2"]
