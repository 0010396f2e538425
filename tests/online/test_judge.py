"""Judging: a verdict is a function of the events and the model, wherever the batches are cut."""

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import world
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import events
from lib.blacklist.bloom import BlacklistFilter
from lib.blacklist.ledger import Entry
from lib.model import edit_features, user_features
from lib.online import scoring, state
from lib.online.judge import OnlineClassifier
from lib.online.state import StateStore

WEIGHTS = edit_features.Weights(
    np.random.default_rng(0).normal(0, 1, 1 << 17).astype(np.float32),
    0.0,
)


class Model:
    """A model that finds whoever edits fast and repeats themselves: simple enough to foresee."""

    version = "test"
    threshold = 0.9

    def edit_features(self, table):
        return edit_features.compute(table, WEIGHTS)

    def score(self, x):
        edits_made = np.exp(x[:, user_features.FEATURES.index("number of edits")])
        different = np.round(np.exp(x[:, user_features.FEATURES.index("different comments")]))
        repeats = (edits_made - different) / np.maximum(edits_made - 1, 1)
        return np.where(edits_made >= 3, 0.1 + 0.85 * repeats, 0.1)

    def is_flagged(self, x, score):
        return score >= self.threshold

    def required_score(self, x):
        return self.threshold

    def explain(self, x):
        return [[("different comments", 1.0)] for _ in x]


def event(number, user, *, seconds=None, comment="archived", kind="edit", bot=False, **more):
    """An event as JSON text; number names it and sets its time."""
    minute, second = divmod(number if seconds is None else seconds, 60)
    hour, minute = divmod(minute, 60)
    content = {
        "meta": {"dt": f"2024-11-12T{hour:02d}:{minute:02d}:{second:02d}.000Z", "id": f"id-{number}"},
        "type": kind,
        "user": user,
        "title": "Page",
        "comment": comment,
        "bot": bot,
        "wiki": "enwiki",
        **more,
    }
    return json.dumps(content).encode()


def scored(raws, bloom=None, **options):
    """What the executors make of some events."""
    bloom = bloom or BlacklistFilter.build([])
    return scoring.score(world.messages_of_spark(raws), WEIGHTS, bloom, **options)


class Harness:
    """A classifier with its state in a folder, fed by hand: one partition per remainder of the user's name."""

    def __init__(self, folder: Path, partitions=1, members=(), **options):
        self.state = StateStore(folder)
        self.partitions = partitions
        self.offsets = self.state.offsets()
        with self.state.transaction():
            self.state.ledger.add([Entry(user, "before", 0) for user in members])
        self.classifier = OnlineClassifier(Model(), self.state)
        self.options = options
        self.filter = BlacklistFilter.build(self.state.ledger.members())

    def partition(self, raw):
        try:
            user = json.loads(raw)["user"] or ""
        except (ValueError, KeyError, TypeError):
            user = ""
        return sum(user.encode()) % self.partitions

    def classify(self, raws):
        """Classify some events as one batch."""
        batches = []
        for partition in range(self.partitions):
            here = [raw for raw in raws if self.partition(raw) == partition]
            start = self.offsets.get(partition, 0)
            self.offsets[partition] = start + len(here)
            batch = world.messages_of_spark(here, partition, start)
            batches.append(scoring.score(batch, WEIGHTS, self.filter, **self.options))
        return self.classifier.classify(pa.Table.from_batches(batches))

    def judge_batch(self, raws):
        """Classify some events as one batch, and commit it."""
        result = self.classify(raws)
        with self.state.transaction():
            self.state.write_batch(len(self.state.batches()) + 1, 1, result)
        return result


def verdicts(*results):
    rows = pa.concat_tables([result.verdicts for result in results])
    return {row["meta_id"]: (row["verdict"], row["score"]) for row in rows.to_pylist()}


def words(*results):
    return [verdict for verdict, _ in verdicts(*results).values()]


@pytest.fixture
def harness(tmp_path):
    opened = Harness(tmp_path / "state")
    yield opened
    opened.state.close()


def test_the_edit_that_tips_the_balance_is_flagged_and_those_after_it_are_dropped(harness):
    result = harness.judge_batch([event(n, "AnyBot") for n in range(5)])
    assert words(result) == ["kept", "kept", "flagged", "dropped", "dropped"]
    entry = harness.state.ledger.get("AnyBot")
    assert entry.since == 1731369602000 and entry.score == 0.95 and entry.model_version == "test"
    assert entry.evidence["edit"]["meta_id"] == "id-2"
    assert entry.evidence["edits"] == 3 and entry.evidence["features"]["number of edits"] == np.log(3)


