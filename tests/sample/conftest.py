"""A relay that sends what a test wants."""

import socketserver
from contextlib import ExitStack

import pytest

from lib.stream import relay


@pytest.fixture
def scripted_relay():
    """Start servers that send every client some lines, and keep silent after a heartbeat; return their addresses."""
    with ExitStack() as cleaning:

        def start(*lines):
            class Handler(socketserver.BaseRequestHandler):
                def handle(self):
                    self.request.sendall(b"".join(line + b"\n" for line in lines))
                    if lines[-1:] == (relay.HEARTBEAT,):
                        self.server.closed.wait()

            return cleaning.enter_context(relay.BackgroundServer("127.0.0.1", 0, Handler)).address

        yield start
