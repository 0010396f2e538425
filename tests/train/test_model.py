"""The model: nobody on both sides, a threshold that keeps its promise, a file that cannot be tampered with."""

import hashlib
import io
import zipfile

import numpy as np
import pyarrow as pa
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression

from lib.train import evidence, features, model
from lib.train.model import Model, ModelError, NoHonestThreshold, Population
from tests import made_up


@pytest.fixture(scope="module")
def people():
    return Population.of(made_up.sample())


@pytest.fixture(scope="module")
def fitted(people):
    return Model.fit(people, max_human_fpr=0.02)


@pytest.fixture
def path(fitted, tmp_path):
    fitted.save(tmp_path / "model.skops")
    return tmp_path / "model.skops"


# --- population -------------------------------------------------------------------------------------------------------


def test_a_population_is_ordered_by_time_and_leaves_nameless_edits_out():
    rows = [
        made_up.row(0, 20, "Ada", bot=True),
        made_up.row(1, 10, None, bot=True),
        made_up.row(2, 10, "Bo", bot=None),
        made_up.row(3, 10, "Ada", bot=False),
        made_up.row(4, 30, "Ada", bot=True),
    ]
    people = Population.of(made_up.table(rows))
    assert people.times.tolist() == [10, 10, 20, 30]
    assert dict(zip(people.names, people.bots, strict=True)) == {"Bo": False, "Ada": True}
    assert people.edits.sum() == 4


def test_half_flagged_is_not_more_than_half():
    rows = [made_up.row(i, i, "Ada", bot=i % 2 == 0) for i in range(4)]
    assert not Population.of(made_up.table(rows)).bots.any()


def test_one_flag_makes_a_bot_to_learn_from_but_not_to_judge_by():
    rows = [made_up.row(i, i, "Ada", bot=i == 0) for i in range(4)]
    people = Population.of(made_up.table(rows))
    assert (people.taught.tolist(), people.bots.tolist()) == ([True], [False])


def test_the_sample_of_edits_is_bounded_and_keeps_everybody(people):
    per_user = np.bincount(people.user[people.sample], minlength=len(people))
    np.testing.assert_array_equal(per_user, np.minimum(people.edits, model.EDITS_PER_USER))


def test_users_are_dealt_evenly_and_by_seed(people):
    fold = model.deal(people, 5, seed=3)
    np.testing.assert_array_equal(fold, model.deal(people, 5, seed=3))
    assert (fold != model.deal(people, 5, seed=4)).any()
    for group in (people.bots, ~people.bots):
        count = np.bincount(fold[group], minlength=5)
        assert count.max() - count.min() <= 1


# --- nobody on both sides ---------------------------------------------------------------------------------------------


def test_the_flags_of_a_fold_cannot_change_its_own_scores(people):
    """Turn the labels of one fold around: what judges that fold has seen none of them, so its scores stay."""
    fold = model.deal(people, 5, seed=0)
    mine = fold[people.user] == 2
    turned = people.table.set_column(
        people.table.schema.get_field_index("bot"),
        "bot",
        pa.array(np.where(mine, ~people.flagged, people.flagged)),
    )
    before, after = (model.Stack(p, fold).scores(with_name=True) for p in (people, Population.of(turned)))
    test = fold[model.Stack(people, fold).rows(frozenset()).user] == 2
    np.testing.assert_array_equal(before[test], after[test])
    assert (before[~test] != after[~test]).any()


def test_rows_of_a_user_weigh_one_together_and_end_with_all_edits(people):
    rows = model.Stack(people, model.deal(people, 5, 0)).rows(frozenset())
    assert rows.last.sum() == len(people)
    np.testing.assert_array_equal(rows.edits[rows.last], people.edits[rows.user[rows.last]])
    assert set(rows.edits[~rows.last].tolist()) <= set(features.CHECKPOINTS)


def test_without_the_name_no_feature_of_the_name_is_seen(people, fitted):
    x = np.arange(len(features.FEATURES), dtype=float)[None]
    hidden = model.visible(x, with_name=False)[0].astype(int)
    assert not any(features.FEATURES[i] in evidence.NAME_HINTS for i in hidden)
    blind = Model.fit(people, max_human_fpr=0.02, with_name=False)
    assert blind.version != fitted.version
    renamed = [
        (f, v)
        for f, v in blind.explain(features.describe(features.empty(1))[:, : features.STATE])
        if "bot”" in f
    ]
    assert not renamed


def test_a_bot_is_told_from_a_person(people):
    cross = model.cross_validate(people)
    assert (cross.final()[people.bots].min() > np.quantile(cross.final()[~people.bots], 0.99)).all()


@pytest.mark.parametrize("humans_bots", [(40, 2), (2, 40)])
def test_too_few_to_learn_from_is_said(humans_bots):
    few = made_up.sample(*humans_bots)
    with pytest.raises(ModelError, match=r"at least 5 bots and 5 people. Got \d+ bots and \d+ people"):
        Model.fit(few)


# --- the threshold ----------------------------------------------------------------------------------------------------


def test_the_promise_is_kept_as_often_as_said():
    """Draw people again and again: the true share above the threshold is too high in at most 5 % of the draws."""
    random = np.random.default_rng(0)
    broken = 0
    for _ in range(2000):
        threshold = model.choose_threshold(random.uniform(size=700), 0.01)
        broken += (1 - threshold) > 0.01
    assert broken / 2000 < 0.06


def test_299_people_are_the_fewest_for_one_percent():
    scores = np.linspace(0, 0.5, 299)
    assert model.choose_threshold(scores, 0.01) > scores.max()
    with pytest.raises(NoHonestThreshold, match="which needs 299 people"):
        model.choose_threshold(scores[1:], 0.01)


