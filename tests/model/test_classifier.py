"""The model: scores that stay, reasons that add up, a file that cannot be tampered with."""

import functools

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB, MultinomialNB

from lib.model import classifier, edit_features, user_features
from lib.model.classifier import BotClassifier, CrossFit, ModelError, choose_threshold
from lib.model.dataset import EditDataset
from tests import synthetic


@pytest.fixture(scope="module")
def people():
    return EditDataset.from_table(synthetic.sample())


@pytest.fixture(scope="module")
def fitted(people):
    return BotClassifier.fit(people, max_human_fpr=0.02)


@pytest.fixture
def path(fitted, tmp_path):
    fitted.save(tmp_path / "model.skops")
    return tmp_path / "model.skops"


def test_without_the_name_no_feature_of_the_name_is_seen(people, fitted):
    x = np.arange(len(user_features.FEATURES), dtype=float)[None]
    hidden = classifier.select_features(x, with_name=False)[0].astype(int)
    assert not any(user_features.FEATURES[i] in edit_features.NAME_FLAGS for i in hidden)
    blind = BotClassifier.fit(people, max_human_fpr=0.02, with_name=False)
    assert blind.version != fitted.version
    renamed = [(f, v) for f, v in blind.explain(user_features.new_states(1))[0] if "bot”" in f]
    assert not renamed


def test_the_threshold_is_chosen_by_all_repeats(people, fitted):
    cross = CrossFit(people)
    assert len({fold.tobytes() for fold, _, _ in cross.fits}) == classifier.REPEATS
    for repeats in range(1, classifier.REPEATS + 1):
        assert fitted.threshold >= choose_threshold(cross.max_scores(repeats=repeats)[~people.is_bot], 0.02)


@pytest.mark.parametrize(
    ("text_model", "user_model"),
    [
        (classifier.TEXT_MODEL, GaussianNB()),
        (classifier.TEXT_MODEL, LogisticRegression(max_iter=1000)),
        (SGDClassifier(loss="log_loss", random_state=0), classifier.USER_MODEL),
    ],
)
def test_other_estimators_can_be_tried(people, text_model, user_model, tmp_path):
    cross = CrossFit(people, text_model, user_model, repeats=1)
    model = BotClassifier.fit(people, cross=cross, threshold=0.5)
    model.save(tmp_path / "model.skops")
    loaded, states = BotClassifier.load(tmp_path / "model.skops"), user_features.new_states(2)
    np.testing.assert_array_equal(loaded.score(cross.rows.x), model.score(cross.rows.x))
    assert len(loaded.explain(states)) == 2


def test_a_text_model_that_is_not_linear_can_be_cross_fitted_but_not_written(people):
    cross = CrossFit(people, MultinomialNB(), repeats=1)
    assert cross.scores()[people.is_bot].mean() > cross.scores()[~people.is_bot].mean()
    with pytest.raises(ModelError, match="must be linear .* Got MultinomialNB"):
        BotClassifier.fit(people, cross=cross, threshold=0.5)


def test_without_the_name_features_end(people):
    blind = BotClassifier.fit(people, max_human_fpr=0.02, with_name=False)
    x = classifier.build_rows(people, blind.text_model.decision_function(people.text_matrix)).x
    far = x + 1e6 * x.std(axis=0)
    further = x + 2e6 * x.std(axis=0)
    np.testing.assert_array_equal(blind.score(far), blind.score(further))
    np.testing.assert_array_equal(
        blind.score(x),
        classifier.probabilities(blind.user_model, classifier.select_features(x, with_name=False)),
    )


# --- use --------------------------------------------------------------------------------------------------------------


def test_the_score_of_the_stream_is_that_of_training(people, fitted):
    seen = fitted.edit_features(people.table)
    _, rows, x = user_features.update_states(
        user_features.new_states(len(people)), people.user, people.times, seen
    )
    reference = classifier.build_rows(people, fitted.text_model.decision_function(people.text_matrix))
    np.testing.assert_allclose(fitted.score(x), fitted.score(reference.x[: len(rows)]), atol=1e-6)
    assert fitted.score(x[:0]).shape == (0,)


def test_a_score_is_the_judges_and_does_not_depend_on_the_rows_around_it(people, fitted):
    x = classifier.build_rows(people, fitted.text_model.decision_function(people.text_matrix)).x
    whole = fitted.score(x)
    np.testing.assert_array_equal(whole, classifier.probabilities(fitted.user_model, x))
    np.testing.assert_array_equal(whole, [fitted.score(row[None])[0] for row in x])
    np.testing.assert_array_equal(whole[3:50], fitted.score(x[3:50]))
    assert np.isfinite(fitted.score(np.full((1, x.shape[1]), 1e300))).all()


def test_training_is_repeatable(people, fitted):
    assert BotClassifier.fit(people, max_human_fpr=0.02).version == fitted.version


def test_the_12th_decimal_of_what_was_fitted_changes_nothing(people, fitted, monkeypatch):
    """What another processor's BLAS kernels may change is rounded away: coefficients, scores, threshold, version."""
    before = CrossFit(people)
    fit = LogisticRegression.fit

    @functools.wraps(fit)
    def fit_elsewhere(self, *args, **options):
        fit(self, *args, **options)
        self.coef_ = self.coef_ + 1e-12
        return self

    monkeypatch.setattr(LogisticRegression, "fit", fit_elsewhere)
    after = CrossFit(people)
    np.testing.assert_array_equal(after.row_scores(True), before.row_scores(True))
    np.testing.assert_array_equal(after.row_scores(False), before.row_scores(False))
    assert BotClassifier.fit(people, max_human_fpr=0.02, cross=after).version == fitted.version


def test_a_score_is_explained_by_what_adds_up_to_it(people, fitted):
    seen = fitted.edit_features(people.table)
    state, _, _ = user_features.update_states(
        user_features.new_states(len(people)), people.user, people.times, seen
    )
    bot = int(np.flatnonzero(people.is_bot)[0])
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


@pytest.mark.parametrize(
    "change", [{"format": "another"}, {"features": ["age"]}, {"user_model": Unknown()}, {"threshold": 0.0}]
)
def test_a_file_with_other_content_is_refused(path, change):
    content = skops.io.load(path, trusted=classifier.TRUSTED_TYPES)
    skops.io.dump(content | change, path)
    with pytest.raises(ModelError, match="must be a model that this version"):
        BotClassifier.load(path)
