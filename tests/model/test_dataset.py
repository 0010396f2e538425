"""Datasets: ordered, labelled, and bounded in what is trained on."""

import numpy as np

from lib.model import dataset
from lib.model.dataset import EditDataset
from tests import synthetic


def test_a_population_is_ordered_by_time_and_leaves_nameless_edits_out():
    rows = [
        synthetic.row(0, 20, "Ada", bot=True),
        synthetic.row(1, 10, None, bot=True),
        synthetic.row(2, 10, "Bo", bot=None),
        synthetic.row(3, 10, "Ada", bot=False),
        synthetic.row(4, 30, "Ada", bot=True),
    ]
    people = EditDataset(synthetic.table(rows))
    assert people.times.tolist() == [10, 10, 20, 30]
    assert dict(zip(people.names, people.is_bot, strict=True)) == {"Bo": False, "Ada": True}
    assert people.edits_per_user.sum() == 4


def test_one_flag_makes_a_bot_to_learn_from_but_not_to_judge_by():
    rows = [synthetic.row(i, i, "Ada", bot=i == 0) for i in range(4)]
    people = EditDataset(synthetic.table(rows))
    assert (people.train_label.tolist(), people.is_bot.tolist()) == ([True], [False])


def test_the_sample_of_edits_is_bounded_and_keeps_everybody():
    people = EditDataset(synthetic.sample())
    per_user = np.bincount(people.user[people.capped_edits], minlength=len(people))
    np.testing.assert_array_equal(per_user, np.minimum(people.edits_per_user, dataset.MAX_EDITS_PER_USER))
