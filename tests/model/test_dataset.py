"""Populations: ordered, labelled, and bounded in what is learnt from."""

import numpy as np

from lib.model import dataset
from lib.model.dataset import EditDataset
from tests import made_up


def test_a_population_is_ordered_by_time_and_leaves_nameless_edits_out():
    rows = [
        made_up.row(0, 20, "Ada", bot=True),
        made_up.row(1, 10, None, bot=True),
        made_up.row(2, 10, "Bo", bot=None),
        made_up.row(3, 10, "Ada", bot=False),
        made_up.row(4, 30, "Ada", bot=True),
    ]
    people = EditDataset.from_table(made_up.table(rows))
    assert people.times.tolist() == [10, 10, 20, 30]
    assert dict(zip(people.names, people.is_bot, strict=True)) == {"Bo": False, "Ada": True}
    assert people.edits_per_user.sum() == 4


def test_half_flagged_is_not_more_than_half():
    rows = [made_up.row(i, i, "Ada", bot=i % 2 == 0) for i in range(4)]
    assert not EditDataset.from_table(made_up.table(rows)).is_bot.any()


def test_one_flag_makes_a_bot_to_learn_from_but_not_to_judge_by():
    rows = [made_up.row(i, i, "Ada", bot=i == 0) for i in range(4)]
    people = EditDataset.from_table(made_up.table(rows))
    assert (people.train_label.tolist(), people.is_bot.tolist()) == ([True], [False])


def test_the_sample_of_edits_is_bounded_and_keeps_everybody():
    people = EditDataset.from_table(made_up.sample())
    per_user = np.bincount(people.user[people.capped_edits], minlength=len(people))
    np.testing.assert_array_equal(per_user, np.minimum(people.edits_per_user, dataset.MAX_EDITS_PER_USER))
