"""Server-Sent Events: from the bytes of a connection to messages, wherever the bytes were cut.

The rules are those of the HTML standard (section 9.2.6, "Interpreting an event stream"): lines end with CR LF, LF
or CR and nothing else; a blank line sends a message; several ``data:`` lines are joined by line feeds; a line
that begins with a colon is a comment; what was begun when the connection broke is thrown away.
"""

from __future__ import annotations

from typing import NamedTuple

LONGEST = 1 << 24
KEPT = 1 << 16  # bytes of a message that was too long
_USUAL = b"event: message\nid: "
_BOM = b"\xef\xbb\xbf"


class Message(NamedTuple):
    """One message as the stream sent it."""

    data: bytes
    id: bytes  #: the last id that the stream has named; empty if it has named none
    event: bytes  #: ``message`` unless the stream says otherwise
    cut: bool = False  #: too long: only the beginning of `data` is there


class Decoder:
    r"""Turns chunks of bytes into messages; however a stream is cut into chunks, the messages are the same.

    Parameters
    ----------
    longest : int, default 16 MiB
        Bytes that a message may have; of a longer one the beginning is given, so that a broken server cannot fill the
        memory.

    Attributes
    ----------
    last_id : bytes
        What a client would send as ``Last-Event-ID``.
    retry : int or None
        Milliseconds to wait before a reconnect, if the server asked for them.

    Examples
    --------
    >>> decoder = Decoder()
    >>> decoder.feed(b":ok\n\nid: 7\r\nda"), decoder.feed(b"ta: a\r\n"), decoder.feed(b"data: b\r\n\r\n")
    ([], [], [Message(data=b'a\nb', id=b'7', event=b'message', cut=False)])
    """

    def __init__(self, longest: int = LONGEST) -> None:
        self.longest = longest
        self.last_id = b""
        self.retry: int | None = None
        self._rest = b""
        self._parts: list[bytes] = []
        self._pending = 0
        self._after_cr = False
        self._begun = False
        self._skipping = False
        self._head = b""  # of the message that is skipped

    def feed(self, chunk: bytes) -> list[Message]:
        """Take the next bytes and return the messages that they complete."""
        text = self._with_line_feeds(chunk)
        if not text:
            return []
        if b"\n" not in text:
            return self._keep(text)
        blocks = (self._rest + b"".join(self._parts) + text).split(b"\n\n")
        self._parts.clear()
        self._rest = blocks.pop()
        self._pending = len(self._rest)
        messages = []
        for block in blocks:
            cut, self._skipping = self._skipping, False
            if message := self._message(self._head if cut else block):
                messages.append(message._replace(cut=True) if cut else message)
        if self._pending > self.longest:
            self._drop()
        return messages

    def _keep(self, text: bytes) -> list[Message]:
        """Put aside a piece of a line: joined only when its line is there, so long lines cost no copying."""
        self._parts.append(text)
        self._pending += len(text)
        if self._pending > self.longest:
            self._drop()
        return []

    def _drop(self) -> None:
        if not self._skipping:
            self._head = (self._rest + b"".join(self._parts))[:KEPT]
        self._skipping = True
        last = self._parts[-1] if self._parts else self._rest
        self._rest = b"x\n" if last.endswith(b"\n") else b"x"
        self._parts.clear()
        self._pending = len(self._rest)

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        """The chunk with every line end as a line feed, also where CR LF was cut in two."""
        if not self._begun and chunk:
            self._begun = True
            chunk = chunk.removeprefix(_BOM)
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        if b"\r" in chunk:
            return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk

    def _message(self, block: bytes) -> Message | None:
        if block.startswith(_USUAL):
            id_, found, data = block[len(_USUAL) :].partition(b"\ndata: ")
            if found and b"\n" not in data and b"\n" not in id_ and b"\0" not in id_:
                self.last_id = id_
                return Message(data, id_, b"message")
        return self._any_message(block)

    def _any_message(self, block: bytes) -> Message | None:
        data: list[bytes] = []
        event = b""
        for line in block.split(b"\n"):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                event = value
            elif name == b"id" and b"\0" not in value:
                self.last_id = value
            elif name == b"retry" and value.isdigit():
                self.retry = int(value)
        if not data and not event:
            return None
        return Message(b"\n".join(data), self.last_id, event or b"message")
