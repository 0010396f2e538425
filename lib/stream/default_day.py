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
                    (from 0) and its text (`canonical_line`). The same on every machine
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

Left out: ``added`` and ``deleted`` (``delta`` is their difference), ``isAnonymous`` and the six fields of places,
which EventStreams has never carried.
"""

from __future__ import annotations

import gzip
import io
import json
import uuid
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from lib import manifest, paths

NAME = "2015-09-12.jsonl.gz"
MEMBER = "wikipedia/wikiticker-2015-09-12-sampled.json.gz"
EVENTS = 39_244
#: Stages 1 to 3 see the day until here, stage 4 the rest.
CUT = "2015-09-12T14:00:00Z"
#: The namespace of our UUIDs: itself the UUID version 5 of a name, so that nothing about it is arbitrary.
NAMESPACE_ID = uuid.uuid5(uuid.NAMESPACE_URL, "urn:wikisieve:default-day:2015-09-12")
TOPIC = "eqiad.mediawiki.recentchange"

#: MediaWiki's canonical names; every wiki answers to them.
CANONICAL = {
    "Main": 0,
    "Talk": 1,
    "User": 2,
    "User talk": 3,
    "Project": 4,
    "Project talk": 5,
    "Wikipedia": 4,
    "Wikipedia talk": 5,
    "File": 6,
    "File talk": 7,
    "MediaWiki": 8,
    "MediaWiki talk": 9,
    "Template": 10,
    "Template talk": 11,
    "Help": 12,
    "Help talk": 13,
    "Category": 14,
    "Category talk": 15,
    "Portal": 100,
    "Portal talk": 101,
    "Module": 828,
    "Module talk": 829,
}

#: Localised names by language: MediaWiki's ``languages/messages/Messages*.php`` (numbers 1 to 15, with the names for
#: women and older aliases) and Wikimedia's ``wgExtraNamespaces`` and extensions (100 and more), as of 2015.
LOCALISED: dict[str, dict[str, int]] = {
    "ar": {
        "نقاش": 1,
        "مستخدم": 2,
        "نقاش المستخدم": 3,
        "ويكيبيديا": 4,
        "قالب": 10,
        "تصنيف": 14,
        "بوابة": 100,
    },
    "be": {"Размовы": 1, "Удзельнік": 2, "Вікіпедыя": 4},
    "bg": {
        "Беседа": 1,
        "Потребител": 2,
        "Потребител беседа": 3,
        "Уикипедия": 4,
        "Категория": 14,
        "Портал": 100,
    },
    "ca": {
        "Discussió": 1,
        "Usuari": 2,
        "Usuari Discussió": 3,
        "Viquipèdia": 4,
        "Plantilla": 10,
        "Plantilla Discussió": 11,
        "Categoria": 14,
        "Viquiprojecte": 102,
        "Viquiprojecte Discussió": 103,
        "Tema": 2600,
    },
    "ce": {"Файл": 6, "Категори": 14},
    "cs": {
        "Diskuse": 1,
        "Wikipedista": 2,
        "Diskuse s wikipedistou": 3,
        "Wikipedie": 4,
        "Šablona": 10,
        "Kategorie": 14,
        "Portál": 100,
    },
    "da": {
        "Diskussion": 1,
        "Bruger": 2,
        "Brugerdiskussion": 3,
        "Skabelon": 10,
        "Hjælp-diskussion": 13,
    },
    "de": {
        "Diskussion": 1,
        "Benutzer": 2,
        "Benutzerin": 2,
        "Benutzer Diskussion": 3,
        "Benutzerin Diskussion": 3,
        "Wikipedia Diskussion": 5,
        "Datei": 6,
        "Vorlage": 10,
        "Vorlage Diskussion": 11,
        "Hilfe Diskussion": 13,
        "Kategorie": 14,
        "Portal Diskussion": 101,
    },
    "el": {
        "Συζήτηση": 1,
        "Χρήστης": 2,
        "Συζήτηση χρήστη": 3,
        "Βικιπαίδεια": 4,
        "Συζήτηση Βικιπαίδεια": 5,
        "Κατηγορία": 14,
    },
    "en": {"Book": 108, "Draft": 118, "Draft talk": 119, "Topic": 2600},
    "eo": {"Ŝablono": 10, "Kategorio": 14},
    "es": {
        "Discusión": 1,
        "Usuario": 2,
        "Usuaria": 2,
        "Usuario discusión": 3,
        "Usuario Discusión": 3,
        "Usuaria Discusión": 3,
        "Wikipedia discusión": 5,
        "Plantilla": 10,
        "Plantilla discusión": 11,
        "Categoría": 14,
        "Wikiproyecto": 102,
        "Anexo": 104,
        "Anexo Discusión": 105,
    },
    "et": {"Arutelu": 1, "Kasutaja": 2},
    "eu": {"Eztabaida": 1},
    "fa": {
        "بحث": 1,
        "کاربر": 2,
        "بحث کاربر": 3,
        "ویکی\u200cپدیا": 4,
        "پرونده": 6,
        "الگو": 10,
        "رده": 14,
    },
    "fi": {
        "Keskustelu": 1,
        "Käyttäjä": 2,
        "Keskustelu käyttäjästä": 3,
        "Tiedosto": 6,
        "Malline": 10,
        "Luokka": 14,
    },
    "fr": {
        "Discussion": 1,
        "Utilisateur": 2,
        "Utilisatrice": 2,
        "Discussion utilisateur": 3,
        "Discussion utilisatrice": 3,
        "Wikipédia": 4,
        "Discussion Wikipédia": 5,
        "Fichier": 6,
        "Modèle": 10,
        "Discussion modèle": 11,
        "Catégorie": 14,
        "Discussion catégorie": 15,
        "Portail": 100,
        "Projet": 102,
        "Discussion Projet": 103,
        "Sujet": 2600,
    },
    "gl": {
        "Conversa": 1,
        "Usuario": 2,
        "Conversa usuario": 3,
        "Ficheiro": 6,
        "Modelo": 10,
        "Categoría": 14,
    },
    "he": {
        "שיחה": 1,
        "משתמש": 2,
        "משתמשת": 2,
        "שיחת משתמש": 3,
        "שיחת משתמשת": 3,
        "ויקיפדיה": 4,
        "תבנית": 10,
        "שיחת תבנית": 11,
        "טיוטה": 118,
    },
    "hi": {"सदस्य": 2, "सदस्य वार्ता": 3},
    "hr": {"Razgovor sa suradnikom": 3, "Wikipedija": 4},
    "hu": {
        "Vita": 1,
        "Szerkesztő": 2,
        "Szerkesztővita": 3,
        "Wikipédia": 4,
        "Sablon": 10,
        "Kategória": 14,
    },
    "hy": {
        "Քննարկում": 1,
        "Մասնակից": 2,
        "Մասնակցի քննարկում": 3,
        "Վիքիպեդիա": 4,
        "Կաղապար": 10,
        "Կատեգորիա": 14,
    },
    "id": {
        "Pengguna": 2,
        "Pembicaraan Pengguna": 3,
        "Berkas": 6,
        "Templat": 10,
        "Kategori": 14,
        "Pembicaraan Portal": 101,
    },
    "it": {
        "Discussione": 1,
        "Utente": 2,
        "Discussioni utente": 3,
        "Discussioni Wikipedia": 5,
        "Discussioni template": 11,
        "Categoria": 14,
        "Portale": 100,
        "Progetto": 102,
        "Discussioni progetto": 103,
    },
    "ja": {
        "ノート": 1,
        "利用者": 2,
        "利用者‐会話": 3,
        "Wikipedia‐ノート": 5,
        "ファイル": 6,
        "プロジェクト‐ノート": 103,
    },
    "kk": {"Қатысушы талқылауы": 3, "Уикипедия": 4, "Үлгі": 10},
    "ko": {
        "토론": 1,
        "사용자": 2,
        "사용자토론": 3,
        "위키백과": 4,
        "틀": 10,
        "분류": 14,
        "위키프로젝트": 102,
    },
    "la": {"Categoria": 14},
    "lt": {"Aptarimas": 1, "Naudotojo aptarimas": 3},
    "min": {"Templat": 10},
    "ms": {"Perbincangan pengguna": 3, "Fail": 6, "Templat": 10},
    "nl": {
        "Overleg": 1,
        "Gebruiker": 2,
        "Overleg gebruiker": 3,
        "Overleg Wikipedia": 5,
        "Sjabloon": 10,
        "Categorie": 14,
        "Portaal": 100,
    },
    "nn": {"Kategori": 14},
    "no": {
        "Diskusjon": 1,
        "Bruker": 2,
        "Brukerdiskusjon": 3,
        "Wikipedia-diskusjon": 5,
        "Mal": 10,
        "Kategori": 14,
    },
    "pl": {
        "Dyskusja": 1,
        "Wikipedysta": 2,
        "Wikipedystka": 2,
        "Dyskusja wikipedysty": 3,
        "Dyskusja wikipedystki": 3,
        "Szablon": 10,
        "Kategoria": 14,
        "Wikiprojekt": 102,
        "Dyskusja wikiprojektu": 103,
    },
    "pt": {
        "Discussão": 1,
        "Usuário": 2,
        "Usuário(a)": 2,
        "Usuário Discussão": 3,
        "Usuário(a) Discussão": 3,
        "Wikipédia": 4,
        "Wikipédia Discussão": 5,
        "Predefinição": 10,
        "Categoria": 14,
        "Anexo": 102,
    },
    "ro": {
        "Discuție": 1,
        "Discuție Utilizator": 3,
        "Discuție Wikipedia": 5,
        "Categorie": 14,
    },
    "ru": {
        "Обсуждение": 1,
        "Участник": 2,
        "Участница": 2,
        "Обсуждение участника": 3,
        "Обсуждение участницы": 3,
        "Википедия": 4,
        "Файл": 6,
        "Шаблон": 10,
        "Категория": 14,
        "Портал": 100,
        "Инкубатор": 102,
        "Проект": 104,
        "Модуль": 828,
    },
    "sh": {"Šablon": 10, "Kategorija": 14},
    "sk": {
        "Redaktor": 2,
        "Diskusia s redaktorom": 3,
        "Wikipédia": 4,
        "Diskusia k šablóne": 11,
    },
    "sl": {"Pogovor": 1, "Uporabnik": 2, "Wikipedija": 4, "Kategorija": 14},
    "sr": {
        "Разговор": 1,
        "Корисник": 2,
        "Разговор са корисником": 3,
        "Разговор о шаблону": 11,
        "Портал": 100,
    },
    "sv": {
        "Diskussion": 1,
        "Användare": 2,
        "Användardiskussion": 3,
        "Wikipediadiskussion": 5,
        "Mall": 10,
        "Kategori": 14,
    },
    "tr": {
        "Tartışma": 1,
        "Kullanıcı": 2,
        "Kullanıcı mesaj": 3,
        "Vikipedi": 4,
        "Şablon": 10,
        "Kategori": 14,
    },
    "uk": {
        "Обговорення": 1,
        "Користувач": 2,
        "Обговорення користувача": 3,
        "Вікіпедія": 4,
        "Файл": 6,
        "Шаблон": 10,
        "Категорія": 14,
    },
    "vi": {
        "Thảo luận": 1,
        "Thành viên": 2,
        "Thảo luận Thành viên": 3,
        "Tập tin": 6,
        "Thể loại": 14,
    },
    "zh": {"模块": 828},
}


def namespace_number(language: str, name: str) -> int | None:
    """Number of a namespace from its name on one Wikipedia, or None if it has no such namespace.

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
    return LOCALISED.get(language, {}).get(name, CANONICAL.get(name))


