"""Every picture of the model can be drawn, and its sentence says what the evaluation counted."""

import matplotlib.pyplot as plt
import pytest
from made_up import sample

from lib import plots
from lib.model import classifier, evaluation
from lib.model import plots as model_plots
from lib.model.classifier import BotClassifier
from lib.model.dataset import EditDataset


@pytest.fixture(autouse=True)
def look_and_close():
    plots.style()
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def people():
    return EditDataset.from_table(sample(humans=600))


@pytest.fixture(scope="module")
def cross(people):
    return classifier.cross_validate(people, 0)


@pytest.fixture(scope="module")
def judge(people, cross):
    return BotClassifier.fit(people, 0, 0.02, cross=cross)


@pytest.fixture(scope="module")
def ahead(people):
    return evaluation.forward(people, 0, 0.05)


@pytest.mark.filterwarnings("error::UserWarning")
def test_every_picture_is_drawn_and_says_something(people, cross, judge, ahead):
    answers = model_plots.forward_answers(people, ahead)
    pictures = [
        model_plots.precision_recall(cross, model_plots.words(cross), 0),
        model_plots.confusion(cross, judge.threshold),
        model_plots.calibration(cross),
        model_plots.recall_by_edits(cross, judge),
        model_plots.errors(cross, judge.threshold),
        model_plots.guarantee(cross, judge, 0.02),
        model_plots.forward(ahead, answers),
    ]
    for figure, sentence in pictures:
        figure.canvas.draw()
        assert sentence.endswith(".") and "nan" not in sentence
        assert figure.axes[0].get_title("left")


def test_sentences_count_what_the_evaluation_counts(people, cross, judge):
    found = int((cross.highest() >= judge.threshold)[people.bots].sum())
    assert f"({found} of {int(people.bots.sum())};" in model_plots.confusion(cross, judge.threshold)[1]
    average = evaluation.average_precision(people.bots, cross.final(True))
    assert (
        f"Average precision is {average:.3f} with"
        in model_plots.precision_recall(cross, model_plots.words(cross), 0)[1]
    )


def test_baselines_forward_in_time_are_what_they_say(people, ahead):
    answers = model_plots.forward_answers(people, ahead)
    later, earlier = ahead.later, people.subset(people.times < ahead.at_ms)
    known = set(earlier.names[earlier.bots])
    expected = [name in known for name in later.names[later.user]]
    assert answers["list of the earlier bots"].tolist() == expected
    assert not answers["majority: nobody is a bot"].any()
    assert (answers[model_plots.BOTH] >= answers[model_plots.MODEL]).all()
    shown = model_plots.forward_table(ahead, answers).set_index("who stops")
    assert shown.loc["majority: nobody is a bot", "bot edits stopped"].startswith("0.0 %")


def test_tables_count_what_the_evaluation_counts(people, cross, judge):
    shown = model_plots.threshold_table(cross, model_plots.words(cross), judge.threshold).set_index(
        "who says it"
    )
    found = int((cross.highest() >= judge.threshold)[people.bots].sum())
    assert f"({found} of {int(people.bots.sum())};" in shown.iloc[0]["bots found"]
    assert shown.loc["list of known bots, majority", "humans flagged"].startswith("0.0 %")
    by_group = model_plots.errors_table(cross, judge.threshold)
    kinds = by_group[by_group["group"].isin(["registered", "IP"])]
    assert kinds["humans"].sum() == int((~people.bots).sum())
    assert kinds["missed by the model"].sum() == int(people.bots.sum()) - found
    named = [("bot" in name.lower()) for name in people.names[people.bots]]
    assert kinds["missed by the name rule"].sum() == named.count(False)


def test_metrics_are_shown_one_by_one():
    metrics = {"users": {"n": 1200, "with_name": {"interval": [0.5, 0.75]}}, "share": 0.123456}
    shown = model_plots.metrics_table(metrics)
    assert shown.values.tolist() == [
        ["users.n", "1,200"],
        ["users.with_name.interval", "0.5 to 0.75"],
        ["share", "0.1235"],
    ]


def test_names_in_the_audit_are_shown_as_text(cross, judge):
    noise = evaluation.label_noise(cross, judge)
    noise.likely.loc[0, "user"] = "<script>"
    pages = [plots.html_table(table, caption) for table, caption in model_plots.noise_tables(noise)]
    assert len(pages) == 3
    assert "<script>" not in pages[2] and "&lt;script&gt;" in pages[2]
