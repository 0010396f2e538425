"""Every sample can be drawn, kinds of users follow the definition, and untrusted text is escaped."""

import time

import numpy as np
import pandas as pd
import pytest
from synthetic import START, hostile, row, sample, table

from lib import plots
from lib.model import eda

EMPTY_KINDS = {
    "no bots": sample(bots=0),
    "no humans": sample(humans=0),
    "one edit": table([row(1, START, "Ada")]),
}


pytestmark = pytest.mark.usefixtures("pictures")


def look(edits):
    data = eda.to_frame(edits)
    return data, eda.count_users(data)


@pytest.mark.parametrize(
    "edits", [sample(), hostile(), *EMPTY_KINDS.values()], ids=["usual", "hostile", *EMPTY_KINDS]
)
@pytest.mark.filterwarnings("error")
def test_every_sample_can_be_drawn(edits):
    data, users = look(edits)
    fits = {kind: eda.fit_tail(users.loc[users["kind"] == kind, "edits"]) for kind in eda.KINDS}
    for figure in (
        eda.plot_survival(users, fits),
        eda.plot_over_time(data),
        eda.plot_gaps(data),
        eda.plot_places(data),
    ):
        figure.canvas.draw()
    assert len(eda.tail_table(fits)) == 2
    assert eda.count_templates(data)["edits"].sum() == (data["kind"].notna() & (data["comment"] != "")).sum()


@pytest.mark.parametrize("counts", [[], [5], [1] * 100, [1, 2] * 50, list(range(1, 9)), [1, 1, 2, 3] * 30])
def test_too_little_to_fit_a_tail(counts):
    assert eda.fit_tail(np.array(counts, dtype=int)) is None


def test_user_with_more_than_half_of_the_edits_flagged_is_a_bot():
    flags = {"half": [True, False], "most": [True, True, False], "none": [False], "unknown": [None]}
    rows = [row(i, START, user, bot=flag) for user, some in flags.items() for i, flag in enumerate(some)]
    data, people = look(table(rows))
    kinds = {"half": "human", "most": "bot", "none": "human", "unknown": "human"}
    assert people["kind"].to_dict() == kinds
    assert (data.loc[data["user"] == "most", "kind"] == "bot").all()


def test_edits_without_a_user_are_counted_and_belong_to_nobody():
    data, people = look(table([row(1, START, None, bot=True), row(2, START, "Ada")]))
    assert len(data) == 2
    assert people.index.tolist() == ["Ada"]
    assert data["kind"].isna().tolist() == [True, False]


def test_the_gap_is_the_time_since_the_same_users_edit_before():
    data, _ = look(table([row(1, START, "Ada"), row(2, START + 500, "Eve"), row(3, START + 2000, "Ada")]))
    assert data["gap"].dropna().tolist() == [2.0]


def test_untrusted_text_is_escaped_in_tables():
    data, _ = look(hostile())
    page = plots.html_table(eda.count_templates(data))
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_comments_of_one_template_are_one():
    comments = pd.Series(["/* A */ moved [[X]] to 12", "/* B b */ moved  [[Y|y]] to 3.5", "see http://x.y/1"])
    assert eda.template(comments).tolist() == ["/* § */ moved [[…]] to 0"] * 2 + ["see https://…"]


def test_a_hostile_comment_costs_no_more_than_a_long_one():
    hostile = pd.Series(["[" * 80_000, "{" * 80_000, "/*" * 80_000])
    start = time.process_time()
    assert eda.template(hostile).str.len().tolist() == [120] * 3
    assert time.process_time() - start < 1
