import gzip
import json
import zipfile

import pytest

from lib import events
from lib.stream import recording, sample_day

OLD = {
    "time": "2015-09-12T00:46:58.771Z",
    "channel": "#en.wikipedia",
    "cityName": None,
    "comment": "added é\u2028 project",
    "isAnonymous": False,
    "isMinor": True,
    "isNew": True,
    "isRobot": False,
    "isUnpatrolled": False,
    "namespace": "Talk",
    "page": "Talk:Oswald Tilghman",
    "user": "GELongstreet",
    "delta": 36,
    "added": 36,
    "deleted": 0,
}


def old(**changed):
    return json.dumps({**OLD, **changed}).encode()


def test_every_field_has_its_source_and_what_is_not_known_is_null():
    event = sample_day.convert(old(), 7)
    known = {
        "$schema": "/mediawiki/recentchange/1.0.0",
        "type": "new",
        "namespace": 1,
        "title": "Talk:Oswald Tilghman",
        "comment": OLD["comment"],
        "timestamp": 1442018818,
        "user": "GELongstreet",
        "bot": False,
        "minor": True,
        "length": {"old": None, "new": None},
        "revision": {"old": None, "new": None},
        "server_url": "https://en.wikipedia.org",
        "server_name": "en.wikipedia.org",
        "wiki": "enwiki",
        "delta": 36,
    }
    meta = {
        "id": event["meta"]["id"],
        "dt": OLD["time"],
        "domain": "en.wikipedia.org",
        "stream": "mediawiki.recentchange",
        "topic": "eqiad.mediawiki.recentchange",
        "partition": 0,
        "offset": 7,
    }
    nulls = dict.fromkeys(["id", "patrolled", "parsedcomment"])
    assert event == {**known, **nulls, "meta": {**meta, "uri": None, "request_id": None}}


def test_ids_follow_place_and_text_not_spacing():
    lines = [(old(), 3), (json.dumps(OLD, indent=1).encode(), 3), (old(), 4), (old(comment="x"), 3)]
    first, same, *others = [sample_day.convert(line, place)["meta"]["id"] for line, place in lines]
    assert first == same and len({first, *others}) == 3


@pytest.mark.parametrize(
    ("language", "name", "number"),
    [
        ("en", "Main", 0),
        ("en", "Draft talk", 119),
        ("de", "Benutzerin Diskussion", 3),
        ("ja", "利用者‐会話", 3),
        ("pt", "Anexo", 102),
        ("es", "Anexo", 104),
        ("en", "Benutzer", None),
        ("vi", "UTC+04", None),
    ],
)
def test_a_namespace_is_a_number_of_its_own_wiki(language, name, number):
    assert sample_day.namespace_number(language, name) == number


def test_the_jar_makes_the_same_bytes_each_time(tmp_path):
    with zipfile.ZipFile(tmp_path / "some.jar", "w") as jar:
        jar.writestr(sample_day.MEMBER, gzip.compress(b"\n".join([old(), old(namespace="GO"), b""])))
    for name in ("one", "two"):
        sample_day.write_day(tmp_path / "some.jar", tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert [json.loads(line)["namespace"] for line in recording.lines(tmp_path / "one")] == [1, None]


def test_the_day_as_it_is():
    day = [events.decode(line) for line in recording.lines(sample_day.ensure())]
    assert len(day) == 39_244 == len({event.meta.id for event in day})
    assert len({event.wiki for event in day}) == 51 and len({event.user for event in day}) == 10_531
    assert sum(bool(event.bot) for event in day) == 15_420
    assert sum(event.namespace is None for event in day) == 9
    assert all(event.is_edit for event in day)
    times = [event.time_ms for event in day]
    assert times == sorted(times)
