"""The model: scores that stay, reasons that add up, a file that cannot be tampered with."""

import hashlib
import io
import zipfile

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression

from lib.model import classifier, edit_features, user_features
from lib.model.classifier import BotClassifier, ModelError, choose_threshold
from lib.model.dataset import EditDataset
from tests import made_up


@pytest.fixture(scope="module")
def people():
    return EditDataset.from_table(made_up.sample())


@pytest.fixture(scope="module")
def fitted(people):
    return BotClassifier.fit(people, max_human_fpr=0.02)


@pytest.fixture
def path(fitted, tmp_path):
    fitted.save(tmp_path / "model.skops")
    return tmp_path / "model.skops"


def test_without_the_name_no_feature_of_the_name_is_seen(people, fitted):
    x = np.arange(len(user_features.FEATURES), dtype=float)[None]
    hidden = classifier.visible(x, with_name=False)[0].astype(int)
    assert not any(user_features.FEATURES[i] in edit_features.NAME_FLAGS for i in hidden)
    blind = BotClassifier.fit(people, max_human_fpr=0.02, with_name=False)
    assert blind.version != fitted.version
    renamed = [(f, v) for f, v in blind.explain(user_features.new_states(1))[0] if "bot”" in f]
    assert not renamed


def test_the_promise_holds_for_every_deal_of_the_people(people, fitted):
    cross = classifier.cross_validate(people)
    assert len({deal.fold.tobytes() for deal in (cross, *cross.again)}) == classifier.DEALS
    for deal in (cross, *cross.again):
        assert fitted.threshold >= choose_threshold(deal.highest()[~people.bots], 0.02)


def test_without_the_name_features_end(people):
    blind = BotClassifier.fit(people, max_human_fpr=0.02, with_name=False)
    x = classifier.summarise(people, blind.text_model.decision_function(people.texts)).x
    far = x + 1e6 * x.std(axis=0)
    further = x + 2e6 * x.std(axis=0)
    np.testing.assert_array_equal(blind.score(far), blind.score(further))
    np.testing.assert_array_equal(
        blind.score(x), classifier.probabilities(blind.user_model, classifier.visible(x, with_name=False))
    )


# --- use --------------------------------------------------------------------------------------------------------------


def test_the_score_of_the_stream_is_that_of_training(people, fitted):
    seen = fitted.edit_features(people.table)
    _, rows, x = user_features.update_states(
        user_features.new_states(len(people)), people.user, people.times, seen
    )
    reference = classifier.summarise(people, fitted.text_model.decision_function(people.texts))
    np.testing.assert_allclose(fitted.score(x), fitted.score(reference.x[: len(rows)]), atol=1e-6)
    assert fitted.score(x[:0]).shape == (0,)


def test_a_score_is_the_judges_and_does_not_depend_on_the_rows_around_it(people, fitted):
    x = classifier.summarise(people, fitted.text_model.decision_function(people.texts)).x
    whole = fitted.score(x)
    np.testing.assert_array_equal(whole, classifier.probabilities(fitted.user_model, x))
    np.testing.assert_array_equal(whole, [fitted.score(row[None])[0] for row in x])
    np.testing.assert_array_equal(whole[3:50], fitted.score(x[3:50]))
    assert np.isfinite(fitted.score(np.full((1, x.shape[1]), 1e300))).all()


def test_training_is_repeatable(people, fitted):
    assert BotClassifier.fit(people, max_human_fpr=0.02).version == fitted.version


def test_the_12th_decimal_of_what_was_fitted_changes_nothing(people, fitted, monkeypatch):
    """What another processor's BLAS kernels may change is rounded away: coefficients, scores, threshold, version."""
    before = classifier.cross_validate(people)
    fit = LogisticRegression.fit

    def fit_elsewhere(self, *args, **options):
        fit(self, *args, **options)
        self.coef_ = self.coef_ + 1e-12
        return self

    monkeypatch.setattr(LogisticRegression, "fit", fit_elsewhere)
    after = classifier.cross_validate(people)
    np.testing.assert_array_equal(after.with_name, before.with_name)
    np.testing.assert_array_equal(after.without_name, before.without_name)
    assert BotClassifier.fit(people, max_human_fpr=0.02, cross=after).version == fitted.version


def test_a_score_is_explained_by_what_adds_up_to_it(people, fitted):
    seen = fitted.edit_features(people.table)
    state, _, _ = user_features.update_states(
        user_features.new_states(len(people)), people.user, people.times, seen
    )
    bot = int(np.flatnonzero(people.bots)[0])
    shares = fitted.explain(state[[bot]])[0]
    total = sum(share for _, share in shares) + float(fitted.user_model[-1].intercept_[0])
    np.testing.assert_allclose(
        1 / (1 + np.exp(-total)), fitted.score(user_features.to_features(state[[bot]]))[0], atol=1e-5
    )
    assert [abs(share) for _, share in shares] == sorted((abs(share) for _, share in shares), reverse=True)
    assert {word for word, _ in shares} <= set(user_features.FEATURES)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_saved_model_scores_the_same(people, fitted, path):
    loaded = BotClassifier.load(path)
    assert (loaded.version, loaded.threshold, loaded.facts) == (
        fitted.version,
        fitted.threshold,
        fitted.facts,
    )
    np.testing.assert_array_equal(loaded.edit_features(people.table), fitted.edit_features(people.table))


def test_the_file_is_the_same_bytes_each_time(fitted, path):
    before = BotClassifier.load(path).version
    fitted.save(path)
    assert BotClassifier.load(path).version == before


@pytest.mark.parametrize("place", [0, 100, 0.5, -70, -1])
def test_a_changed_byte_is_refused(path, place):
    data = bytearray(path.read_bytes())
    place = int(place * len(data)) if isinstance(place, float) else place
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="Run 03_eda_train again"):
        BotClassifier.load(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a model at all" * 20])
def test_a_foreign_file_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ModelError, match="without its seal"):
        BotClassifier.load(path)


def test_a_cut_or_missing_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ModelError, match="cut"):
        BotClassifier.load(path)
    path.unlink()
    with pytest.raises(ModelError, match="Got no file"):
        BotClassifier.load(path)


def sealed(content) -> bytes:
    """A file of somebody who knows how ours are sealed."""
    buffer = io.BytesIO()
    skops.io.dump(content, buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = classifier._SEAL + b"0" * 64
    body = buffer.getvalue()[:-64]
    return body + hashlib.sha256(body).hexdigest().encode()


class Stranger(LogisticRegression):
    """A type that is not on the list of trusted ones."""


def test_a_well_sealed_file_with_other_content_is_refused(fitted, path):
    for content in (
        {"format": "another"},
        [1, 2],
        {"format": classifier.FORMAT, "features": ["age"]},
        fitted._content() | {"judge": Stranger(), "version": fitted.version},
        fitted._content() | {"threshold": 0.0, "version": fitted.version},
    ):
        path.write_bytes(sealed(content))
        with pytest.raises(ModelError, match="must be a model that this version"):
            BotClassifier.load(path)
