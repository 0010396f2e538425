"""Server-Sent Events: from the bytes of a connection to messages, wherever the bytes were cut.

The rules are those of the HTML standard (section 9.2.6, "Interpreting an event stream"): lines end with CR LF, LF
or CR and nothing else; a blank line ends a message; several ``data:`` lines are joined by line feeds; a line
that begins with a colon is a comment; a message that the connection's end cuts off is dropped.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_BYTES = 4_000_000  # twice as many, text and key, are a message that our Kafka topics take
KEPT_BYTES = 1 << 16  # of a message that was too long
_USUAL_START = b"event: message\nid: "
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Message(NamedTuple):
    """One message of a stream."""

    data: bytes
    id: bytes  #: the stream's last id; empty if there was none
    type: bytes  #: ``message`` unless the stream names another


class Decoder:
    r"""Decodes chunks of bytes into messages; the messages are the same however a stream is cut into chunks.

    Of a message that is longer than `MAX_BYTES` only the beginning is returned, so that no server can fill the memory.

    Attributes
    ----------
    last_id : bytes
        The stream's last id.
    retry_ms : int or None
        Milliseconds to wait before a reconnect, if the server asked for them.

    Examples
    --------
    >>> decoder = Decoder()
    >>> decoder.feed(b":ok\n\nid: 7\r\nda"), decoder.feed(b"ta: a\r\n"), decoder.feed(b"data: b\r\n\r\n")
    ([], [], [Message(data=b'a\nb', id=b'7', type=b'message')])
    """

    def __init__(self) -> None:
        self.last_id = b""
        self.retry_ms: int | None = None
        self._parts: list[bytes] = []  # of the message that is incomplete
        self._size = 0
        self._after_cr = False
        self._started = False

    def feed(self, chunk: bytes) -> list[Message]:
        """Decode the next bytes; return the messages that they complete."""
        text = self._with_line_feeds(chunk)
        blocks: list[bytes] = []
        self._parts.append(text)
        self._size += len(text)
        if b"\n" in text:  # else it is joined later: a long line is not copied with every chunk
            *blocks, rest = b"".join(self._parts).split(b"\n\n")
            self._parts, self._size = [rest], len(rest)
        if self._size > MAX_BYTES:
            rest = b"".join(self._parts)
            is_line_over = rest.endswith(b"\n")
            self._parts = [rest[:KEPT_BYTES], b"\n" if is_line_over else b"\n:"]  # what follows is a comment
            self._size = KEPT_BYTES
        return [message for block in blocks if (message := self._parse(block))]

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        """Return the chunk with every line end as a line feed, also where CR LF was cut in two."""
        if not self._started and chunk:
            self._started = True
            chunk = chunk.removeprefix(_BYTE_ORDER_MARK)
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" not in chunk:
            return chunk
        self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _parse(self, block: bytes) -> Message | None:
        if block.startswith(_USUAL_START):  # a fast path for what nearly every message is like
            id_, found, data = block[len(_USUAL_START) :].partition(b"\ndata: ")
            if found and b"\n" not in data and b"\n" not in id_ and b"\0" not in id_:
                self.last_id = id_
                return Message(data, id_, b"message")
        lines: list[bytes] = []
        type_ = b""
        for line in block.split(b"\n"):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                lines.append(value)
            elif name == b"event":
                type_ = value
            elif name == b"id" and b"\0" not in value:
                self.last_id = value
            elif name == b"retry" and value.isdigit():
                self.retry_ms = int(value)
        if not lines and not type_:
            return None
        return Message(b"\n".join(lines), self.last_id, type_ or b"message")
