"""Evidence and summaries: the same numbers however edits are cut, and errors that say what to do."""

import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from lib import edits
from lib.train import features, text

DAY_MS = 86_400_000


def table(**columns):
    """Edits with the given columns; the others are unknown."""
    n = len(next(iter(columns.values())))
    full = {name: columns.get(name, [None] * n) for name in edits.COLUMNS}
    return pa.table(
        [pa.array(full[field.name], field.type) for field in edits.ARROW_SCHEMA], edits.ARROW_SCHEMA
    )


def linear(seed):
    """A linear model with every weight set, as scikit-learn holds it."""
    random = np.random.default_rng(seed)
    model = LogisticRegression()
    model.classes_, model.n_features_in_ = np.array([False, True]), text.BUCKETS
    model.coef_ = random.normal(size=(1, text.BUCKETS)).astype(np.float32).astype(float)
    model.intercept_ = np.array([0.25])
    return model


TEXTS = linear(1)
WEIGHTS = features.Weights(TEXTS.coef_[0].astype(np.float32), 0.25)
anything = st.none() | st.text(max_size=40)
whole = st.none() | st.integers(-(2**63), 2**63 - 1)
an_edit = st.tuples(anything, anything, anything, anything, anything, whole, whole, st.none() | st.booleans())


@given(st.lists(an_edit, min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_the_fast_path_gives_the_reference_estimators_decision(rows):
    wiki, kind, title, user, comment, namespace, delta, minor = map(list, zip(*rows, strict=True))
    edit = table(
        wiki=wiki,
        type=kind,
        title=title,
        user=user,
        comment=comment,
        namespace=namespace,
        delta=delta,
        minor=minor,
    )
    seen = features.evidence(edit, WEIGHTS)
    assert np.abs(seen[:, features.TEXT] - TEXTS.decision_function(features.text_matrix(edit))).max() < 1e-6
    assert np.isfinite(np.delete(seen, features.DELTA, axis=1)).all()


@given(st.lists(st.text(max_size=30), min_size=2, max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_an_edits_evidence_depends_on_that_edit_alone(comments, data):
    edit = table(user=["Ada"] * len(comments), comment=comments, title=comments)
    cut = data.draw(st.integers(0, len(comments)))
    whole = features.evidence(edit, WEIGHTS)
    parts = [features.evidence(part, WEIGHTS) for part in (edit.slice(0, cut), edit.slice(cut))]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_machine_code_on_disk_is_renewed_when_the_loops_of_text_change():
    digest = hashlib.sha256(Path(text.__file__).read_bytes()).hexdigest()[:12]
    assert digest == features.TEXT_SOURCE, f"Set TEXT_SOURCE in lib/train/features.py to {digest!r}."


def test_the_flag_changes_nothing():
    edit = {"user": ["Ada", "Ada"], "comment": ["Bot: x", "y"], "bot": [True, False]}
    seen = features.evidence(table(**edit), WEIGHTS)
    np.testing.assert_array_equal(seen, features.evidence(table(**edit | {"bot": [False, None]}), WEIGHTS))
    features.evidence(table(**edit).drop_columns(["bot", "meta_id", "timestamp"]), WEIGHTS)


def test_every_shape_of_column_runs_the_same_machine_code():
    """Sliced, chunked, empty, with nulls, computed: one compilation serves all."""
    compiled = features._evidence
    edit = table(user=["Ada", "Bo"], comment=["x", None], title=["y", "z"])
    features.evidence(edit, WEIGHTS)
    before = len(compiled.signatures)
    for shape in (
        edit.slice(1),
        edit.slice(0, 0),
        pa.concat_tables([edit, edit]),
        edit.to_batches()[0],
        edit.set_column(4, "type", edit.column("title").dictionary_encode()),
        edit.set_column(5, "title", pa.array(["a", "b"]).cast(pa.large_string())),
    ):
        assert features.evidence(shape, WEIGHTS).shape == (shape.num_rows, len(features.EVIDENCE))
    assert len(compiled.signatures) == before


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="Got none named comment"):
        features.evidence(table(user=["Ada"]).drop_columns("comment"), WEIGHTS)


def hints(name):
    bits = int(features.evidence(table(user=[name]), WEIGHTS)[0, features.HINTS])
    return [hint for i, hint in enumerate(features.NAME_HINTS) if bits >> i & 1]


@pytest.mark.parametrize(
    ("name", "ends_in_bot", "kind"),
    [
        ("ClueBot NG", False, None),
        ("JJMC89 bot III", True, None),
        ("XLinkBot", True, None),
        ("WP 1.0 bot", True, None),
        ("Bot1058", True, None),
        ("Botany", False, None),
        ("Ada", False, None),
        ("60.225.66.142", False, "name is an IP address"),
        ("2001:DB8:0:0:0:0:0:1", False, "name is an IP address"),
        ("~2026-12345-67", False, "name of a temporary account"),
        ("~2026", False, None),
        ("1.2.3", False, None),
        ("", False, None),
    ],
)
def test_a_name_is_read(name, ends_in_bot, kind):
    found = hints(name)
    assert ("name ends in “bot”" in found) == ends_in_bot
    assert [hint for hint in found if "address" in hint or "temporary" in hint] == ([kind] if kind else [])


def flags(**edit):
    bits = int(
        features.evidence(table(**{k: [v] for k, v in ({"user": "Ada"} | edit).items()}), WEIGHTS)[
            0, features.SEEN
        ]
    )
    return {flag for i, flag in enumerate(features.FLAGS) if bits >> i & 1}


def test_an_edit_is_read():
    assert "comment speaks of a bot" in flags(comment="Bot: archiving 3 threads")
    assert "comment speaks of a bot" in flags(comment="Робот: добавление")
    assert "comment speaks of a bot" not in flags(comment="bottom of the page")
    assert "comment of a revert" in flags(comment="Undid revision 3 by x")
    assert {"edit of one section", "link in the comment"} <= flags(comment="/* Life */ see [[Page]]")
    assert {"own name in the title", "in a user's namespace"} <= flags(title="User:Ada/sandbox", namespace=2)
    assert "size of the change unknown" in flags()
    assert "comment begins with a capital" in flags(comment="/* Life */ Bot: x")
    assert "comment begins with a capital" not in flags(comment="/* Life */ bot: X")
    assert "comment begins with a capital" not in flags(comment="/* Life")
    assert "on a subpage" in flags(title="User:Ada/log")
    assert "on a subpage" not in flags(title="Ada")
    assert {"size unchanged", "marked as minor", "new page"} <= flags(delta=0, minor=True, type="new")


# --- summaries --------------------------------------------------------------------------------------------------------


def stream(n=400, users=7, seed=0):
    random = np.random.default_rng(seed)
    edit = table(
        user=[f"user {u}" for u in random.integers(users, size=n)],
        comment=[f"comment {c}" for c in random.integers(20, size=n)],
        title=[f"page {c}" for c in random.integers(20, size=n)],
        wiki=["enwiki"] * n,
        delta=random.integers(-50, 50, size=n).tolist(),
    )
    codes = np.array([int(name[5:]) for name in edit.column("user").to_pylist()])
    times = 1_442_016_000_000 + np.cumsum(random.exponential(60_000, size=n)).astype(np.int64)
    times[n // 2 :] += 8 * DAY_MS
    return codes, times, features.evidence(edit, WEIGHTS)


@given(st.lists(st.integers(0, 400), max_size=12))
@settings(max_examples=50, deadline=None)
def test_however_a_stream_is_cut_the_summaries_are_the_same_to_the_last_bit(cuts):
    user, times, seen = stream()
    whole, rows, x = features.fold(features.empty(7), user, times, seen)
    state, got_rows, got_x = features.empty(7), [], []
    ends = [0, *sorted(cuts), len(user)]
    for a, b in pairwise(ends):
        state, part_rows, part_x = features.fold(state, user[a:b], times[a:b], seen[a:b])
        got_rows.append(part_rows + a)
        got_x.append(part_x)
    np.testing.assert_array_equal(state, whole)
    np.testing.assert_array_equal(np.concatenate(got_rows), rows)
    np.testing.assert_array_equal(np.concatenate(got_x), x)


def test_a_users_summary_does_not_depend_on_the_others():
    user, times, seen = stream()
    together, _, _ = features.fold(features.empty(7), user, times, seen)
    for u in range(7):
        mine = user == u
        alone, _, _ = features.fold(features.empty(1), np.zeros(mine.sum(), int), times[mine], seen[mine])
        np.testing.assert_array_equal(alone[0], together[u])


def test_fold_leaves_its_input_alone_and_stays_small():
    user, times, seen = stream()
    state = features.empty(7)
    features.fold(state, user, times, seen)
    assert not state.any()
    assert features.STATE <= 42


def test_checkpoints_come_early_then_at_every_doubling():
    n = 4100
    _, rows, x = features.fold(
        features.empty(1), np.zeros(n, int), np.arange(n) * 1000, np.ones((n, len(features.EVIDENCE)))
    )
    expected = [*features.CHECKPOINTS, 2000, 4000]
    assert (rows + 1).tolist() == expected
    np.testing.assert_allclose(np.exp(x[:, 0]), expected)


def test_a_long_silence_starts_anew():
    times = np.array(
        [0, 1000, 1000 + features.SILENCE_DAYS * DAY_MS, 2001 + 2 * features.SILENCE_DAYS * DAY_MS]
    )
    state, _, _ = features.fold(
        features.empty(1), np.zeros(4, int), times, np.ones((4, len(features.EVIDENCE)))
    )
    assert np.exp(features.describe(state)[0, 0]) == 1
    state, _, _ = features.fold(
        features.empty(1), np.zeros(3, int), times[:3], np.ones((3, len(features.EVIDENCE)))
    )
    assert round(np.exp(features.describe(state)[0, 0])) == 3


def test_hostile_numbers_and_times_stay_finite():
    seen = features.evidence(table(user=["Ada"] * 3, delta=[2**63 - 1, -(2**63), None]), WEIGHTS)
    times = np.array([2**60, 0, -(2**60)])
    state, _, x = features.fold(features.empty(1), np.zeros(3, int), times, seen)
    assert np.isfinite(x).all()
    assert np.isfinite(state).all()


def test_nothing_in_nothing_out():
    state, rows, x = features.fold(
        features.empty(0), np.empty(0, int), np.empty(0, int), np.empty((0, len(features.EVIDENCE)))
    )
    assert state.shape == (0, features.STATE)
    assert rows.shape == (0,)
    assert x.shape == (0, len(features.FEATURES))
    assert features.evidence(table(user=[]), WEIGHTS).shape == (0, len(features.EVIDENCE))
    assert not features.describe(features.empty(2)).any()
