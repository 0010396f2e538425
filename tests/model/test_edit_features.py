"""Evidence: the same numbers however edits are cut, and errors with a way out."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from synthetic import columns

from lib.model import edit_features, kernels, user_features


def linear(seed):
    """A linear model with every weight set, as scikit-learn holds it."""
    random = np.random.default_rng(seed)
    model = LogisticRegression()
    model.classes_, model.n_features_in_ = np.array([False, True]), kernels.BUCKETS
    model.coef_ = random.normal(size=(1, kernels.BUCKETS)).astype(np.float32).astype(float)
    model.intercept_ = np.array([0.25])
    return model


TEXTS = linear(1)
WEIGHTS = edit_features.Weights(TEXTS.coef_[0].astype(np.float32), 0.25)
anything = st.none() | st.text(max_size=40)
whole = st.none() | st.integers(-(2**63), 2**63 - 1)
an_edit = st.tuples(anything, anything, anything, anything, anything, whole, whole, st.none() | st.booleans())


@given(st.lists(an_edit, min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_the_fast_path_gives_the_reference_estimators_decision(rows):
    names = ("wiki", "type", "title", "user", "comment", "namespace", "delta", "minor")
    edit = columns(**dict(zip(names, zip(*rows, strict=True), strict=True)))
    seen = edit_features.compute(edit, WEIGHTS)
    reference = TEXTS.decision_function(edit_features.text_matrix(edit))
    assert np.abs(seen[:, edit_features.TEXT_COLUMN] - reference).max() < 1e-6
    assert np.isfinite(np.delete(seen, edit_features.DELTA_COLUMN, axis=1)).all()


@given(st.lists(st.text(max_size=30), min_size=2, max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_an_edits_evidence_depends_on_that_edit_alone(comments, data):
    edit = columns(user=["Ada"] * len(comments), comment=comments, title=comments)
    cut = data.draw(st.integers(0, len(comments)))
    whole = edit_features.compute(edit, WEIGHTS)
    parts = [edit_features.compute(part, WEIGHTS) for part in (edit.slice(0, cut), edit.slice(cut))]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize(
    ("source", "user", "name"),
    [(kernels, edit_features, "KERNELS_SOURCE"), (edit_features, user_features, "EDIT_FEATURES_SOURCE")],
)
def test_machine_code_on_disk_is_renewed_when_what_is_compiled_into_it_changes(source, user, name):
    digest = hashlib.sha256(Path(source.__file__).read_bytes()).hexdigest()[:12]
    assert digest == getattr(user, name), f"Set {name} in {user.__name__} to {digest!r}."


def test_the_flag_changes_nothing():
    edit = {"user": ["Ada", "Ada"], "comment": ["Bot: x", "y"], "bot": [True, False]}
    seen = edit_features.compute(columns(**edit), WEIGHTS)
    np.testing.assert_array_equal(
        seen, edit_features.compute(columns(**edit | {"bot": [False, None]}), WEIGHTS)
    )
    edit_features.compute(columns(**edit).drop_columns(["bot", "meta_id", "timestamp"]), WEIGHTS)


def test_every_shape_of_column_runs_the_same_machine_code():
    """Sliced, chunked, empty, with nulls, computed: one compilation serves all."""
    compiled = edit_features._edit_features
    edit = columns(user=["Ada", "Bo"], comment=["x", None], title=["y", "z"])
    edit_features.compute(edit, WEIGHTS)
    before = len(compiled.signatures)
    for shape in (
        edit.slice(1),
        edit.slice(0, 0),
        pa.concat_tables([edit, edit]),
        edit.to_batches()[0],
        edit.set_column(4, "type", edit.column("title").dictionary_encode()),
        edit.set_column(5, "title", pa.array(["a", "b"]).cast(pa.large_string())),
    ):
        assert len(edit_features.compute(shape, WEIGHTS)) == shape.num_rows
    assert len(compiled.signatures) == before


def hints(name):
    bits = int(edit_features.compute(columns(user=[name]), WEIGHTS)[0, edit_features.NAME_COLUMN])
    return [hint for i, hint in enumerate(edit_features.NAME_FLAGS) if bits >> i & 1]


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
    table = columns(**{name: [value] for name, value in ({"user": "Ada"} | edit).items()})
    bits = int(edit_features.compute(table, WEIGHTS)[0, edit_features.FLAGS_COLUMN])
    return {flag for i, flag in enumerate(edit_features.FLAGS) if bits >> i & 1}


def test_an_edit_is_read():
    assert "comment speaks of a bot" in flags(comment="Bot: archiving 3 threads")
    assert "comment speaks of a bot" in flags(comment="Робот: добавление")
    assert "comment speaks of a bot" not in flags(comment="bottom of the page, reboted")
    assert "comment names a tool that people steer" in flags(comment="Cat-a-lot")
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
