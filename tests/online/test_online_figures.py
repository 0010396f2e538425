"""The pictures of stage 4, whatever times the stream claims."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import world

from lib.online import figures
from lib.online import verdicts as files

HOUR = 1_442_016_000_000
FIRST, LAST = -62_135_596_800_000, 253_402_300_799_999  # of the years 1 to 9999


def verdicts(times):
    n = np.arange(len(times))
    return pd.DataFrame(
        {
            "meta_id": [f"{i:03d}" for i in n],
            "timestamp": pd.Series(np.sort(np.array(times, "datetime64[ms]"))).dt.tz_localize("UTC"),
            "user": [f"User {i % 3}" for i in n],
            "verdict": np.where(n % 2, "kept", "flagged"),
            "stopped": n % 2 == 0,
            "is_bot": n % 3 == 0,
        }
    )


def test_a_missing_flag_is_none_and_says_nothing(tmp_path, recwarn):
    rows = [("Ada", None, "kept"), ("Bot", True, "flagged"), ("Eve", False, "kept")]
    (tmp_path / "verdicts").mkdir()
    files.write(tmp_path, 1, world.verdict_table(*rows))
    assert figures.frame(tmp_path)["is_bot"].tolist() == [False, True, False]
    assert not [warning for warning in recwarn if issubclass(warning.category, FutureWarning)]


@pytest.mark.parametrize("times", [[], [LAST], [FIRST, *(HOUR + 60_000 * n for n in range(50)), LAST]])
def test_times_far_from_the_others_are_counted_and_do_not_squeeze_the_picture(times):
    data = verdicts(times)
    flagged = int((data["verdict"] == "flagged").sum())
    found = [
        figures.over_time(data),
        figures.growth(data, [{"run": 1, "flagged": flagged, "members_start": 3}]),
        figures.comparison(data, ["User 1"], None)[:2],
    ]
    for figure, _ in found:
        for axes in figure.axes[:1]:
            low, high = axes.get_xlim()
            assert len(times) < 2 or high - low < 1  # days
        figure.savefig(io.BytesIO())
        plt.close(figure)
    far = sum(time in (FIRST, LAST) for time in times)
    assert found[0][1].endswith("blacklist.") != (far > 0)
    assert f"from 3 to {3 + flagged} users" in found[1][1]
