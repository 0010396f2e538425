"""What the parameters of stages 1 and 4 name: a stream, or a recording that is replayed on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Self

from lib import events, params, paths
from lib.stream import recording, sample_day


class Source(NamedTuple):
    """A stream or a recording, and which of its events are wanted.

    Parameters
    ----------
    stream_url : str
        Address of a stream; empty for a recording.
    recording : Path or None
        The recording.
    since, until : int or None
        Milliseconds since the epoch.
    wikis : frozenset of str
        Empty: all.
    """

    stream_url: str
    recording: Path | None
    since: int | None
    until: int | None
    wikis: frozenset[str]

    @classmethod
    def from_settings(cls, settings: Any, *, after_cut: bool = False) -> Self:
        """Return the source that a notebook's parameters name.

        Without STREAM_URL and RECORDING it is the default day: until 14:00, or from then on.

        Parameters
        ----------
        settings : namespace
            What `lib.params.check` returned.
        after_cut : bool, default False
            Whether the default day begins at 14:00 (stage 4) or ends then (stage 1).

        Raises
        ------
        ParameterError
            If both STREAM_URL and RECORDING are set, or UNTIL is not after SINCE.
        """
        if settings.stream_url and settings.recording:
            raise params.ParameterError(
                f"Only one of STREAM_URL and RECORDING can be the source. Got {settings.stream_url!r} and "
                f"{paths.show(settings.recording)!r}. Leave one of them empty."
            )
        since, until, path = settings.since, settings.until, settings.recording
        if not settings.stream_url and path is None:
            path, cut = sample_day.ensure(), sample_day.CUT_MS
            if after_cut and since is None and (until is None or until > cut):
                since = cut
            elif not after_cut and until is None and (since is None or since < cut):
                until = cut
        if since is not None and until is not None and until <= since:
            raise params.ParameterError(
                f"UNTIL must be after SINCE. Got SINCE={events.iso(since)}, UNTIL={events.iso(until)}. "
                "Change one of them."
            )
        if path is not None:
            recording.files(path)  # raises before anything is written
        return cls(settings.stream_url, path, since, until, settings.wikis)

    def describe(self) -> dict[str, Any]:
        """Return what distinguishes this source from another, as plain values."""
        return {
            "stream_url": self.stream_url or None,
            "recording": self.recording and paths.show(self.recording),
            "sha256": self.recording and recording.sha256(self.recording),
            "since": None if self.since is None else events.iso(self.since),
            "until": None if self.until is None else events.iso(self.until),
            "wikis": sorted(self.wikis),
        }
