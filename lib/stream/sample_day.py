"""The default day: 39,244 real edits of 2015-09-12, turned into recentchange events.

The source is the tutorial file of Apache Druid (``wikipedia/wikiticker-2015-09-12-sampled.json.gz`` in the jar
``org.apache.druid:druid-processing:37.0.0:tests``, Apache-2.0). It is a record of its time, with fewer fields than
EventStreams has today. The rule of the conversion is: *what the old format lacks is null, never invented*.

==================  ====================================================================================
new field           where it comes from
==================  ====================================================================================
``$schema``         ``/mediawiki/recentchange/1.0.0``
``meta.dt``         ``time``, unchanged (ISO 8601, UTC, milliseconds)
``meta.id``         UUID version 5 of `NAMESPACE_ID` and ``"{ordinal}\\n{line}"``: the line's place in the file
                    (from 0) and its text, with JSON's spacing and the keys sorted. The same on every machine
``meta.domain``     ``channel`` without ``#`` and with ``.org``: ``#en.wikipedia`` → ``en.wikipedia.org``
``meta.uri``        null
``meta.request_id`` null
``meta.stream``     ``mediawiki.recentchange``
``meta.topic``      ``eqiad.mediawiki.recentchange`` (in 2015 there was one active data centre)
``meta.partition``  0
``meta.offset``     the ordinal
``id``              null (ids of recent changes are not in the source)
``type``            ``new`` if ``isNew``, else ``edit``
``namespace``       the number of the name in ``namespace`` (`namespace_number`); a name that is no namespace of that
                    wiki (``GO``, ``ISO 639``: titles with a colon) → null
``title``           ``page``, unchanged
``comment``         ``comment``, unchanged
``timestamp``       ``time`` in whole seconds since the epoch, rounded down
``user``            ``user``, unchanged (an IP address where ``isAnonymous``)
``bot``             ``isRobot``
``minor``           ``isMinor``
``patrolled``       null (``isUnpatrolled`` is false both for patrolled edits and on wikis without patrolling)
``length``          ``{"old": null, "new": null}``
``revision``        ``{"old": null, "new": null}``
``server_url``      ``https://`` and the domain
``server_name``     the domain
``wiki``            the language of the channel and ``wiki``: ``#en.wikipedia`` → ``enwiki``
``parsedcomment``   null
``delta``           ``delta`` in bytes: a property of ours, as the lengths it would follow from are unknown
==================  ====================================================================================

Skipped: ``added`` and ``deleted`` (``delta`` is their difference), ``isAnonymous`` and the six fields of places,
which EventStreams has never carried.
"""

from __future__ import annotations

import gzip
import json
import uuid
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

from lib import artifacts, paths
from lib.infra import jars

PATH = paths.RECORDINGS / "2015-09-12.jsonl.gz"
MEMBER = "wikipedia/wikiticker-2015-09-12-sampled.json.gz"
#: Stages 1 to 3 see the day until here, stage 4 the rest.
CUT_MS = 1_442_066_400_000  # 2015-09-12T14:00:00Z
#: The namespace of our UUIDs: itself the UUID version 5 of a name, so that nothing about it is arbitrary.
NAMESPACE_ID = uuid.uuid5(uuid.NAMESPACE_URL, "urn:wikisieve:default-day:2015-09-12")
TOPIC = "eqiad.mediawiki.recentchange"
#: Numbers by language and name; under ``*`` MediaWiki's canonical names, which every wiki knows. From MediaWiki's
#: ``languages/messages/Messages*.php`` (numbers 1 to 15, with the names for women and older aliases) and Wikimedia's
#: ``wgExtraNamespaces`` and extensions (100 and more), as of 2015.
NAMESPACES = json.loads(Path(__file__).with_name("namespaces.json").read_text(encoding="utf-8"))


def namespace_number(language: str, name: str) -> int | None:
    """Return the number of a namespace of one Wikipedia; None if it has no such namespace.

    Parameters
    ----------
    language : str
        Language code of the Wikipedia, such as ``"de"``.
    name : str
        Canonical or localised name, as in page titles with spaces.

    Returns
    -------
    int or None
        MediaWiki's number: 0 articles, 1 their talk pages, 2 users …

    Examples
    --------
    >>> namespace_number("en", "User talk"), namespace_number("de", "Benutzerin Diskussion")
    (3, 3)
    >>> namespace_number("en", "GO") is None
    True
    """
    return NAMESPACES.get(language, {}).get(name, NAMESPACES["*"].get(name))


def convert(line: bytes, ordinal: int) -> dict[str, Any]:
    """Return one line of the old format as a recentchange event.

    Parameters
    ----------
    line : bytes
        One JSON object, without its line end.
    ordinal : int
        Place of the line in the file, counted from 0.

    Returns
    -------
    dict
        The event, see the table at the head of this module.

    Examples
    --------
    >>> old = (b'{"time": "2015-09-12T00:46:58.771Z", "channel": "#en.wikipedia", "comment": "added project", '
    ...        b'"isMinor": false, "isNew": false, "isRobot": false, "namespace": "Talk", '
    ...        b'"page": "Talk:Oswald Tilghman", "user": "GELongstreet", "delta": 36}')
    >>> event = convert(old, 0)
    >>> event["wiki"], event["namespace"], event["type"], event["timestamp"], event["length"], event["delta"]
    ('enwiki', 1, 'edit', 1442018818, {'old': None, 'new': None}, 36)
    """
    old = json.loads(line)
    text = json.dumps(old, ensure_ascii=False, sort_keys=True)
    channel = old["channel"].removeprefix("#")
    language, domain = channel.partition(".")[0], f"{channel}.org"
    return {
        "$schema": "/mediawiki/recentchange/1.0.0",
        "meta": {
            "uri": None,
            "request_id": None,
            "id": str(uuid.uuid5(NAMESPACE_ID, f"{ordinal}\n{text}")),
            "dt": old["time"],
            "domain": domain,
            "stream": "mediawiki.recentchange",
            "topic": TOPIC,
            "partition": 0,
            "offset": ordinal,
        },
        "id": None,
        "type": "new" if old["isNew"] else "edit",
        "namespace": namespace_number(language, old["namespace"]),
        "title": old["page"],
        "comment": old["comment"],
        "timestamp": int(datetime.fromisoformat(old["time"]).timestamp()),
        "user": old["user"],
        "bot": old["isRobot"],
        "minor": old["isMinor"],
        "patrolled": None,
        "length": {"old": None, "new": None},
        "revision": {"old": None, "new": None},
        "server_url": f"https://{domain}",
        "server_name": domain,
        "wiki": f"{language}wiki",
        "parsedcomment": None,
        "delta": old["delta"],
    }


def write_day(jar: Path, target: Path) -> None:
    """Convert the day and write it as gzipped JSON lines; the same input makes the same bytes.

    Parameters
    ----------
    jar : Path
        ``druid-processing-…-tests.jar``, which has the old format.
    target : Path
        The file.
    """
    with zipfile.ZipFile(jar) as archive:
        lines = [line for line in gzip.decompress(archive.read(MEMBER)).splitlines() if line.strip()]
    events = (convert(line, ordinal) for ordinal, line in enumerate(lines))
    texts = (json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n" for event in events)
    artifacts.atomic_write(target, gzip.compress("".join(texts).encode(), 6, mtime=0))


def ensure() -> Path:
    """Return the path of the default day as recentchange events; the first call makes it from the jar."""
    if not PATH.exists():
        (jar,) = jars.fetch("default-day")
        write_day(jar, PATH)
    return PATH
