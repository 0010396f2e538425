"""The notebooks' parameters: a rule for each, and one sentence for what breaks it.

papermill validates nothing: a wrong type fails somewhere later and an unknown name is only logged. So the cell after
``parameters`` passes its names to :func:`check`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from lib import paths

TIME = "ISO 8601, YYYYMMDD or milliseconds since the epoch (seconds times 1000)"
PORT = r"([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5])"  # 1 to 65535
ADDRESS = rf"[^\s,]+:{PORT}"
MASTER = r"local(\[(\d+|\*)(,\d+)?\])?|spark://\S+|yarn|k8s://\S+"


class ParameterError(ValueError):
    """A parameter, or the file that it names, breaks a rule."""


class Rule(NamedTuple):
    """What a parameter may be, in words, and how it is read: ValueError stands for what it may not be."""

    kind: type
    rule: str
    read: Callable[[Any], Any]


def parse_time(text: str | int) -> int | None:
    """Return a time, in any form that a parameter may have, in milliseconds since the epoch.

    Parameters
    ----------
    text : str or int
        ISO 8601 (without a zone it is UTC), ``20241025``, milliseconds since the epoch, or empty.

    Returns
    -------
    int or None
        Milliseconds since the epoch; None for an empty text.

    Raises
    ------
    ParameterError
        For anything else, also epoch *seconds*, which would be a day in 1970.

    Examples
    --------
    >>> parse_time("2015-09-12T02:46:58.771+02:00")
    1442018818771
    >>> parse_time("20150912") == parse_time("2015-09-12") == parse_time("1442016000000") == 1442016000000
    True
    >>> parse_time("1442016000")
    Traceback (most recent call last):
    lib.params.ParameterError: A time must be ISO 8601, YYYYMMDD or milliseconds since the epoch \
