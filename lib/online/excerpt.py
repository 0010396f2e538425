"""An event that is too long for Kafka goes through it as an excerpt: its beginning, and the reason why no more came.

Stage 4 makes a dead letter of it, so it is accounted for like every other event that cannot be judged.
"""

from __future__ import annotations

LONGEST = 1 << 16  # bytes of the text that are kept
_MARK = b"\0excerpt "  # JSON never begins like this


def pack(raw: bytes, reason: str) -> bytes:
    """Make the message that goes into Kafka in an event's place.

    Parameters
    ----------
    raw : bytes
        The event's text, or as much of it as there is.
    reason : str
        Why it does not go as it is.
    """
    return b"".join([_MARK, reason.encode(), b"\0", raw[:LONGEST]])


def unpack(raw: bytes, reason: str) -> tuple[bytes, str]:
    """Give text and reason of a dead letter.

    Parameters
    ----------
    raw : bytes
        A message that is no event.
    reason : str
        Why it is none, by the decoder.

    Returns
    -------
    tuple of bytes and str
        Both as they are if the message is not of :func:`pack`.

    Examples
    --------
    >>> unpack(pack(b'{"comment": "very, very', "too long"), "not JSON"), unpack(b"?", "not JSON")
    ((b'{"comment": "very, very', 'too long'), (b'?', 'not JSON'))
    """
    if not raw.startswith(_MARK):
        return raw, reason
    said, _, text = raw.removeprefix(_MARK).partition(b"\0")
    return text, said.decode(errors="replace")
