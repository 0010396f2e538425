"""Verdict cards: why a user is listed, in words; whatever the stream wrote is only text."""

import msgspec
import pytest
import world

from lib.blacklist.ledger import Entry, Ledger
from lib.online import cards, judge, metrics, state

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


def test_a_card_names_the_edit_and_what_would_have_changed_the_verdict(entry):
    card = cards.from_entry(entry)
    assert "after 3 edits: the score 0.900 reached the 0.500 asked by then." in card._repr_html_()
    assert card.would_have_changed.startswith("Had “name ends in ‘bot’” been as with an average user")
    assert card.edit["timestamp"] == "2015-09-12T00:46:58.771Z"
    assert card.contributions[0] == cards.Contribution("name ends in “bot”", 3.0)


def test_texts_of_the_stream_are_escaped(entry):
    page = cards.from_entry(entry)._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page
    long = cards.from_entry(msgspec.structs.replace(entry, user="u" * 9000))._repr_html_()
    assert "u" * 500 + "…" in long and len(long) < 3000
    cards.from_entry(entry).figure()  # TeX in a name is drawn as it is


def test_an_entry_without_a_models_reasons_has_a_card():
    card = cards.from_entry(Entry("B", "flagged in the sample", 0, {"edits": 1, "edit": {"title": None}}))
    assert card.would_have_changed == "No score was needed." and "after 1 edit." in card._repr_html_()


def test_reasons_that_decide_only_together_are_named_together():
    reasons = [cards.Contribution(name, 1.0) for name in ("a", "b", "c")]
    reasons.append(cards.Contribution("number of edits", 9.0))  # which raises the threshold, too
    assert cards.counterfactual(reasons, 0.9, 0.5).startswith("Had “a”, “b” and “c” been")
    assert cards.counterfactual(reasons[:1], 0.99, 0.01).startswith("Even with")
    assert cards.counterfactual(reasons, 1.0, 0.5).startswith("Even with")


def test_every_user_on_the_list_has_a_card_and_nobody_else(tmp_path, entry):
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        ledger.add([entry])
    assert cards.read(str(tmp_path), NASTY).score == 0.9  # OUT_DIR of the notebook is a text
    assert cards.read(tmp_path, "A person") is None


def test_cards_are_written_with_the_texts_of_the_edits_before(tmp_path, entry):
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        ledger.add([msgspec.structs.replace(entry, reason=judge.REASON), Entry("Old", "model", 1)])
        rows = [
            (NASTY, True, "kept"),
            ("Ada", False, "kept"),
            (NASTY, True, "flagged"),
            (NASTY, True, "dropped"),
        ]
        state.write_part(tmp_path, 1, world.verdict_table(*rows))
        cards.write(tmp_path, ledger, lambda ids: {name: {"title": "T"} for name in ids if name != "000"})
    loaded = cards.load(tmp_path)
    assert list(loaded) == [NASTY]
    edits = loaded[NASTY].edits
    assert [(edit["meta_id"], edit["verdict"], edit.get("title")) for edit in edits] == [
        ("000", "kept", None),
        ("002", "flagged", "T"),
    ]
    assert cards.pick_examples(loaded, metrics.load_verdicts(tmp_path)) == [loaded[NASTY]]
