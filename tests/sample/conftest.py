"""A relay that sends what a test wants."""

import socketserver
import threading
from contextlib import ExitStack

import pytest

from lib.stream import relay


@pytest.fixture
def scripted_relay():
    """Start servers that send every client some lines, and keep silent after a heartbeat; return their addresses."""
    over = threading.Event()

    def start(*lines):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                self.request.sendall(b"".join(line + b"\n" for line in lines))
                if lines[-1:] == (relay.HEARTBEAT,):
                    over.wait()

        server = cleaning.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=server.serve_forever).start()
        cleaning.callback(server.shutdown)
        return "{}:{}".format(*server.server_address)

    with ExitStack() as cleaning:
        yield start
        over.set()