@pytest.mark.parametrize("fpr", [0.0, 1e-4])
def test_an_impossible_promise_is_refused(fpr):
    with pytest.raises(NoHonestThreshold, match="Raise MAX_HUMAN_FPR"):
        model.choose_threshold(np.zeros(1300), fpr)
    with pytest.raises(NoHonestThreshold):
        model.choose_threshold(np.empty(0), fpr)


def test_ties_do_not_break_the_promise():
    scores = np.r_[np.zeros(1000), np.full(40, 0.5)]
    assert (scores >= model.choose_threshold(scores, 0.01)).sum() == 0


def test_the_promise_holds_for_every_deal_of_the_people(people, fitted):
    cross = model.cross_validate(people)
    assert len({deal.fold.tobytes() for deal in (cross, *cross.again)}) == model.DEALS
    for deal in (cross, *cross.again):
        assert fitted.threshold >= model.choose_threshold(deal.highest()[~people.bots], 0.02)


def test_without_the_name_features_end(people):
    blind = Model.fit(people, max_human_fpr=0.02, with_name=False)
    x = model.summarise(people, blind.texts.decision_function(people.texts)).x
    far = x + 1e6 * x.std(axis=0)
    further = x + 2e6 * x.std(axis=0)
    np.testing.assert_array_equal(blind.score(far), blind.score(further))
    np.testing.assert_allclose(
        blind.score(x), blind.judge.predict_proba(model.visible(x, with_name=False))[:, 1], rtol=1e-9
    )


# --- use --------------------------------------------------------------------------------------------------------------


def test_the_score_of_the_stream_is_that_of_training(people, fitted):
    seen = fitted.evidence(people.table)
    _, rows, x = features.fold(features.empty(len(people)), people.user, people.times, seen)
    reference = model.summarise(people, fitted.texts.decision_function(people.texts))
    np.testing.assert_allclose(fitted.score(x), fitted.score(reference.x[: len(rows)]), atol=1e-6)
    assert fitted.score(x[:0]).shape == (0,)


def test_a_score_is_the_judges_and_does_not_depend_on_the_rows_around_it(people, fitted):
    x = model.summarise(people, fitted.texts.decision_function(people.texts)).x
    whole = fitted.score(x)
    np.testing.assert_allclose(whole, fitted.judge.predict_proba(x)[:, 1], rtol=1e-9)
    np.testing.assert_array_equal(whole, [fitted.score(row[None])[0] for row in x])
    np.testing.assert_array_equal(whole[3:50], fitted.score(x[3:50]))
    assert np.isfinite(fitted.score(np.full((1, x.shape[1]), 1e300))).all()


def test_training_is_repeatable(people, fitted):
    assert Model.fit(people, max_human_fpr=0.02).version == fitted.version


def test_a_score_is_explained_by_what_adds_up_to_it(people, fitted):
    seen = fitted.evidence(people.table)
    state, _, _ = features.fold(features.empty(len(people)), people.user, people.times, seen)
    bot = int(np.flatnonzero(people.bots)[0])
    shares = fitted.explain(state[bot])
    total = sum(share for _, share in shares) + float(fitted.judge[-1].intercept_[0])
    np.testing.assert_allclose(
        1 / (1 + np.exp(-total)), fitted.score(features.describe(state[[bot]]))[0], atol=1e-9
    )
    assert [abs(share) for _, share in shares] == sorted((abs(share) for _, share in shares), reverse=True)
    assert {word for word, _ in shares} <= set(features.FEATURES)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_saved_model_scores_the_same(people, fitted, path):
    loaded = Model.load(path)
    assert (loaded.version, loaded.threshold, loaded.facts) == (
        fitted.version,
        fitted.threshold,
        fitted.facts,
    )
    np.testing.assert_array_equal(loaded.evidence(people.table), fitted.evidence(people.table))


def test_the_file_is_the_same_bytes_each_time(fitted, path):
    before = Model.load(path).version
    fitted.save(path)
    assert Model.load(path).version == before


@pytest.mark.parametrize("place", [0, 100, 0.5, -70, -1])
def test_a_changed_byte_is_refused(path, place):
    data = bytearray(path.read_bytes())
    place = int(place * len(data)) if isinstance(place, float) else place
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="Run 03_eda_train again"):
        Model.load(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a model at all" * 20])
def test_a_foreign_file_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ModelError, match="without its seal"):
        Model.load(path)


def test_a_cut_or_missing_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ModelError, match="cut"):
        Model.load(path)
    path.unlink()
    with pytest.raises(ModelError, match="Got no file"):
        Model.load(path)


def sealed(content) -> bytes:
    """A file of somebody who knows how ours are sealed."""
    buffer = io.BytesIO()
    skops.io.dump(content, buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = model._SEAL + b"0" * 64
    body = buffer.getvalue()[:-64]
    return body + hashlib.sha256(body).hexdigest().encode()


class Stranger(LogisticRegression):
    """A type that is not on the list of trusted ones."""


def test_a_well_sealed_file_with_other_content_is_refused(fitted, path):
    for content in (
        {"format": "another"},
        [1, 2],
        {"format": model.FORMAT, "features": ["age"]},
        fitted._content() | {"judge": Stranger(), "version": fitted.version},
        fitted._content() | {"threshold": 0.0, "version": fitted.version},
    ):
        path.write_bytes(sealed(content))
        with pytest.raises(ModelError, match="must be a model that this version"):
            Model.load(path)
