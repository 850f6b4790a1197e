"""The proof that documents are gone: every place where their text could be, looked at now."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from connectors.state import says_published
from pipeline.cli import traces
from pipeline.cli.assembly import Parts
from pipeline.cli.receipts import moment
from pipeline.cli.traces import Wanted
from pipeline.codec import is_delete
from pipeline.errors import CollectionMissing
from pipeline.generations.control import FOLLOWED, ControlState
from pipeline.ports import Record

Standing: TypeAlias = Literal[
    "gone",  # nothing of it is there
    "waiting",  # it goes by itself, by a date where one is known
    "pending",  # somebody has to do something first, a worker or a connector
]


@dataclass(frozen=True, slots=True)
class Place:
    """One place that was looked at."""

    place: str
    name: str
    state: Standing
    found: int = 0
    """Texts, points or records that are there."""
    until: float | None = None
    """The latest date at which nothing is left, in seconds since 1970; None: not known."""
    note: str = ""
    looked: float = field(default_factory=time.time)

    def as_json(self) -> dict[str, Any]:
        """For a receipt."""
        return {
            "place": self.place,
            "name": self.name,
            "state": self.state,
            "found": self.found,
            "until": moment(self.until),
            "looked": moment(self.looked),
            "note": self.note,
        }


def look(parts: Parts, state: ControlState, wanted: Wanted) -> Iterator[Place]:
    """Every place, one after the other.

    Args:
        parts: broker and store, open.
        state: what ``control`` says.
        wanted: which documents.

    Raises:
        BrokerUnavailable, StoreUnavailable: no answer; look again.
    """
    yield from _collections(parts, wanted)
    for topic in sorted(parts.broker.topics(parts.names.chunks(""))):
        yield _chunks(parts, state, topic, wanted)
    yield _letters(parts, wanted)
    yield _documents(parts, wanted)
    yield _connector_state(parts, wanted)
    yield _control(parts, state, wanted)


def standing(places: Sequence[Place]) -> tuple[Standing, float | None]:
    """Of all places together, and the latest date; None where there is none, or one is not known."""
    if any(one.state == "pending" for one in places):
        return "pending", None
    waiting = [one for one in places if one.state == "waiting"]
    if not waiting:
        return "gone", None
    dates = [one.until for one in waiting]
    return "waiting", None if None in dates else max(date for date in dates if date is not None)


def _collections(parts: Parts, wanted: Wanted) -> Iterator[Place]:
    for collection in traces.collections(parts):
        heads = chunks = 0
        try:
            for page in traces.heads(collection, wanted):
                heads += sum(head.state != "deleted" for head in page)
                chunks += traces.count_chunks(collection, [head.doc for head in page])
            if wanted.source is None:
                # Of documents without a head as well: chunks of a writer that died before it.
                chunks = traces.count_chunks(collection, [key.doc for key in wanted.keys])
        except CollectionMissing:
            continue  # dropped meanwhile
        note = f"{heads} heads, {chunks} chunks" if heads or chunks else ""
        yield Place(
            "collection", collection.spec.name, "pending" if heads or chunks else "gone", heads + chunks, note=note
        )


def _chunks(parts: Parts, state: ControlState, topic: str, wanted: Wanted) -> Place:
    found = list(_places(traces.texts_in_chunks(parts, topic, wanted)))
    generation = topic.removeprefix(parts.names.chunks(""))
    known = state.generations.get(generation)
    followed = known is not None and known.state in FOLLOWED
    note = "not yet below the embed stage's commit" if found and followed else ""
    return Place("chunks topic", topic, "pending" if found else "gone", len(found), note=note)


def _letters(parts: Parts, wanted: Wanted) -> Place:
    topic = parts.names.dead_letters
    found, life = traces.letters(parts, wanted), parts.broker.lifetime(topic)
    if found.standing:
        return Place("dead letters", topic, "pending", found.lying, note=f"{len(found.standing)} are not resolved")
    if found.unread:
        note = f"{found.unread} letters cannot be read: nobody knows whose they are"
        return Place("dead letters", topic, "waiting", found.lying, note=note)
    if not found.lying:
        return Place("dead letters", topic, "gone")
    compacted = None if life.superseded is None else found.ended + life.superseded
    expired = None if life.records is None else found.last + life.records
    until = min((date for date in (compacted, expired) if date is not None), default=None)
    note = f"resolved; {_QUIET}"
    if until is not None and until < time.time():
        # To forget it again writes nothing there: what is resolved is not resolved again.
        left = "" if expired is None or expired <= until else f", and goes by {moment(expired)} whatever comes"
        note = f"resolved; overdue: nothing came there{left}"
    return Place("dead letters", topic, "waiting", found.lying, until, note)


def _documents(parts: Parts, wanted: Wanted) -> Place:
    """What the log still holds below the last word, which must be a delete."""
    topic = parts.names.documents(parts.config.pipeline.epoch)
    texts: dict[bytes, int] = {}
    deleted: dict[bytes, float] = {}
    for record in traces.records(parts, topic, wanted):
        key = record.key or b""
        if is_delete(record):
            deleted[key] = record.timestamp
        elif record.value is not None:
            texts[key] = texts.get(key, 0) + 1
            deleted.pop(key, None)
    count = sum(texts.values())
    if not count:
        return Place("documents topic", topic, "gone")
    if any(key not in deleted for key in texts):
        return Place("documents topic", topic, "pending", count, note="the last record is no delete")
    lag = parts.broker.lifetime(topic).superseded
    if lag is None:
        return Place(
            "documents topic", topic, "waiting", count, note=f"no max.compaction.lag.ms: no date can be told; {_BEGUN}"
        )
    until = max(deleted[key] for key in texts) + lag
    overdue = f"{_OVERDUE}; " if until < time.time() else ""
    return Place("documents topic", topic, "waiting", count, until, f"{overdue}{_BEGUN}; {_QUIET}")


def _connector_state(parts: Parts, wanted: Wanted) -> Place:
    """A digest of the text that was published, which is no text and goes in the same way."""
    topic = parts.names.connector_state
    digests = 0
    last: dict[bytes, bool] = {}
    written = 0.0
    for record in traces.records(parts, topic, wanted):
        published = says_published(record.value)
        digests += published
        last[record.key or b""] = published
        written = max(written, record.timestamp)
    if not digests:
        return Place("connector state", topic, "gone")
    if any(last.values()):
        return Place("connector state", topic, "pending", digests, note="its last word is that it is published")
    lag = parts.broker.lifetime(topic).superseded
    until = None if lag is None else written + lag
    return Place("connector state", topic, "waiting", digests, until, f"digests, no text; {_QUIET}")


def _control(parts: Parts, state: ControlState, wanted: Wanted) -> Place:
    """Queries of a gate that were drawn from the documents: the history has their keys only."""
    count = 0
    for entry in state.history:
        quality = entry.details.get("quality")
        if isinstance(quality, Mapping) and not quality["labelled"]:
            count += sum(
                bool(lost["text"]) and any(wanted.has(traces.key_of(key).to_bytes()) for key in lost["relevant"])
                for lost in quality["worst"]
            )
    note = "a gate's report quotes it, which an earlier build wrote" if count else ""
    return Place("control", parts.names.control, "pending" if count else "gone", count, note=note)


#: Kafka closes a segment when a record comes.
_QUIET: Final = "a quiet partition keeps it until its next record"
_OVERDUE: Final = "overdue: nothing came; forget it again, which writes a record there"
#: Its workers read the text before they read the delete, and their chunks topic has it until they are past.
_BEGUN: Final = "in no index, unless a generation is begun before then"


def _places(records: Iterator[Record]) -> Iterator[tuple[int, int]]:
    for record in records:
        yield record.partition, record.offset
