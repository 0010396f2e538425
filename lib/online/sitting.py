"""Stage 4 from the notebook's parameters: source, broker, Spark and producer together, in as many runs as it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from lib import artifacts, events
from lib.blacklist.ledger import Ledger
from lib.infra import kafka
from lib.online import books, cards, online
from lib.online.producer import Order
from lib.online.sender import Sender
from lib.stream import recording
from lib.stream.source import Source

RUNS = 5  # a recording is judged in so many runs, each resuming the one before
_LONGEST_LOOK = 200_000  # messages that are looked through for the texts of flagged users


def sit(settings: Any) -> dict[str, Any]:
    """Judge a stream as the parameters say, and leave everything in OUT_DIR.

    A recording is cut into :data:`RUNS` runs of as many events each. Every run ends its producer and its query and the
    next begins from what is in Kafka and in the books, as ``RESUME=True`` would. A stream that is not a recording, or
    that is resumed, is judged in one run.

    Parameters
    ----------
    settings : namespace
        What `lib.params.check` gave for 04_online.

    Returns
    -------
    dict
        The content of ``metrics.json``.
    """
    stream = Source.from_settings(settings, after_cut=True)
    properties = kafka.read_properties(settings.kafka_properties)
    wanted = _share(stream, settings)
    with (
        stream.serve() as server,
        online.Stage(
            settings.out_dir,
            settings.model_dir,
            kafka=settings.kafka,
            properties=properties,
            spark_master=settings.spark_master,
            resume=settings.resume,
        ) as stage,
    ):
        position = None
        for number, most in enumerate(wanted, 1):
            order = Order(
                stage.bootstrap,
                stage.events_topic,
                stage.partitions,
                server.url,
                _name(stream),
                stream.since,
                stream.until,
                tuple(sorted(stream.wikis)),
                most,
                settings.max_seconds,
                properties,
                settings.seed,
                position,
            )
            with Sender(order) as sender:
                run = stage.sieve(sender)
            position = sender.report.position
            for warning in sender.report.warnings:
                print(warning)
            print(_line(number, len(wanted), run))
        cards.write(settings.out_dir, stage.books.ledger, _texts(stage))
    return artifacts.read(settings.out_dir, "notebooks/04_online.ipynb", "metrics.json")


def _share(stream: Source, settings: Any) -> list[int]:
    """Cut a recording into runs: how many events each may take, 0 for no limit."""
    if stream.recording is None or settings.resume or settings.max_seconds:
        return [settings.max_events]
    there = sum(1 for _ in wanted_events(stream))
    there = min(there, settings.max_events) if settings.max_events else there
    each = -(-there // RUNS)
    if each == 0:
        return [settings.max_events]
    rest = settings.max_events and there - each * (RUNS - 1)
    return [each] * (RUNS - 1) + [max(rest, 1) if settings.max_events else 0]


def wanted_events(stream: Source) -> Iterator[events.Event]:
    """Give the events of a recording that are asked for."""
    for event in _decoded(stream):
        if stream.since is not None and event.time_ms < stream.since:
            continue
        if stream.until is not None and event.time_ms >= stream.until:
            continue
        if not stream.wikis or event.wiki in stream.wikis:
            yield event


def known_before(settings: Any) -> tuple[list[str], frozenset[str] | None]:
    """Say who was known to be a bot when this stage began.

    Parameters
    ----------
    settings : namespace
        What `lib.params.check` gave for 04_online.

    Returns
    -------
    listed : list of str
        The blacklist of stage 3.
    bots : frozenset of str or None
        All bots of a recording before SINCE, by the flag: what a perfect list would know; None if there is none.
    """
    with Ledger.open(settings.model_dir / books.NAME, read_only=True) as ledger:
        listed = ledger.members()
    return listed, _bots_before(Source.from_settings(settings, after_cut=True))


def _bots_before(stream: Source) -> frozenset[str] | None:
    if stream.recording is None or stream.since is None:
        return None
    balance: dict[str, int] = {}
    for event in _decoded(stream):
        if event.is_edit and event.user is not None and event.time_ms < stream.since:
            balance[event.user] = balance.get(event.user, 0) + (1 if event.bot else -1)
    return frozenset(user for user, more in balance.items() if more > 0) or None


def _decoded(stream: Source) -> Iterator[events.Event]:
    assert stream.recording is not None
    for raw in recording.lines(stream.recording):
        try:
            event = events.decode(raw)
        except events.InvalidEvent:
            continue
        if not event.is_canary:
            yield event


def _name(stream: Source) -> str:
    """Name the stream for the producer: the address, or the recording's content, whatever its address is today."""
    described = stream.describe()
    return described["stream_url"] or f"sha256:{described['sha256']}"


def _line(number: int, runs: int, run: online.Run) -> str:
    counts = run.counts
    return (
        f"run {number} of {runs}: {counts.get('edits', 0):,} edits, {counts.get('dropped', 0):,} dropped, "
        f"{counts.get('flagged', 0):,} flagged, {counts.get('kept', 0):,} kept; "
        f"blacklist {run.members_start:,} → {run.members_end:,}"
    )


def _texts(stage: online.Stage) -> Callable[[frozenset[str]], dict[str, dict[str, Any]]]:
    """Make a look-up of edits' texts by their ids, in what is left of the topic."""

    def look_up(wanted: frozenset[str]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for raw in stage.messages(_LONGEST_LOOK):
            try:
                event = events.decode(raw)
            except events.InvalidEvent:
                continue
            name = events.event_key(raw, event)
            if name in wanted:
                found[name] = {
                    "title": event.title,
                    "comment": event.comment,
                    "delta": events.delta(event),
                }
        return found

    return look_up
