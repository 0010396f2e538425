"""The model: scores that stay, reasons that add up, a file that cannot be tampered with."""

import functools

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from lib.model import classifier, edit_features, user_features
from lib.model.classifier import BotClassifier, CrossFit, ModelError
from tests import synthetic


@pytest.fixture
def path(model, tmp_path):
    model.save(tmp_path / "model.skops")
    return tmp_path / "model.skops"


def test_without_the_name_no_feature_of_the_name_is_seen():
    x = np.arange(len(user_features.FEATURES), dtype=float)[None]
    shown = classifier.select_features(x, with_name=False)[0].astype(int)
    assert not any(user_features.FEATURES[i] in edit_features.NAME_FLAGS for i in shown)


@pytest.mark.parametrize(
    ("text_model", "user_model"),
    [
        (classifier.TEXT_MODEL, make_pipeline(StandardScaler(), GaussianNB())),
        (classifier.TEXT_MODEL, make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))),
        (SGDClassifier(loss="log_loss", random_state=0), classifier.USER_MODEL),
        (RidgeClassifier(), classifier.USER_MODEL),
    ],
)
def test_other_estimators_can_be_tried(people, text_model, user_model, tmp_path):
    cross = CrossFit(people, text_model, user_model, repeats=1)
    model = BotClassifier.fit(cross, threshold=0.0)
    model.save(tmp_path / "model.skops")
    loaded = BotClassifier.load(tmp_path / "model.skops")
    np.testing.assert_array_equal(loaded.score(cross.rows.x), model.score(cross.rows.x))
    assert len(loaded.explain(cross.rows.x[:2])) == 2
    assert loaded.edit_features(people.table[:2]).shape == (2, len(edit_features.EDIT_FEATURES))


def test_an_estimator_that_lacks_what_is_needed_is_refused(people):
    with pytest.raises(ModelError, match="must be linear .* Got MultinomialNB"):
        CrossFit(people, MultinomialNB(), repeats=1)
    with pytest.raises(ModelError, match="must give probabilities .* Got LinearSVC"):
        CrossFit(people, user_model=make_pipeline(StandardScaler(), LinearSVC()), repeats=1)


# --- use --------------------------------------------------------------------------------------------------------------


def test_the_score_of_the_stream_is_that_of_training(people, model):
    seen = model.edit_features(people.table)
    _, rows, x = user_features.update_states(
        user_features.new_states(len(people)), people.user, people.times, seen
    )
    reference = classifier.build_rows(people, model.text_model.decision_function(people.text_matrix))
    np.testing.assert_allclose(model.score(x), model.score(reference.x[: len(rows)]), atol=1e-6)
    assert model.score(x[:0]).shape == (0,)


def test_a_score_is_the_judges_and_does_not_depend_on_the_rows_around_it(people, model):
    x = classifier.build_rows(people, model.text_model.decision_function(people.text_matrix)).x
    whole = model.score(x)
    np.testing.assert_array_equal(whole, classifier.probabilities(model.user_model, x))
    np.testing.assert_array_equal(whole, [model.score(row[None])[0] for row in x])
    np.testing.assert_array_equal(whole[3:50], model.score(x[3:50]))
    assert np.isfinite(model.score(np.full((1, x.shape[1]), 1e300))).all()


def test_the_12th_decimal_of_what_was_model_changes_nothing(cross, model, monkeypatch):
    """What another processor's BLAS kernels may change is rounded away: coefficients, scores, threshold, version."""
    fit = LogisticRegression.fit

    @functools.wraps(fit)
    def fit_elsewhere(self, *args, **options):
        fit(self, *args, **options)
        self.coef_ = self.coef_ + 1e-12
        return self

    monkeypatch.setattr(LogisticRegression, "fit", fit_elsewhere)
    after = CrossFit(cross.dataset)
    np.testing.assert_array_equal(after.row_scores[True], cross.row_scores[True])
    np.testing.assert_array_equal(after.row_scores[False], cross.row_scores[False])
    assert synthetic.train(after).version == model.version


def test_a_score_is_explained_by_what_adds_up_to_it(cross, model):
    for x in cross.rows.x[::50, None]:
        (shares,) = model.explain(x)
        total = sum(share for _, share in shares) + model.user_model[-1].intercept_[0]
        np.testing.assert_allclose(1 / (1 + np.exp(-total)), model.score(x)[0], atol=1e-5)
        assert shares == sorted(shares, key=lambda share: -abs(share[1]))
        assert {word for word, _ in shares} <= set(user_features.FEATURES)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_saved_model_decides_the_same(people, cross, model, path):
    loaded, x = BotClassifier.load(path), cross.rows.x
    assert (loaded.version, loaded.threshold) == (model.version, model.threshold)
    np.testing.assert_array_equal(loaded.edit_features(people.table), model.edit_features(people.table))
    np.testing.assert_array_equal(loaded.score(x), model.score(x))


@pytest.mark.parametrize("place", [0, 100, 0.5, -30])
def test_a_changed_byte_is_refused(path, place):
    data = bytearray(path.read_bytes())
    data[int(place * len(data)) if isinstance(place, float) else place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="Run 03_eda_train again"):
        BotClassifier.load(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a model at all" * 20])
def test_another_file_a_cut_one_or_none_is_refused_with_one_sentence(path, content):
    for damage in (
        lambda: path.write_bytes(path.read_bytes()[:-500]),
        lambda: path.write_bytes(content),
        path.unlink,
    ):
        damage()
        with pytest.raises(ModelError, match="must be a model that this version of wikisieve wrote"):
            BotClassifier.load(path)


class Unknown(LogisticRegression):
    """A type that is not on the list of trusted ones."""


@pytest.mark.parametrize("change", [{"format": "another"}, {"features": ["age"]}, {"user_model": Unknown()}])
def test_a_file_with_other_content_is_refused(path, change):
    content = skops.io.load(path, trusted=classifier.TRUSTED_TYPES)
    skops.io.dump(content | change, path)
    with pytest.raises(ModelError, match="must be a model that this version"):
        BotClassifier.load(path)
