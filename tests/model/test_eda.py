"""The look works on any sample, says what the data say, and shows no stranger's text as anything but text."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from made_up import HOSTILE, START, hostile, row, sample, table

from lib import plots
from lib.model import eda

EMPTY_KINDS = {
    "no bots": sample(bots=0),
    "no humans": sample(humans=0),
    "one edit": table([row(1, START, "Ada")]),
}


@pytest.fixture(autouse=True)
def look_and_close():
    plots.style()
    yield
    plt.close("all")


def look(edits):
    data = eda.frame(edits)
    return data, eda.users(data)


def sentences(edits):
    """Every sentence of the look; each picture is drawn, as a picture that fails fails when it is drawn."""
    data, people = look(edits)
    told = [eda.imbalance(data, people), eda.templates(data)[1]]
    pictures = [
        eda.survival(people, eda.fit_tails(people, seed=0)),
        eda.concentration(people),
        eda.rhythm(data),
    ]
    for figure, sentence in [*pictures, eda.gaps(data), eda.places(data), eda.sizes(data)]:
        figure.canvas.draw()
        told.append(sentence)
    return told


@pytest.mark.parametrize(
    "edits", [sample(), hostile(), *EMPTY_KINDS.values()], ids=["usual", "hostile", *EMPTY_KINDS]
)
@pytest.mark.filterwarnings("error")
def test_every_sample_can_be_looked_at(edits):
    for sentence in sentences(edits):
        assert sentence.endswith(".")
        assert "nan" not in sentence and "inf" not in sentence


def test_sentences_are_computed_from_the_data():
    rows = [row(i, START + i, f"Person {i % 10}") for i in range(40)]
    rows += [row(100 + i, START + 1000 * i, "Bot A", bot=True, comment=f"Bot: {i}") for i in range(60)]
    rows += [row(200 + i, START + 1000 * i, f"Bot {i % 4}", bot=True, comment=f"Bot: {i}") for i in range(40)]
    told = " ".join(sentences(table(rows)))
    assert "5 of 15 users are bots (33.3 %), and they make 71.4 % of the edits" in told
    assert "The busiest bot makes 60.0 % of all bot edits and the busiest 5 of 5 make 100.0 %" in told
    assert "100 comments of bots have 1 templates (1.0 %)" in told


def test_user_with_more_than_half_of_the_edits_flagged_is_a_bot():
    flags = {
        "all": [True, True],
        "half": [True, False],
        "most": [True, True, False],
        "none": [False],
        "unknown": [None],
    }
    rows = [
        row(f"{user}{i}", START, user, bot=flag)
        for user, some in flags.items()
        for i, flag in enumerate(some)
    ]
    data, people = look(table(rows))
    assert people["kind"].to_dict() == {
        "all": "bot",
        "half": "human",
        "most": "bot",
        "none": "human",
        "unknown": "human",
    }
    assert (data.loc[data["user"] == "most", "kind"] == "bot").all()


def test_edits_without_a_user_are_counted_and_belong_to_nobody():
    data, people = look(table([row(1, START, None, bot=True), row(2, START, "Ada")]))
    assert len(data) == 2
    assert people.index.tolist() == ["Ada"]
    assert data["kind"].isna().tolist() == [True, False]


def test_overview_counts_both_kinds():
    data, people = look(sample(humans=50, bots=3))
    shown = eda.overview(data, people)
    assert shown.loc["users"].tolist() == ["50", "3"]
    assert shown.loc["IP addresses"].tolist() == ["10", "0"]


def test_no_stranger_reaches_the_page_as_anything_but_text():
    data, _ = look(hostile())
    page = plots.html_table(eda.templates(data)[0])
    assert "<script>" not in page and "&lt;script&gt;" in page


@pytest.mark.parametrize("text", HOSTILE)
def test_labels_are_short_lines_without_formulas(text):
    shown = plots.safe_label(text, 32)
    assert len(shown) <= 40
    assert shown.isprintable()
    assert shown.count("$") == shown.count(r"\$")


def test_comments_of_one_template_are_one():
    comments = pd.Series(
        ["/* A */ moved [[X]] to 12", "/* B b */ moved  [[Y|y]] to 3.5", "see http://x.org/1"]
    )
    assert eda.template(comments).tolist() == ["/* § */ moved [[…]] to 0"] * 2 + ["see https://…"]


def test_gini_of_known_distributions():
    assert eda.gini(np.ones(1000)) == pytest.approx(0, abs=1e-9)
    assert eda.gini(np.array([0] * 999 + [1])) == pytest.approx(0.999)
    assert eda.gini(np.arange(1, 10_001)) == pytest.approx(1 / 3, abs=1e-4)
    assert eda.gini(np.array([])) == 0