def convert(line: bytes, ordinal: int) -> dict[str, Any]:
    """Turn one line of the old format into a recentchange event.

    Parameters
    ----------
    line : bytes
        One JSON object, without its line end.
    ordinal : int
        Place of the line in the file, counted from 0.

    Returns
    -------
    dict
        The event, as the table at the head of this module says.

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
    language = old["channel"].removeprefix("#").partition(".")[0]
    domain = old["channel"].removeprefix("#") + ".org"
    meta = {
        "uri": None,
        "request_id": None,
        "id": str(uuid.uuid5(NAMESPACE_ID, f"{ordinal}\n{line.decode()}")),
        "dt": old["time"],
        "domain": domain,
        "stream": "mediawiki.recentchange",
        "topic": TOPIC,
        "partition": 0,
        "offset": ordinal,
    }
    return {
        "$schema": "/mediawiki/recentchange/1.0.0",
        "meta": meta,
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


def source_lines(source: Path) -> Iterator[bytes]:
    """Lines of the old format, from the jar or from a gzipped JSON-lines file.

    Parameters
    ----------
    source : Path
        The jar ``druid-processing-…-tests.jar``, or the file inside it.

    Yields
    ------
    bytes
        One JSON object without its line end.
    """
    if source.suffix == ".jar":
        with zipfile.ZipFile(source) as jar:
            packed: Any = io.BytesIO(jar.read(MEMBER))
    else:
        packed = source
    with gzip.open(packed, "rb") as lines:
        for line in lines:
            if line := line.strip():
                yield line


def canonical_line(line: bytes) -> bytes:
    """The line with JSON's spacing and keys in one order, so that ids do not depend on who wrapped the file.

    Examples
    --------
    >>> canonical_line(b'{"b":1,"a": "x"}')
    b'{"a": "x", "b": 1}'
    """
    return json.dumps(json.loads(line), ensure_ascii=False, sort_keys=True).encode()


def write_day(lines: Iterable[bytes], target: Path) -> Counter[str]:
    """Convert a day and write it as gzipped JSON lines; the same input gives the same bytes.

    Parameters
    ----------
    lines : iterable of bytes
        The old format, in order.
    target : Path
        The file to write, atomically.

    Returns
    -------
    Counter
        ``events``, and ``namespace_unknown``: how many names were no namespace of their wiki.
    """
    counts: Counter[str] = Counter()
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=packed, mtime=0) as out:
        for ordinal, line in enumerate(lines):
            event = convert(canonical_line(line), ordinal)
            counts["events"] += 1
            counts["namespace_unknown"] += event["namespace"] is None
            out.write(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    target.parent.mkdir(parents=True, exist_ok=True)
    manifest.atomic_write(target, packed.getvalue())
    return counts


def ensure(source: Path | None = None, target: Path | None = None) -> Path:
    """Path of the default day as recentchange events; made at the first call.

    Parameters
    ----------
    source : Path, optional
        The jar or the file in it. Default: the jar from Maven Central, through `lib.runtime.jars`.
    target : Path, optional
        Default: ``data/00_recording/2015-09-12.jsonl.gz``.

    Returns
    -------
    Path
        The recording.

    Raises
    ------
    ValueError
        If the source does not hold the 39,244 edits of the day.
    """
    target = paths.RECORDINGS / NAME if target is None else target
    if target.exists():
        return target
    if source is None:
        from lib.runtime import jars

        source = jars.default_day()
    lines = list(source_lines(source))
    if len(lines) != EVENTS:
        raise ValueError(
            f"The default day must have {EVENTS:,} edits. Got {len(lines):,} from {source.name}. "
            "Delete that file and run `make run` again to fetch it anew."
        )
    write_day(lines, target)
    return target


def replay_options(path: Path) -> tuple[str, ...]:
    """How the notebooks replay a recording: the default day with hourly canaries, any other just as it is."""
    return () if path.resolve() == (paths.RECORDINGS / NAME).resolve() else ("--canaries", "0")