def test_a_member_of_the_ledger_is_dropped_from_the_first_edit_on(tmp_path):
    harness = Harness(tmp_path, members=["AnyBot"], shadow_share=0)
    assert words(harness.judge_batch([event(1, "AnyBot"), event(2, "A person")])) == ["dropped", "kept"]


def test_every_edit_has_one_verdict_and_other_events_have_none(harness):
    raws = [event(1, "A"), event(2, "A", kind="log"), event(3, None), event(4, "B", kind="new")]
    raws += [b"not JSON", b"\xff\xfe"]
    result = harness.judge_batch(raws)
    assert list(verdicts(result)) == ["id-1", "id-3", "id-4"]
    assert result.counts["events"] == 4 and result.counts["edits"] == 3 and result.counts["invalid"] == 2
    assert [raw for raw, _ in harness.state.dead_letters()] == [b"not JSON", b"\xff\xfe"]


def test_an_edit_without_a_user_is_kept_without_a_score(harness):
    result = harness.judge_batch([event(n, None) for n in range(3)])
    assert set(verdicts(result).values()) == {("kept", None)} and len(verdicts(result)) == 3
    assert len(harness.state.ledger) == 0


def test_a_duplicate_is_counted_and_judged_once_in_a_batch_and_across_batches(harness):
    first = harness.judge_batch([event(1, "A"), event(1, "A"), event(2, "A")])
    second = harness.judge_batch([event(2, "A"), event(3, "A")])
    assert list(verdicts(first, second)) == ["id-1", "id-2", "id-3"]
    assert first.counts["duplicates"] == 1 and second.counts["duplicates"] == 1
    assert words(second) == ["flagged"]  # the third edit, not the fifth


def test_a_hash_collision_costs_nobody_an_edit(tmp_path):
    harness = Harness(tmp_path)
    harness.filter = BlacklistFilter.build(["A person"])  # says yes, and the ledger says no
    result = harness.judge_batch([event(n, "A person") for n in range(5)])
    plain = Harness(tmp_path / "plain")
    assert verdicts(result) == verdicts(plain.judge_batch([event(n, "A person") for n in range(5)]))
    assert words(result) == ["kept", "kept", "flagged", "dropped", "dropped"]
    assert result.collisions == ["A person"] and harness.state.counters()["collisions"] == 1


def test_an_allowed_user_is_scored_and_never_flagged(tmp_path):
    with StateStore(tmp_path) as state, state.transaction():
        state.ledger.allow("A person", reason="asked", at=0)
    result = Harness(tmp_path).judge_batch([event(n, "A person") for n in range(4)])
    assert set(words(result)) == {"kept"}
    assert verdicts(result)["id-3"] == ("kept", 0.95)


def test_shadow_edits_are_dropped_and_scored(tmp_path):
    harness = Harness(tmp_path, members=["AnyBot"], shadow_share=0.5)
    result = harness.judge_batch([event(n, "AnyBot") for n in range(40)])
    assert set(words(result)) == {"dropped"}
    scored = [score for _, score in verdicts(result).values() if score is not None]
    assert len(scored) == result.counts["shadow_scored"] and 10 < len(scored) < 30
    shadow = harness.state.user_states(["AnyBot"], shadow=True)
    assert shadow.score[0] == scored[-1] == 0.95 and shadow.state[0].any()


def _crowd(seed, n=250):
    chance = random.Random(seed)
    raws = []
    for number in range(n):
        user = chance.choice([None, "Bot A", "Bot B", "Ünï", "C", "D", "E", "F", "G\x00H", "~2026-1-2"])
        repeats = (user and "Bot" in user) or chance.random() < 0.3
        comment = "archived" if repeats else f"wrote {chance.random()}"
        seconds = min(max(0, number * 50 + chance.randint(-3000, 3000)), 86399)
        kind = chance.choice(["edit", "new", "log"])
        raws.append(event(number, user, seconds=seconds, comment=comment, kind=kind))
        if chance.random() < 0.1:
            raws.append(chance.choice(raws))
        if chance.random() < 0.03:
            raws.append(chance.choice([b"", b"[]", b"{}", b"\xff", b'{"meta": {"dt": 3}}']))
    return raws


