"""Every picture has a title and names its axes, and is drawn for any sample, be it empty."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from test_audit import crowd, table

from lib.sample import audit
from lib.sample import figures as audit_figures

SAMPLES = {
    "crowd": crowd(500),
    "nobody": table([]),
    "one": table([("one", 7, 1, 1, 1)]),
    "humans": crowd(50, bots=0),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_pictures_are_whole(name):
    frame = audit.users(SAMPLES[name], 20)
    ways = pd.DataFrame(
        {"users": [0.2, 0.6, 0.3], "edits": [0.2, 0.6, 0.2], "whole": [1, 1, 0]}, index=["a", "b", "c"]
    )
    figures = [
        audit_figures.shares(audit.shares(frame, seed=0), 20),
        audit_figures.survival(frame),
        audit_figures.buckets(audit.uniformity(frame), 20),
        audit_figures.ways(ways, 20),
        audit_figures.coverage(audit.coverage(SAMPLES[name], 20), 20),
    ]
    for figure in figures:
        figure.canvas.draw()
        (axes,) = figure.axes
        assert axes.get_title(loc="left") or axes.get_title()
        assert axes.get_xlabel()
        assert axes.get_ylabel() or axes.get_yticklabels()
        plt.close(figure)
