"""Every picture has a title and names its axes, and is drawn for any sample, be it empty."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from test_audit import crowd, table

from lib.plots import style
from lib.sample import audit, plots

SAMPLES = {
    "crowd": crowd(500),
    "nobody": table([]),
    "one": table([("one", 1, 1, 1, 1)]),
    "humans": crowd(50, bots=0),
}


def test_a_users_own_settings_do_not_reach_the_pictures():
    plt.rcParams.update({"text.usetex": True, "savefig.format": "pdf"})
    style()
    assert not plt.rcParams["text.usetex"]
    assert plt.rcParams["savefig.format"] == "png"


@pytest.mark.parametrize("name", SAMPLES)
def test_pictures_are_whole(name):
    users = audit.users(SAMPLES[name])
    curve = audit.coverage(pd.Series([0.5, 0.25]), pd.Series([3, 90]))
    for figure in (plots.shares(audit.shares(users), 20), plots.coverage(curve, 20, 0.5)):
        figure.canvas.draw()
        (axes,) = figure.axes
        assert axes.get_title(loc="left") or axes.get_title()
        assert axes.get_xlabel()
        assert axes.get_ylabel() or axes.get_yticklabels()
        plt.close(figure)
