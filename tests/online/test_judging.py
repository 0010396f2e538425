"""Judging: a verdict is a function of the events and the model, wherever the epochs are cut."""

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lib import events
from lib.blacklist.bloom import BlacklistFilter
from lib.blacklist.ledger import Entry
from lib.model import edit_features, user_features
from lib.online import judging, sieve
from lib.online.books import Books

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

    def explain(self, states):
        return [[("different comments", 1.0)] for _ in states]


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


class Court:
    """A judge with books in a folder, fed by hand: one partition per remainder of the user's name."""

    def __init__(self, folder: Path, partitions=1, members=(), **options):
        self.books = Books(folder)
        self.partitions = partitions
        self.offsets = self.books.offsets()
        with self.books.transaction():
            self.books.ledger.add([Entry(user, "before", 0) for user in members])
        self.judge = judging.Judge(Model(), self.books, **options)
        self.options = options
        self.filter = BlacklistFilter.build(self.books.ledger.members())

    def partition(self, raw):
        try:
            user = json.loads(raw)["user"] or ""
        except (ValueError, KeyError, TypeError):
            user = ""
        return sum(user.encode()) % self.partitions

    def hear(self, raws):
        """Judge some events as one epoch and write it to the books."""
        packed = []
        for partition in range(self.partitions):
            here = [raw for raw in raws if self.partition(raw) == partition]
            if not here:
                continue
            start = self.offsets.get(partition, 0)
            self.offsets[partition] = start + len(here)
            places = np.arange(start, start + len(here))
            found = sieve.examine(
                pa.array(here, pa.binary()),
                partition,
                places,
                np.zeros(len(here), np.int64),
                Model(),
                self.filter,
                **self.options,
            )
            packed.append(sieve.pack(found))
        outcome = self.judge.judge(sieve.unpack(packed))
        epoch = self.books.epoch + 1
        with self.books.transaction():
            self.judge.write(outcome)
            self.books.seen.remember(epoch, outcome.ids)
            self.books.write_epoch(epoch, 1, outcome.verdicts.num_rows, outcome.counts, outcome.offsets)
        return outcome


def verdicts(*outcomes):
    rows = pa.concat_tables([outcome.verdicts for outcome in outcomes])
    return {row["meta_id"]: (row["verdict"], row["score"]) for row in rows.to_pylist()}


def words(*outcomes):
    return [verdict for verdict, _ in verdicts(*outcomes).values()]


@pytest.fixture
def court(tmp_path):
    with_books = Court(tmp_path / "books")
    yield with_books
    with_books.books.close()


def test_the_edit_that_tips_the_balance_is_flagged_and_those_after_it_are_dropped(court):
    outcome = court.hear([event(n, "AnyBot") for n in range(5)])
    assert words(outcome) == ["kept", "kept", "flagged", "dropped", "dropped"]
    entry = court.books.ledger.get("AnyBot")
    assert entry.since == 1731369602000 and entry.score == 0.95 and entry.model_version == "test"
    assert entry.evidence["edit"]["meta_id"] == "id-2"
    assert entry.evidence["edits"] == 3 and entry.evidence["features"]["number of edits"] == np.log(3)


def test_a_member_of_the_ledger_is_dropped_from_the_first_edit_on(tmp_path):
    court = Court(tmp_path, members=["AnyBot"], shadow_share=0)
    assert words(court.hear([event(1, "AnyBot"), event(2, "A person")])) == ["dropped", "kept"]


def test_every_edit_has_one_verdict_and_other_events_have_none(court):
    raws = [
        event(1, "A"),
        event(2, "A", kind="log"),
        event(3, None),
        b"not JSON",
        b"\xff\xfe",
        event(4, "B", kind="new"),
    ]
    outcome = court.hear(raws)
    assert list(verdicts(outcome)) == ["id-1", "id-3", "id-4"]
    assert outcome.counts["events"] == 4 and outcome.counts["edits"] == 3 and outcome.counts["invalid"] == 2
    assert [raw for raw, _ in court.books.dead_letters()] == [b"not JSON", b"\xff\xfe"]


def test_an_edit_without_a_user_is_kept_without_a_score(court):
    assert verdicts(court.hear([event(1, None), event(2, None), event(3, None)])) == {
        "id-1": ("kept", None),
        "id-2": ("kept", None),
        "id-3": ("kept", None),
    }
    assert len(court.books.ledger) == 0


def test_a_duplicate_is_counted_and_judged_once_in_an_epoch_and_across_epochs(court):
    first = court.hear([event(1, "A"), event(1, "A"), event(2, "A")])
    second = court.hear([event(2, "A"), event(3, "A")])
    assert list(verdicts(first, second)) == ["id-1", "id-2", "id-3"]
    assert first.counts["duplicates"] == 1 and second.counts["duplicates"] == 1
    assert words(second) == ["flagged"]  # the third edit, not the fifth


def test_a_hash_collision_costs_nobody_an_edit(tmp_path):
    court = Court(tmp_path)
    court.filter = BlacklistFilter.build(["A person"])  # says yes, and the ledger says no
    outcome = court.hear([event(n, "A person") for n in range(5)])
    plain = Court(tmp_path / "plain")
    assert verdicts(outcome) == verdicts(plain.hear([event(n, "A person") for n in range(5)]))
    assert words(outcome) == ["kept", "kept", "flagged", "dropped", "dropped"]
    assert outcome.collisions == ["A person"] and court.books.collisions() == 1


