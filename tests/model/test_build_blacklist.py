"""The blacklist of stage 3: who is on it and why, that its bound holds, and that its files hold the same."""

import numpy as np
import pytest

from lib import artifacts
from lib.blacklist.bloom import BlacklistFilter
from lib.blacklist.ledger import BlacklistError, Entry, Ledger
from lib.model import build_blacklist
from lib.model.classifier import BotClassifier
from lib.online import drift
from lib.online.run import OnlineJob
from lib.params import ParameterError
from lib.stats import upper_bound


@pytest.fixture(scope="session")
def listed(people, cross, model):
    return build_blacklist.select_users(people, cross, model)


def test_listed_are_those_whom_the_model_scores_and_those_whom_the_wiki_flags(people, cross, model, listed):
    reasons = {entry.user: entry.reason for entry in listed}
    judged = set(people.names[cross.highest_margins(repeats=1) >= model.threshold])
    assert {user for user, reason in reasons.items() if reason == build_blacklist.JUDGED} == judged
    assert set(reasons) == judged | set(people.names[people.is_bot])
    assert len(reasons) == len(listed)


def test_entry_holds_the_edit_at_which_the_threshold_was_reached(people, cross, model, listed):
    entry = next(entry for entry in listed if entry.reason == build_blacklist.JUDGED)
    user = people.names.tolist().index(entry.user)
    place = np.flatnonzero(people.user == user)[entry.evidence["edits"] - 1]
    assert entry.evidence["edit"]["meta_id"] == people.table["meta_id"][int(place)].as_py()
    assert entry.since == people.times[place]
    assert entry.score >= entry.evidence["threshold"]
    assert entry.evidence["edits"] == cross.flagged_after(model.threshold, repeats=1)[user]
    assert entry.model_version == model.version


def test_the_rates_are_those_of_the_list_and_within_the_limits(people, cross, model, listed):
    rates = build_blacklist.error_rates(cross, listed, model.threshold, 3, 20_000)
    wrong = build_blacklist.false_positives(people, listed)
    assert rates["human_user_fpr_upper95"] == upper_bound(len(wrong), int((~people.is_bot).sum()))
    assert rates["human_user_fpr_upper95_unnamed"] <= 0.02
    assert rates["human_edit_fpr"] <= rates["human_edit_fpr_upper95"] <= 0.02
    assert (rates["members"], rates["hash_fpr"]) == (len(listed), 3 / 20_000)


def test_an_empty_list_has_no_errors(tmp_path, cross):
    rates = build_blacklist.error_rates(cross, [], 99.0, 0, 1000)
    assert (rates["members"], rates["human_user_fpr"], rates["hash_fpr"]) == (0, 0, 0)
    build_blacklist.write_blacklist(tmp_path, [])
    assert len(BlacklistFilter.load(tmp_path / "blacklist.bloom")) == 0


def test_files_hold_the_list_and_replace_what_was_there(tmp_path, listed):
    build_blacklist.write_blacklist(tmp_path, [Entry("left over", build_blacklist.JUDGED, 1)])
    (tmp_path / "ledger.sqlite-wal").write_bytes(b"of another ledger")
    build_blacklist.write_blacklist(tmp_path, listed)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["blacklist.bloom", "ledger.sqlite"]
    with Ledger.open(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        assert sorted(ledger.entries(), key=lambda entry: (entry.since, entry.user)) == listed
    bloom = BlacklistFilter.load(tmp_path / "blacklist.bloom")
    assert bloom.contains([entry.user for entry in listed]).all()


def test_what_people_decided_is_kept_when_stage_3_runs_again(tmp_path, listed):
    kind, wrong, spared = (entry.user for entry in listed[:3])
    build_blacklist.write_blacklist(tmp_path, [*listed, Entry("long gone", build_blacklist.FLAGGED, 1)])
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        ledger.allow(kind, reason="our own bot", at=5)
        ledger.allow("somebody else", reason="a friend", at=6)
        ledger.remove([wrong, spared], reason="a person", at=7)
        ledger.add([Entry("vandal", "by hand", 8, {"who": "me"}), Entry(spared, "no person after all", 9)])
        before = ledger.history()
    for _ in range(2):
        build_blacklist.clear_outputs(tmp_path)
        build_blacklist.write_blacklist(tmp_path, listed)
        with Ledger.open(tmp_path / "ledger.sqlite", read_only=True) as ledger:
            assert ledger.allowed() == {kind: "our own bot", "somebody else": "a friend"}
            assert set(ledger.members()) == {e.user for e in listed} - {kind, wrong} | {"vandal"}
            assert ledger.get("vandal") == Entry("vandal", "by hand", 8, {"who": "me"})
            assert ledger.get(spared).reason == "no person after all"
            assert ledger.history() == before
            assert BlacklistFilter.load(tmp_path / "blacklist.bloom").contains(ledger.members()).all()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["blacklist.bloom", "ledger.sqlite"]


def test_a_damaged_ledger_stops_the_run_and_stays_as_it_is(tmp_path, listed):
    (tmp_path / "ledger.sqlite").write_bytes(b"no ledger" * 100)
    with pytest.raises(BlacklistError, match="ledger.sqlite"):
        build_blacklist.write_blacklist(tmp_path, listed)
    assert (tmp_path / "ledger.sqlite").read_bytes() == b"no ledger" * 100


def finish(folder, people, model, listed, **facts):
    reference = drift.reference(people, model, [])
    build_blacklist.save_outputs(folder, model, listed, reference, {"users": {}}, **facts)


def test_a_run_leaves_all_files_and_the_manifest_knows_them(tmp_path, people, model, listed):
    finish(tmp_path, people, model, listed, seed=0)
    assert {path.name for path in tmp_path.iterdir()} == {*build_blacklist.OUTPUTS, build_blacklist.LEDGER}
    outputs = artifacts.read(tmp_path, "03")["outputs"]
    assert {name: artifacts.sha256(tmp_path / name) for name in outputs} == outputs
    assert BotClassifier.load(tmp_path / "model.skops").version == model.version


@pytest.mark.parametrize("fails", ["write_json", "atomic_write"])
def test_a_run_that_fails_leaves_no_model_and_loses_no_ledger(
    tmp_path, people, model, listed, monkeypatch, fails
):
    def full(*_, **__):
        raise OSError("no space left")

    finish(tmp_path, people, model, listed)
    build_blacklist.clear_outputs(tmp_path)
    monkeypatch.setattr(artifacts, fails, full)
    with pytest.raises(OSError, match="no space left"):
        finish(tmp_path, people, model, listed)
    assert (tmp_path / "ledger.sqlite").exists()
    with pytest.raises(ParameterError, match="model.skops is missing. Run notebooks/03_eda_train"):
        OnlineJob(tmp_path / "out", tmp_path)
