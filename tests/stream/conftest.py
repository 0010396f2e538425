"""Clients that reconnect at once."""

import pytest

from lib.stream import client


@pytest.fixture(autouse=True)
def reconnect_at_once(monkeypatch):
    monkeypatch.setattr(client, "MAX_WAIT_SECONDS", 0.02)
