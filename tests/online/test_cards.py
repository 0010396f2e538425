"""Verdict cards: why, in words; and whatever the stream wrote is only text."""

from types import SimpleNamespace

import msgspec
import pytest

from lib import events
from lib.blacklist.ledger import Entry
from lib.online import cards, sitting
from lib.online.books import Books

NASTY = '<script>alert("1")</script> $x$ \u202e'
EVIDENCE = {
    "edit": {"meta_id": "1", "timestamp": 1442018818771, "wiki": "enwiki", "title": NASTY, "comment": NASTY},
    "threshold": 0.5,
    "edits": 3,
    "contributions": [["name ends in “bot”", 3.0], ["wikis", -0.5], ["new page", 0.4]],
    "features": {},
}


@pytest.fixture
def entry():
    return Entry(NASTY, "online", 1442018818771, EVIDENCE, 0.9, "m1")


def test_a_card_says_what_tipped_the_balance_and_what_would_have_changed_it(entry):
    card = cards.card(entry)
    assert "after 3 edits: the score 0.900 reached the threshold 0.500" in card.sentence()
    assert card.would_have_changed.startswith("Had “name ends in ‘bot’” been as with an average user")
    assert card.edit["timestamp"] == "2015-09-12T00:46:58.771Z"
    assert card.contributions[0] == cards.Contribution("name ends in “bot”", 3.0)


def test_texts_of_the_stream_are_escaped(entry):
    page = cards.card(entry).html()
    assert "<script>" not in page and "&lt;script&gt;" in page
    long = cards.card(msgspec.structs.replace(entry, user="u" * 9000)).html()
    assert "u" * 500 + "…" in long and len(long) < 3000
    cards.card(entry).figure()  # TeX in a name is drawn as it is


def test_without_a_model_s_reasons_the_card_still_speaks(entry):
    flagged = Entry("B", "flagged in the sample", 0, {"edits": 1, "edit": {"title": None}})
    card = cards.card(flagged)
    assert card.would_have_changed.startswith("The wiki itself") and "after 1 edit." in card.sentence()


def test_reasons_that_decide_only_together_are_named_together():
    reasons = [cards.Contribution(name, 1.0) for name in ("a", "b", "c")]
    assert cards.what_would_have_changed(reasons, 0.9, 0.5).startswith("Had “a”, “b” and “c” been")
    assert cards.what_would_have_changed(reasons[:1], 0.99, 0.01).startswith("Even with")


def test_anyone_on_the_list_has_a_card_and_nobody_else(tmp_path, entry):
    with Books(tmp_path) as books, books.transaction():
        books.ledger.add([entry])
    assert cards.read(tmp_path, NASTY).score == 0.9
    assert cards.read(tmp_path, "A person") is None


@pytest.mark.parametrize("nothing", [b"", b', "id": null', b', "id": ""'])
def test_texts_of_an_edit_without_an_id_are_found_by_its_name(nothing):
    raw = (
        b'{"meta": {"dt": "2024-11-12T00:00:00Z"%b}, "type": "edit", "title": "T", "comment": "c"}' % nothing
    )
    stage = SimpleNamespace(messages=lambda most: [b"not JSON", raw])
    name = events.event_key(raw, events.decode(raw))
    found = sitting._texts(stage)(frozenset([name]))
    assert found == {name: {"title": "T", "comment": "c", "delta": None}}
