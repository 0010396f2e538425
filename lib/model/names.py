"""What can be told from a user's name alone."""

import re
from collections.abc import Collection
from ipaddress import ip_address

import numpy as np


def says_bot(names: Collection[str]) -> np.ndarray:
    """The name rule: "bot" somewhere in the name, capitals or not.

    Examples
    --------
    >>> says_bot(["ClueBot NG", "Abbott", "Ada"]).tolist()
    [True, True, False]
    """
    return np.array(["bot" in name.lower() for name in names], bool)


def kind_of(names: Collection[str]) -> np.ndarray:
    """Tell registered users, IP addresses and temporary accounts by their names.

    Examples
    --------
    >>> kind_of(["Ada", "60.225.66.142", "2001:db8::1", "~2026-12345-67"]).tolist()
    ['registered', 'IP', 'IP', 'temporary account']
    """
    return np.array([_account(name) for name in names], str)


def _account(name: str) -> str:
    if re.fullmatch(r"~\d{4}-[\d-]+", name):
        return "temporary account"
    try:
        ip_address(name)
    except ValueError:
        return "registered"
    return "IP"