@pytest.mark.parametrize("seed", range(2))
def test_the_same_verdicts_however_batches_are_cut_and_restarted(tmp_path, seed):
    raws = _crowd(seed)
    whole = Harness(tmp_path / "whole", members=["D"])
    expected = verdicts(whole.judge_batch(raws))
    letters = sorted(whole.state.dead_letters())
    members = whole.state.ledger.members()
    for partitions, most, restarts in ((1, 7, False), (2, 50, True), (8, 200, False), (3, 2, False)):
        chance = random.Random(seed)
        folder = tmp_path / f"{partitions}-{most}"
        harness = Harness(folder, partitions, members=["D"])
        results, place = [], 0
        while place < len(raws):
            size = chance.randint(1, most)
            results.append(harness.judge_batch(raws[place : place + size]))
            place += size
            if restarts and chance.random() < 0.3:
                harness.state.close()
                harness = Harness(folder, partitions)
        assert verdicts(*results) == expected
        assert sorted(harness.state.dead_letters()) == letters
        assert harness.state.ledger.members() == members
        assert list(harness.state.ledger.entries()) == list(whole.state.ledger.entries())
        assert harness.state.counters()["duplicates"] == whole.state.counters()["duplicates"]
        harness.state.close()


def test_a_batch_that_was_not_written_is_judged_again_alike(tmp_path):
    raws = [event(n, "AnyBot") for n in range(4)]
    harness = Harness(tmp_path)
    harness.judge_batch(raws[:2])
    lost = harness.classify(raws[2:])  # … and killed before it is committed
    harness.state.close()
    again = Harness(tmp_path).judge_batch(raws[2:])
    assert again.verdicts == lost.verdicts and again.entries == lost.entries


def test_a_batch_without_edits(harness):
    result = harness.judge_batch([event(1, "A", kind="log")])
    assert result.verdicts.num_rows == 0 and result.verdicts.schema == state.VERDICT_SCHEMA


@pytest.mark.parametrize("nothing", [b"", b', "id": null', b', "id": ""'])
def test_an_event_without_an_id_is_no_duplicate_and_is_named_by_its_text(harness, nothing):
    raw = b'{"meta": {"dt": "2024-11-12T00:00:00Z"%b}, "type": "edit", "user": "A"}' % nothing
    result = harness.judge_batch([raw, raw])
    assert result.counts["duplicates"] == 0
    assert result.verdicts.column("meta_id").to_pylist() == [events.event_key(raw, events.decode(raw))] * 2


def test_texts_that_no_wiki_takes_are_cut_alike_whatever_stands_beside_them():
    longest = scoring.MAX_TEXT_CHARACTERS
    long = event(1, "Ada", comment="é" * 5000, title="t" * 1000)
    alone = scored([long]).to_pylist()[0]
    _, among, other = scored([event(0, "Bob"), long, event(2, "Bob", comment="x" * longest)]).to_pylist()
    assert (among["comment"], among["title"]) == ("é" * longest, "t" * 1000)
    assert str(alone | {"offset": 1}) == str(among) and len(other["comment"]) == longest


def test_one_event_that_is_not_utf8_is_a_dead_letter_and_the_others_are_judged():
    bad = event(1, "Ada", server_name="x").replace(b'"x"', b'"\xeb"')
    found = scored([event(0, "Ada"), bad, event(2, "Ada")]).to_pylist()
    assert [row["kind"] for row in found] == ["edit", "invalid", "edit"]
    assert found[1]["raw"] == bad and "utf-8" in found[1]["reason"]


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.text(), unique=True, max_size=50))
def test_different_texts_have_different_hashes(texts):
    assert len(set(scoring.hash64(pa.array(texts, pa.string())).tolist())) == len(texts)


def test_a_sample_is_the_same_everywhere():
    ids = scoring.hash64(pa.array([f"id {n}" for n in range(20_000)]))
    sample = scoring.hash_sample(ids, 0.02)
    assert 300 < sample.sum() < 500
    assert (scoring.hash_sample(ids[::-1], 0.02) == sample[::-1]).all()
    assert not scoring.hash_sample(ids, 0).any()


def test_the_last_ids_are_known_and_the_oldest_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "RECENT_EVENTS", 100)
    harness, raws = Harness(tmp_path), [event(n, "A", kind="log") for n in range(300)]
    for start in range(0, 300, 20):
        harness.judge_batch(raws[start : start + 20])
    assert harness.classify(raws[200:]).counts["duplicates"] == 100
    harness.state.close()
    reopened = Harness(tmp_path)
    assert reopened.classify(raws[200:]).counts["duplicates"] == 100
    assert reopened.classify(raws[:100]).counts["duplicates"] == 0