def test_an_allowed_user_is_scored_and_never_flagged(tmp_path):
    with Books(tmp_path) as books, books.transaction():
        books.ledger.allow("A person", reason="asked", at=0)
    outcome = Court(tmp_path).hear([event(n, "A person") for n in range(4)])
    assert set(words(outcome)) == {"kept"}
    assert verdicts(outcome)["id-3"] == ("kept", 0.95)


def test_shadow_edits_are_dropped_and_scored(tmp_path):
    court = Court(tmp_path, members=["AnyBot"], shadow_share=0.5)
    outcome = court.hear([event(n, "AnyBot") for n in range(40)])
    assert set(words(outcome)) == {"dropped"}
    scored = [score for _, score in verdicts(outcome).values() if score is not None]
    assert len(scored) == outcome.counts["shadow_scored"] and 10 < len(scored) < 30
    assert court.books.shadow_scores() == {"AnyBot": scored[-1]}
    assert scored[-1] == 0.95


def _crowd(seed, n=250):
    chance = random.Random(seed)
    raws = []
    for number in range(n):
        user = chance.choice([None, "Bot A", "Bot B", "Ünï", "C", "D", "E", "F", "G\x00H", "~2026-1-2"])
        comment = (
            "archived" if user and "Bot" in user or chance.random() < 0.3 else f"wrote {chance.random()}"
        )
        when = max(0, number * 50 + chance.randint(-3000, 3000))
        raws.append(
            event(
                number,
                user,
                seconds=min(when, 86399),
                comment=comment,
                kind=chance.choice(["edit", "new", "log"]),
            )
        )
        if chance.random() < 0.1:
            raws.append(chance.choice(raws))
        if chance.random() < 0.03:
            raws.append(chance.choice([b"", b"[]", b"{}", b"\xff", b'{"meta": {"dt": 3}}']))
    return raws


@pytest.mark.parametrize("seed", range(4))
def test_the_same_verdicts_however_epochs_are_cut_and_restarted(tmp_path, seed):
    raws = _crowd(seed)
    whole = Court(tmp_path / "whole", members=["D"])
    expected = verdicts(whole.hear(raws))
    letters = sorted(whole.books.dead_letters())
    members = whole.books.ledger.members()
    for partitions, most, restarts in ((1, 7, False), (2, 50, True), (8, 200, False), (3, 1, False)):
        chance = random.Random(seed)
        folder = tmp_path / f"{partitions}-{most}"
        court = Court(folder, partitions, members=["D"])
        outcomes, place = [], 0
        while place < len(raws):
            size = chance.randint(1, most)
            outcomes.append(court.hear(raws[place : place + size]))
            place += size
            if restarts and chance.random() < 0.3:
                court.books.close()
                court = Court(folder, partitions)
        assert verdicts(*outcomes) == expected
        assert sorted(court.books.dead_letters()) == letters
        assert court.books.ledger.members() == members
        assert list(court.books.ledger.entries()) == list(whole.books.ledger.entries())
        assert court.books.totals()["duplicates"] == whole.books.totals()["duplicates"]
        court.books.close()


def test_an_epoch_that_was_not_written_is_judged_again_alike(tmp_path):
    raws = [event(n, "AnyBot") for n in range(4)]
    court = Court(tmp_path)
    court.hear(raws[:2])
    found = sieve.examine(
        pa.array(raws[2:]), 0, np.arange(2, 4), np.zeros(2, np.int64), Model(), court.filter
    )
    lost = court.judge.judge(sieve.unpack([sieve.pack(found)]))  # … and killed before it is in the books
    court.books.close()
    again = Court(tmp_path).hear(raws[2:])
    assert again.verdicts == lost.verdicts and again.entries == lost.entries


def test_an_empty_epoch_is_no_epoch(court):
    outcome = court.hear([event(1, "A", kind="log")])
    assert outcome.verdicts.num_rows == 0 and outcome.verdicts.schema == judging.SCHEMA


@pytest.mark.parametrize("nothing", [b"", b', "id": null', b', "id": ""'])
def test_an_event_without_an_id_is_no_duplicate_and_is_named_by_its_text(court, nothing):
    raw = b'{"meta": {"dt": "2024-11-12T00:00:00Z"%b}, "type": "edit", "user": "A"}' % nothing
    outcome = court.hear([raw, raw])
    assert outcome.counts["duplicates"] == 0
    assert outcome.verdicts.column("meta_id").to_pylist() == [events.event_key(raw, events.decode(raw))] * 2


def look(raws):
    n = np.arange(len(raws))
    return sieve.examine(pa.array(raws, pa.binary()), 0, n, n, Model(), BlacklistFilter.build([]))


def test_texts_that_no_wiki_takes_are_cut_alike_whatever_stands_beside_them():
    long = event(1, "Ada", comment="é" * 5000, title="t" * 5000)
    alone, among = look([long]), look([event(0, "Bob"), long, event(2, "Bob", comment="x" * sieve.LONGEST)])
    for found, row in ((alone, 0), (among, 1)):
        assert found.edits.column("comment")[row].as_py() == "é" * sieve.LONGEST
        assert found.edits.column("title")[row].as_py() == "t" * sieve.LONGEST
    assert np.array_equal(alone.evidence[0], among.evidence[1], equal_nan=True)
    assert len(among.edits.column("comment")[2].as_py()) == sieve.LONGEST


def test_one_event_that_is_not_utf8_is_a_dead_letter_and_the_others_are_judged():
    bad = event(1, "Ada", server_name="x").replace(b'"x"', b'"\xeb"')
    found = look([event(0, "Ada"), bad, event(2, "Ada")])
    assert found.events.num_rows == 2
    (letter,) = found.invalid.to_pylist()
    assert letter["raw"] == bad and "utf-8" in letter["reason"]
