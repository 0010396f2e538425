"""Drift and shadow: a changed stream is reported, an unchanged one is not."""

import json

import numpy as np
import pandas as pd
import pytest
import synthetic

from lib import artifacts
from lib.blacklist.ledger import Entry
from lib.model import edit_features, user_features
from lib.model.classifier import CrossFit
from lib.model.dataset import EditDataset
from lib.online import drift, metrics
from lib.online.state import StateStore, UserStates


@pytest.fixture(scope="module")
def trained():
    dataset = EditDataset(synthetic.sample())
    return dataset, synthetic.train(CrossFit(dataset), 0.05)


def stream(dataset, model, folder, shift=0.0):
    """State and verdicts as if the sample, whose bots are listed, had been the stream, its evidence shifted."""
    shifted = model.edit_features(dataset.table)
    shifted[:, edit_features.TEXT_COLUMN] += shift
    start = user_features.new_states(len(dataset))
    state, *_ = user_features.update_states(start, dataset.user, dataset.times, shifted)
    none, rest = np.full(len(dataset), np.nan), ~dataset.is_bot
    with StateStore(folder) as store, store.transaction():
        store.write_states(UserStates(dataset.names[rest].tolist(), state[rest], none[rest]))
    data = dataset.table.select(["user", "bot", "timestamp"]).to_pandas()
    return data.assign(is_bot=data["bot"], verdict="kept", flagged=False, stopped=False, edits=1)


@pytest.mark.parametrize(("shift", "changed"), [(0.0, set()), (5.0, {"texts: mean evidence"})])
def test_a_stream_that_differs_from_the_sample_is_reported(trained, tmp_path, shift, changed):
    listed = trained[0].names[trained[0].is_bot]
    artifacts.write_json(tmp_path / drift.FILE, drift.reference(*trained, listed))
    found = drift.report(tmp_path, tmp_path, stream(*trained, tmp_path, shift))
    assert set(found.loc[found["large"], "what"]) & set(drift.COMPARED) == changed, found
    assert shift or max(float(text[4:]) for text in found["statistic"] if text.startswith("D")) < 0.02


def test_without_a_reference_only_the_stream_is_compared_with_itself(trained, tmp_path):
    assert drift.report(tmp_path, tmp_path, stream(*trained, tmp_path))["what"].tolist() == [
        "bot edits that the list covers: first and last quarter"
    ]


@pytest.mark.parametrize(("users", "large"), [([0] * 90 + [*range(1, 11)], False), (range(100), True)])
def test_a_fall_of_the_cover_is_large_where_it_is_no_single_bots(tmp_path, users, large):
    quarters = {"user": [str(user) for user in users] * 4, "verdict": ["dropped"] * 90 + ["kept"] * 310}
    data = pd.DataFrame({"is_bot": True, **quarters})
    assert drift.report(tmp_path, tmp_path, data)["large"].tolist() == [large]


def test_the_reference_is_json_and_names_its_model(trained, tmp_path):
    kept = json.loads(json.dumps(drift.reference(*trained, [])))
    assert kept["model"] == trained[1].version and kept["users"] == len(trained[0])
    assert all(len(kept["features"][name]) == drift.QUANTILES + 1 for name in drift.COMPARED)


def test_who_looks_human_in_the_shadow_is_released_if_a_model_listed_them(tmp_path):
    with StateStore(tmp_path) as store:
        store.ledger.add([Entry(user, "online", 0, score=0.99) for user in ("Person", "Bot", "New")])
        store.ledger.add([Entry("By hand", "a person", 0)])
        users = ["Person", "Bot", "New", "By hand"]
        states = user_features.new_states(4)
        states[:, 0] = 3, 3, 1, 3  # edits
        store.write_states(UserStates(users, states, np.array([0.01, 0.99, 0.01, 0.01])), shadow=True)
        found = metrics.shadow_report(store, threshold=0.5)
    assert found["user"].tolist() == ["Person", "New", "Bot"]
    assert found["release"].tolist() == [True, False, False]
    assert found["shadow edits"].tolist() == [3, 1, 3]