(seconds times 1000). Got '1442016000'. Write for example 2024-10-25T00:00:00Z.
    """
    value = str(text).strip()
    if not value:
        return None
    if re.fullmatch(r"\d{12,14}", value):
        return int(value)
    is_seconds = re.fullmatch(r"\d{9,11}", value)
    try:
        moment = datetime.fromisoformat("" if is_seconds else value)
    except ValueError:
        raise ParameterError(
            f"A time must be {TIME}. Got {text!r}. Write for example 2024-10-25T00:00:00Z."
        ) from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)


def _where(accepts: Callable[[Any], object]) -> Callable[[Any], Any]:
    """Return a reader of values for which something holds."""

    def read(value: Any) -> Any:
        if not accepts(value):
            raise ValueError(value)
        return value

    return read


def _like(pattern: str) -> Callable[[str], str]:
    return _where(re.compile(pattern).fullmatch)


def _wikis(text: str) -> frozenset[str]:
    return frozenset(map(_like("[a-z0-9_]+"), filter(None, map(str.strip, text.split(",")))))


def _folder(text: str) -> Path:
    return paths.resolve(_like(".+")(text))


def _out_dir(text: str) -> Path:
    """Return a folder that can be written to, or made; nothing is touched."""
    there = folder = _folder(text)
    while not os.path.exists(there):
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(text)
    return folder


def _optional_path(text: str) -> Path | None:
    return paths.resolve(text) if text else None


_LIMIT = Rule(int, "0 (no limit) or a positive integer", _where(lambda value: value >= 0))
_TIME = Rule(str, f"empty or {TIME}", parse_time)
_SHARE = Rule(float, "a share above 0 and below 0.1", _where(lambda value: 0 < value < 0.1))
_RULES = {
    "SEED": Rule(int, "an integer from 0 to 4294967295", _where(lambda value: 0 <= value < 2**32)),
    "IN_DIR": Rule(str, "a folder, relative to the repository's root or absolute", _folder),
    "MODEL_DIR": Rule(str, "a folder, relative to the repository's root or absolute", _folder),
    "OUT_DIR": Rule(str, "a folder that can be written to, or lies in one that can", _out_dir),
    "STREAM_URL": Rule(
        str,
        "empty (the local replay) or an http(s) URL, without a password",
        _like(r"(https?://[^\s/@]+([/?#].*)?)?"),
    ),
    "RECORDING": Rule(
        str, "empty (the default day) or a file of JSON lines (.jsonl, .jsonl.gz)", _optional_path
    ),
    "SINCE": _TIME,
    "UNTIL": _TIME,
    "MAX_EVENTS": _LIMIT,
    "MAX_SECONDS": _LIMIT,
    "WIKIS": Rule(str, "wikis' names such as enwiki,dewiki, or empty for all", _wikis),
    "RELAY": Rule(str, "empty (a free port on loopback) or host:port", _like(f"({ADDRESS})?")),
    "SOCKET": Rule(str, "empty (a relay over IN_DIR) or host:port", _like(f"({ADDRESS})?")),
    "PERCENT": Rule(int, "an integer from 1 to 100", _where(lambda value: 1 <= value <= 100)),
    "SPARK_MASTER": Rule(str, "a Spark master such as local[*] or spark://host:7077", _like(MASTER)),
    "MAX_HUMAN_FPR": _SHARE,
    "MAX_HUMAN_EDIT_FPR": _SHARE,
    "KAFKA": Rule(
        str, "empty (the embedded broker) or host:port,host:port", _like(f"({ADDRESS}(,{ADDRESS})*)?")
    ),
    "KAFKA_PROPERTIES": Rule(str, "empty or a file of Kafka client properties", _optional_path),
    "RESUME": Rule(bool, "True or False", bool),
}
_STREAM = "STREAM_URL RECORDING SINCE UNTIL MAX_EVENTS MAX_SECONDS WIKIS"
_NAMES = {
    "01_stream": f"{_STREAM} RELAY SEED OUT_DIR",
    "02_sample": "IN_DIR SOCKET PERCENT SPARK_MASTER SEED OUT_DIR",
    "03_eda_train": "IN_DIR MAX_HUMAN_FPR MAX_HUMAN_EDIT_FPR SEED OUT_DIR",
    "04_online": f"{_STREAM} MODEL_DIR KAFKA KAFKA_PROPERTIES SPARK_MASTER RESUME SEED OUT_DIR",
}
RULES = {notebook: {name: _RULES[name] for name in names.split()} for notebook, names in _NAMES.items()}


def check(notebook: str, names: Mapping[str, Any]) -> SimpleNamespace:
    """Return a notebook's parameters, checked and read.

    Parameters
    ----------
    notebook : str
        The notebook's name without its ending, such as ``"01_stream"``.
    names : mapping
        The notebook's global names: ``globals()``, taken before anything else is defined.

    Returns
    -------
    SimpleNamespace
        The parameters under their names in lower case: folders and files as absolute paths, times in milliseconds
        (None where empty), wikis as a frozenset.

    Raises
    ------
    ParameterError
        For an unknown name in capitals, a wrong type, or a value that breaks its rule.

    Examples
    --------
    >>> names = {"IN_DIR": "data/01_stream", "SOCKET": "", "PERCENT": 0, "SPARK_MASTER": "local[*]",
    ...          "OUT_DIR": "data/02_sample", "SEED": 0}
    >>> check("02_sample", names)
    Traceback (most recent call last):
    lib.params.ParameterError: PERCENT must be an integer from 1 to 100. Got 0.
    >>> check("02_sample", {**names, "PERCENT": 20}).percent
    20
    """
    rules = RULES[notebook]
    _refuse_unknown(rules, names)
    settings = SimpleNamespace(**{name.lower(): _read(name, rule, names) for name, rule in rules.items()})
    for name in {"IN_DIR", "MODEL_DIR", "RECORDING"} & rules.keys():
        if (path := getattr(settings, name.lower())) and path.resolve() == settings.out_dir.resolve():
            raise ParameterError(f"OUT_DIR must differ from {name}. Got {names['OUT_DIR']} for both.")
    return settings


def _refuse_unknown(rules: Mapping[str, Rule], names: Mapping[str, Any]) -> None:
    """Raise ParameterError for a name in capitals that a cell sets: IPython keeps the cells' sources in ``In``."""
    cells = "\n".join(names.get("In", names))
    for name, value in names.items():
        is_set = re.fullmatch(r"[A-Z][A-Z0-9_]*", name) and re.search(rf"^{name}\b", cells, re.MULTILINE)
        if is_set and name not in rules and not name.startswith("PAPERMILL_"):
            raise ParameterError(
                f"A parameter must be one of {', '.join(rules)}. Got {name}={value!r}. Check the spelling."
            )


def _read(name: str, rule: Rule, names: Mapping[str, Any]) -> Any:
    value = names[name]
    if type(value) is int and rule.kind in (float, str):
        value = rule.kind(value)  # papermill's command line: -p SINCE 20241025 arrives as an int
    if type(value) is not rule.kind:
        raise ParameterError(
            f"{name} must be of type {rule.kind.__name__}: {rule.rule}. Got {value!r} ({type(value).__name__})."
        )
    try:
        return rule.read(value)
    except ValueError:
        raise ParameterError(f"{name} must be {rule.rule}. Got {value!r}.") from None
