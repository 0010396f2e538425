"""Drift and shadow: a changed world is told, an unchanged one is left in peace."""

import json

import made_up
import numpy as np
import pandas as pd
import pytest

from lib import artifacts
from lib.blacklist.ledger import Entry
from lib.model import edit_features, user_features
from lib.model.classifier import BotClassifier
from lib.model.dataset import EditDataset
from lib.online import drift, shadow
from lib.online.books import Books, Summaries


@pytest.fixture(scope="module")
def learnt():
    people = EditDataset.from_table(made_up.sample())
    return people, BotClassifier.fit(people, 0, 0.05)


def stream(people, judge, folder, shift=0.0):
    """Books and verdicts as if the sample itself had been the stream, its evidence shifted."""
    seen = judge.edit_features(people.table)
    seen[:, edit_features.TEXT_COLUMN] += shift
    state = user_features.update_states(
        user_features.new_states(len(people)), people.user, people.times, seen
    )[0]
    none = np.full(len(people), np.nan)
    with Books(folder) as books, books.transaction():
        books.write_summaries(people.names.tolist(), Summaries(state, none, people.times[: len(people)]))
    data = people.table.select(["user", "bot", "timestamp"]).to_pandas()
    return data.assign(is_bot=data["bot"], verdict="kept", score=np.nan)


def test_the_same_world_needs_no_training(learnt, tmp_path):
    people, judge = learnt
    artifacts.write_json(tmp_path / drift.FILE, drift.reference(people, judge))
    data = stream(people, judge, tmp_path)
    found = drift.report(tmp_path, tmp_path, data)
    large = found.table[found.table["large"] == "yes"]["what"].tolist()
    assert not [name for name in large if name in drift.COMPARED], found.table


def test_another_world_asks_for_training(learnt, tmp_path):
    people, judge = learnt
    artifacts.write_json(tmp_path / drift.FILE, drift.reference(people, judge))
    found = drift.report(tmp_path, tmp_path, stream(people, judge, tmp_path, shift=5.0))
    assert found.train_again and "train again" in found.sentence and "texts: mean evidence" in found.sentence


def test_without_a_reference_it_says_so(learnt, tmp_path):
    found = drift.report(tmp_path, tmp_path, stream(*learnt, tmp_path))
    assert "reference.json is missing" in found.sentence and len(found.table) == 1


def test_the_reference_is_json_and_names_its_model(learnt, tmp_path):
    kept = json.loads(json.dumps(drift.reference(*learnt)))
    assert kept["model"] == learnt[1].version and kept["users"] == len(learnt[0])
    assert all(len(kept["features"][name]) == drift.QUANTILES + 1 for name in drift.COMPARED)


def test_who_looks_human_in_the_shadow_is_proposed_for_release(tmp_path):
    with Books(tmp_path) as books, books.transaction():
        books.ledger.add([Entry("Person", "online", 0), Entry("Bot", "online", 0)])
        scores = Summaries(np.zeros((2, 3)), np.array([0.01, 0.99]), np.zeros(2, np.int64))
        books.write_summaries(["Person", "Bot"], scores, shadow=True)
    rows = [("Person", False)] * 3 + [("Bot", True)] * 5
    data = pd.DataFrame(rows, columns=["user", "is_bot"]).assign(
        verdict="dropped", score=0.5, timestamp=pd.Timestamp(0)
    )
    found = shadow.report(tmp_path, data, threshold=0.5)
    assert found.release == ["Person"] and "62.5 %" in found.sentence
    assert found.table["release?"].tolist() == ["proposed", ""]
