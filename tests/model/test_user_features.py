"""Summaries and features: the same numbers however edits are cut."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import columns

from lib.model import edit_features, kernels, user_features

DAY_MS = 86_400_000
WEIGHTS = edit_features.Weights(np.random.default_rng(1).normal(size=kernels.BUCKETS).astype("f4"), 0.25)


def stream(n=400, users=7, seed=0):
    random = np.random.default_rng(seed)
    edit = columns(
        user=[f"user {u}" for u in random.integers(users, size=n)],
        comment=[f"comment {c}" for c in random.integers(20, size=n)],
        title=[f"page {c}" for c in random.integers(20, size=n)],
        wiki=["enwiki"] * n,
        delta=random.integers(-50, 50, size=n).tolist(),
    )
    codes = np.array([int(name[5:]) for name in edit.column("user").to_pylist()])
    times = 1_442_016_000_000 + np.cumsum(random.exponential(60_000, size=n)).astype(np.int64)
    times[n // 2 :] += 8 * DAY_MS
    return codes, times, edit_features.compute(edit, WEIGHTS)


def one_user(times):
    """The state, scored rows and features after edits of one user that are alike."""
    n = len(times)
    edits = np.ones((n, len(edit_features.EDIT_FEATURES)))
    return user_features.update_states(user_features.new_states(1), np.zeros(n, int), times, edits)


@given(st.lists(st.integers(0, 400), max_size=12))
@settings(max_examples=50, deadline=None)
def test_however_a_stream_is_cut_the_summaries_are_the_same_to_the_last_bit(cuts):
    user, times, seen = stream()
    whole, rows, x = user_features.update_states(user_features.new_states(7), user, times, seen)
    state, got_rows, got_x = user_features.new_states(7), [], []
    ends = [0, *sorted(cuts), len(user)]
    for a, b in pairwise(ends):
        state, part_rows, part_x = user_features.update_states(state, user[a:b], times[a:b], seen[a:b])
        got_rows.append(part_rows + a)
        got_x.append(part_x)
    np.testing.assert_array_equal(state, whole)
    np.testing.assert_array_equal(np.concatenate(got_rows), rows)
    np.testing.assert_array_equal(np.concatenate(got_x), x)


def test_a_users_summary_does_not_depend_on_the_others():
    user, times, seen = stream()
    together, _, _ = user_features.update_states(user_features.new_states(7), user, times, seen)
    for u in range(7):
        mine = user == u
        alone, _, _ = user_features.update_states(
            user_features.new_states(1), np.zeros(mine.sum(), int), times[mine], seen[mine]
        )
        np.testing.assert_array_equal(alone[0], together[u])


def test_fold_leaves_its_input_alone_and_stays_small():
    user, times, seen = stream()
    state = user_features.new_states(7)
    user_features.update_states(state, user, times, seen)
    assert not state.any()
    assert user_features.STATE_SIZE <= 42


def test_checkpoints_come_early_then_at_every_doubling():
    _, rows, x = one_user(np.arange(4100) * 1000)
    expected = [*user_features.CHECKPOINTS, 2000, 4000]
    assert (rows + 1).tolist() == expected
    np.testing.assert_allclose(np.exp(x[:, 0]), expected)


def test_a_long_silence_starts_anew():
    silence = user_features.SILENCE_DAYS * DAY_MS
    times = np.array([0, 1000, 1000 + silence, 2001 + 2 * silence])
    for n, edits in ((4, 1), (3, 3)):
        state, _, _ = one_user(times[:n])
        assert round(np.exp(user_features.to_features(state)[0, 0])) == edits


def test_hostile_numbers_and_times_stay_finite():
    seen = edit_features.compute(columns(user=["Ada"] * 3, delta=[2**63 - 1, -(2**63), None]), WEIGHTS)
    times = np.array([2**60, 0, -(2**60)])
    state, _, x = user_features.update_states(user_features.new_states(1), np.zeros(3, int), times, seen)
    assert np.isfinite(x).all()
    assert np.isfinite(state).all()


def test_nothing_in_nothing_out():
    nobody, nothing = np.empty(0, int), np.empty((0, len(edit_features.EDIT_FEATURES)))
    state, rows, x = user_features.update_states(user_features.new_states(0), nobody, nobody, nothing)
    assert state.shape == (0, user_features.STATE_SIZE)
    assert rows.shape == (0,)
    assert x.shape == (0, len(user_features.FEATURES))
    assert not user_features.to_features(user_features.new_states(2)).any()
