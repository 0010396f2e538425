"""A relay that sends what a test wants."""

import socket
import threading

import pytest

from lib.stream import relay


class ScriptedRelay:
    """A server that sends every client the same lines; after a heartbeat as the last it keeps silent."""

    def __init__(self, lines):
        self.lines = lines
        self.clients = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self.server.getsockname())
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            client.sendall(b"".join(line + b"\n" for line in self.lines))
            self.clients.append(client)
            if self.lines[-1:] != [relay.HEARTBEAT]:
                client.close()

    def close(self):
        self.server.close()
        for client in self.clients:
            client.close()


@pytest.fixture
def scripted_relay():
    """Start relays that send the lines; return their addresses."""
    servers = []

    def start(*lines):
        servers.append(ScriptedRelay(list(lines)))
        return servers[-1].address

    yield start
    for server in servers:
        server.close()
