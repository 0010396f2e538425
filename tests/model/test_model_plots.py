"""Every picture of the model can be drawn, and the tables count what the evaluation counts."""

import numpy as np
import pandas as pd
import pytest

from lib.model import evaluation
from lib.model import plots as model_plots
from lib.model.classifier import threshold_curve
from lib.stats import name_contains_bot

pytestmark = pytest.mark.usefixtures("pictures")


@pytest.mark.filterwarnings("error::UserWarning")
def test_every_picture_is_drawn(cross, model):
    is_bot = cross.dataset.is_bot
    rule = name_contains_bot(cross.dataset.names)
    scores = {"model": cross.scores(), "rule": rule.astype(float), "nobody": np.zeros(len(rule))}
    flagged = cross.highest_margins(repeats=1) >= model.threshold
    ahead = evaluation.forward_test(cross, 0.05, 0.05)
    answers = {"model": ahead.stopped, "nobody": np.zeros(len(ahead.stopped), bool)}
    assert evaluation.errors_by(evaluation.account_type(cross.dataset.names), is_bot, flagged)["humans"].sum()
    curve = threshold_curve(cross)
    blooms = pd.DataFrame({"filter": ["a", "a"], "members": [10, 100], "wrong": [0, 3], "trials": [100, 100]})
    for figure in (
        model_plots.precision_recall(is_bot, scores),
        model_plots.calibration(is_bot, {"model": cross.scores(), "edge": np.where(is_bot, 0.2, 0)}),
        model_plots.recall_by_edits(evaluation.recall_by_edits(cross, model.threshold)),
        model_plots.trade_off({"c = 1": curve}, curve.iloc[0], (0.01, 0.9), 0.01),
        model_plots.forward(ahead, answers),
        model_plots.bloom_errors(blooms, 0.01),
    ):
        figure.canvas.draw()
        assert figure.axes[0].get_title("left")
    shown = model_plots.forward_table(ahead, answers)
    assert shown.loc["nobody", "bot edits"].startswith("0.0 %")


def test_tables_count_what_the_evaluation_counts(cross, model):
    is_bot = cross.dataset.is_bot
    flagged = cross.highest_margins() >= model.threshold
    shown = model_plots.answers_table(is_bot, {"model": flagged})
    assert f"({(flagged & is_bot).sum()} of {is_bot.sum()};" in shown.loc[0, "bots"]
    weights = model_plots.weights_table(model)["weight"].abs()
    assert weights.is_monotonic_decreasing
    compared = model_plots.comparison_table(
        cross, {"rule": name_contains_bot(cross.dataset.names).astype(float)}
    )
    assert " to " in compared.loc["rule", "average precision"]
