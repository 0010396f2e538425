"""From messages to the bytes that a client receives: the form of the stream, and HTTP's chunks."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from typing import Any

from lib.replay.faults import Plan
from lib.replay.timeline import Request

LINE_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


class Codec:
    """Turns messages into the bytes of the stream, in the plan's form."""

    def __init__(self, plan: Plan, request: Request, chance: random.Random) -> None:
        self.plan, self.json_lines, self.chance = plan, request.json_lines, chance
        self.line_end = LINE_ENDS[plan.line_end]
        self.order = list(range(len(request.assignments)))
        if plan.id_order == "reversed":
            self.order.reverse()
        self.heads = [f'{{"topic":{json.dumps(entry.name)},"partition":0,' for entry in request.assignments]
        self.entries = [
            head + entry.state + "}" for head, entry in zip(self.heads, request.assignments, strict=True)
        ]
        self.plain = plan.line_end == "lf" and not plan.multiline

    def message(self, slot: int, moment: int, text: bytes) -> bytes:
        """One event: the place of its topic in the request, Kafka's timestamp in milliseconds, and its text."""
        if self.json_lines:
            return text + b"\n"
        moment = moment // 1000 if self.plan.id_unit == "seconds" else moment
        self.entries[slot] = f'{self.heads[slot]}"timestamp":{moment + 1}}}'
        if self.plan.id_order == "shuffled":
            self.chance.shuffle(self.order)
        id_ = ("[" + ",".join([self.entries[place] for place in self.order]) + "]").encode()
        if self.plain and b"\r" not in text:
            return b"event: message\nid: " + id_ + b"\ndata: " + text + b"\n\n"
        lines = [
            b"event: message",
            b"id: " + id_,
            *(b"data: " + part for part in self._parts(text)),
            b"",
            b"",
        ]
        return self.line_end.join(lines)

    def special(self, *lines: str) -> bytes:
        """Lines that are no event of the recording."""
        return self.line_end.join([*(line.encode() for line in lines), b"", b""])

    def _parts(self, text: bytes) -> list[bytes]:
        """The text over several lines: a line end may stand where JSON has a blank between two members.

        A carriage return would end the line, and what comes behind it would be read as another field.
        """
        if self.plan.multiline:
            text = text.replace(b', "', b',\n"')
        return text.replace(b"\r", b"\n").split(b"\n")


class Body:
    """An HTTP body in chunks, gzipped or not, in chunks as large as the plan says."""

    def __init__(self, raw: Any, plan: Plan, chance: random.Random, *, gzip: bool) -> None:
        self._raw, self._chance, self._chunk = raw, chance, plan.chunk
        self._gzip = zlib.compressobj(6, zlib.DEFLATED, 31) if gzip else None

    def write(self, data: bytes) -> None:
        """Send bytes now."""
        if self._gzip:
            data = self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        self._raw.write(b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in self._parts(data)))

    def close(self) -> None:
        """End the body as HTTP wants it."""
        if self._gzip and (rest := self._gzip.flush()):
            self._raw.write(b"%x\r\n%b\r\n" % (len(rest), rest))
        self._raw.write(b"0\r\n\r\n")

    def _parts(self, data: bytes) -> Iterator[bytes]:
        if not self._chunk:
            if data:
                yield data
            return
        low, high = self._chunk if isinstance(self._chunk, tuple) else (self._chunk, self._chunk)
        place = 0
        while place < len(data):
            size = self._chance.randint(low, high)
            yield data[place : place + size]
            place += size
