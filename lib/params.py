"""The notebooks' parameters: a rule for each, and one sentence for what breaks it.

papermill validates nothing: a wrong type fails somewhere later and an unknown name is only logged. So the cell after
``parameters`` passes its names to :func:`check`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lib import paths


class ParameterError(ValueError):
    """A parameter, or the file that it names, breaks a rule."""


@dataclass(frozen=True)
class Rule:
    """What a parameter may be, and how it is read."""

    kind: type
    rule: str
    read: Callable[[Any], Any] = lambda value: value
    accepts: Callable[[Any], bool] = lambda value: True


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
    lib.params.ParameterError: A time must be ISO 8601, YYYYMMDD or milliseconds since the epoch. \
Got '1442016000', which looks like seconds. Multiply it by 1000.
    """
    value = str(text).strip()
    if not value:
        return None
    if re.fullmatch(r"\d{9,11}", value):
        raise ParameterError(
            f"A time must be ISO 8601, YYYYMMDD or milliseconds since the epoch. Got {text!r}, "
            "which looks like seconds. Multiply it by 1000."
        )
    if re.fullmatch(r"\d{12,14}", value):
        return int(value)
    try:
        moment = datetime.fromisoformat(restore_plus_sign(value))
    except ValueError:
        raise ParameterError(
            "A time must be ISO 8601, YYYYMMDD or milliseconds since the epoch. "
            f"Got {text!r}. Write for example 2024-10-25T00:00:00Z."
        ) from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)


def restore_plus_sign(value: str) -> str:
    """Return a time with the plus of its zone: in a URL that was not escaped it arrives as a space."""
    return re.sub(r"(T\S+) (\d\d:?\d\d)$", r"\1+\2", value)


def _wikis(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _is_wikis(text: str) -> bool:
    return all(re.fullmatch(r"[a-z0-9_]+", name) for name in _wikis(text))


def _is_url(text: str) -> bool:
    return text == "" or re.match(r"https?://[^\s/]+", text) is not None


def _is_host_port(text: str) -> bool:
    match = re.fullmatch(r"(\S+):(\d{1,5})", text)
    return text == "" or (match is not None and 0 < int(match[2]) < 65536)


def _is_bootstrap(text: str) -> bool:
    return text == "" or all(part and _is_host_port(part) for part in text.split(","))


def _is_master(text: str) -> bool:
    return re.fullmatch(r"local(\[(\d+|\*)(,\d+)?\])?|spark://\S+|yarn|k8s://\S+", text) is not None


def _is_time(text: str) -> bool:
    parse_time(text)
    return True


def _is_writable(text: str) -> bool:
    """Return whether a folder can be written to, or made; nothing is touched."""
    if not text:
        return False
    there = paths.resolve(text)
    while not os.path.exists(there):
        there = there.parent
    is_folder = os.path.isdir(there)
    if is_folder and os.access(there, os.W_OK | os.X_OK):
        return True
    raise ParameterError(
        f"A folder to write to must be writable, or lie in one that is. Got {text!r}, and {paths.show(there)} "
        f"{'cannot be written to' if is_folder else 'is no folder'}. Correct its permissions, or choose another folder."
    )


def _optional_path(text: str) -> Path | None:
    return paths.resolve(text) if text else None


_FOLDER = Rule(str, "a folder, relative to the repository's root or absolute", paths.resolve, bool)
_OUT = replace(_FOLDER, accepts=_is_writable)
_TIME = Rule(str, "ISO 8601, YYYYMMDD, milliseconds since the epoch, or empty", parse_time, _is_time)
_LIMIT = Rule(int, "0 (no limit) or a positive integer", accepts=lambda value: value >= 0)
_MASTER = Rule(str, "a Spark master such as local[*] or spark://host:7077", accepts=_is_master)

_STREAM = {
    "STREAM_URL": Rule(str, "empty (the local replay) or an http(s) URL", accepts=_is_url),
    "RECORDING": Rule(
        str, "empty (the default day) or a file of JSON lines (.jsonl, .jsonl.gz)", _optional_path
    ),
    "SINCE": _TIME,
    "UNTIL": _TIME,
    "MAX_EVENTS": _LIMIT,
    "MAX_SECONDS": _LIMIT,
    "WIKIS": Rule(str, "wikis' names such as enwiki,dewiki, or empty for all", _wikis, _is_wikis),
}
_SEED = Rule(int, "an integer from 0 to 4294967295", accepts=lambda value: 0 <= value < 2**32)
_ALL = {"SEED": _SEED, "OUT_DIR": _OUT}

RULES: dict[str, dict[str, Rule]] = {
    "01_stream": {
        **_STREAM,
        "RELAY": Rule(str, "empty (a free port on loopback) or host:port", accepts=_is_host_port),
        **_ALL,
    },
    "02_sample": {
        "IN_DIR": _FOLDER,
        "SOCKET": Rule(str, "empty (a relay over IN_DIR) or host:port", accepts=_is_host_port),
        "PERCENT": Rule(int, "an integer from 1 to 100", accepts=lambda value: 1 <= value <= 100),
        "SPARK_MASTER": _MASTER,
        **_ALL,
    },
    "03_eda_train": {
        "IN_DIR": _FOLDER,
        "MAX_HUMAN_FPR": Rule(float, "a share above 0 and below 0.1", accepts=lambda value: 0 < value < 0.1),
        **_ALL,
    },
    "04_online": {
        **_STREAM,
        "MODEL_DIR": _FOLDER,
        "KAFKA": Rule(str, "empty (the embedded broker) or host:port,host:port", accepts=_is_bootstrap),
        "KAFKA_PROPERTIES": Rule(str, "empty or a file of Kafka client properties", _optional_path),
        "SPARK_MASTER": _MASTER,
        "RESUME": Rule(bool, "True or False"),
        **_ALL,
    },
}


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
        For an unknown name in capitals, a missing one, a wrong type, or a value that breaks its rule.

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
    return SimpleNamespace(**{name.lower(): _read(name, rule, names) for name, rule in rules.items()})


def _refuse_unknown(rules: Mapping[str, Rule], names: Mapping[str, Any]) -> None:
    """Look at names in capitals only: a notebook that is run again has variables of its own."""
    for name, value in names.items():
        if re.fullmatch(r"[A-Z][A-Z0-9_]*", name) and name not in rules and not name.startswith("PAPERMILL_"):
            known = ", ".join(rules)
            raise ParameterError(
                f"A parameter must be one of {known}. Got {name}={value!r}. Check the spelling."
            )


def _read(name: str, rule: Rule, names: Mapping[str, Any]) -> Any:
    if name not in names:
        raise ParameterError(f"{name} must be set: {rule.rule}. Got nothing. Set it in the parameters cell.")
    value = _as_kind(rule.kind, names[name])
    if type(value) is not rule.kind:
        kind = rule.kind.__name__
        raise ParameterError(
            f"{name} must be of type {kind}: {rule.rule}. Got {value!r} ({type(value).__name__})."
        )
    try:
        accepted = rule.accepts(value)
    except ParameterError as error:
        raise ParameterError(f"{name}: {error}") from None
    if not accepted:
        raise ParameterError(f"{name} must be {rule.rule}. Got {value!r}.")
    return rule.read(value)


def _as_kind(kind: type, value: Any) -> Any:
    """Convert a number from papermill's command line: ``-p SINCE 20241025`` arrives as an int."""
    if type(value) is int and kind in (float, str):
        return kind(value)
    return value
