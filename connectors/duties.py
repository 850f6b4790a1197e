"""What a source's writer does because it was asked to: forget, lift, collect old deletes.

Each step is one transaction, made from what the state says by then. So whoever takes the source's
transactional id over goes on where the last one was: a mark in the state, written in the very
transaction that did the work, says which request is done. See docs/adr/0004-erasure.md.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import msgspec

from connectors.batches import traceparent
from connectors.following import POSITION
from connectors.state import Known, State
from pipeline.broker.reading import to_the_end
from pipeline.codec import UNREADABLE, encode_event, is_delete
from pipeline.deadline import Deadline
from pipeline.errors import MalformedRecord
from pipeline.identity import DocumentKey
from pipeline.ports import Broker, NewRecord, OffsetRange, Record, TransactionalPublisher, Written
from pipeline.records import DocumentDeleted, Done, Provenance, Request

log = logging.getLogger(__name__)

#: The mark of a source of which nothing is published; its value is the request that had it forgotten.
FORGOTTEN: Final = "forgotten"

_SCHEMA: Final = 1
#: Deletes or nulls of one transaction.
_BATCH: Final = 500
#: Deletes that one gc remembers while it looks for what else the log has of their documents: some 20 MB.
_CANDIDATES: Final = 100_000
_PAGE: Final = 500
_STALL_SECONDS: Final = 30.0
#: For transactions that were open when a gc began to look; what hangs for longer is left for another gc.
_SETTLE_SECONDS: Final = 25.0
_SETTLE_POLL_SECONDS: Final = 0.1
_PASSES: Final = 2


def done_name(request: str) -> str:
    """The name of the mark of a request that is done."""
    return f"done/{request}"


class _Done(msgspec.Struct, omit_defaults=True):
    schema: int
    request: str
    at: float
    complete: bool = True
    count: int = 0
    offsets: list[tuple[int, int]] = []
    ranges: dict[int, tuple[int, int]] = {}
    left: int = 0


def encode_done(done: Done) -> bytes:
    """A mark's value."""
    return msgspec.json.encode(
        _Done(
            _SCHEMA, done.request, done.at, done.complete, done.count, list(done.offsets), dict(done.ranges), done.left
        )
    )


def decode_done(value: bytes) -> Done:
    """The inverse of :func:`encode_done`.

    Raises:
        MalformedRecord: no version of ours wrote this.
    """
    try:
        wire = msgspec.json.decode(value, type=_Done)
    except UNREADABLE as error:
        raise MalformedRecord(f"the mark of a request: {error}") from None
    return Done(wire.request, wire.at, wire.complete, wire.count, tuple(wire.offsets), wire.ranges, wire.left)


class Duties:
    """The requests to one source, carried out in the order in which they were asked; one thread.

    Args:
        source: its id.
        broker: has the documents topic.
        topic: of the documents.
        requests: all that ``control`` knows, in order.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        source: str,
        broker: Broker,
        topic: str,
        requests: Callable[[], Sequence[Request]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._broker = broker
        self._topic = topic
        self._requests = requests
        self._clock = clock
        self._collecting: tuple[Request, OldDeletes] | None = None

    def next(self, state: State, kinds: Collection[str] = ("forget", "lift", "gc")) -> Request | None:
        """The first request that is not done, a gc after all others: it can take long. None: there is
        nothing to do.

        Raises:
            BrokerUnavailable, NewerSchema: ``control`` cannot be read now.
        """
        for request in sorted(self._requests(), key=lambda one: one.kind == "gc"):
            if request.source != self._source or request.closed or request.kind not in kinds:
                continue
            if not _progress(state, request).complete:
                return request
        return None

    def step(self, request: Request, state: State, publisher: TransactionalPublisher, deadline: Deadline) -> None:
        """Go on with a request by one transaction, or by a look at a part of the log.

        Args:
            request: the one that :meth:`next` says now: what is done must not be done once more, for
                it may have been reversed since.
            state: of the source.
            publisher: of its transactional id.
            deadline: of the transaction.

        Raises:
            Fenced: another process is the writer now.
            Transient: call :meth:`restart`, and again with a new publisher and the state read anew.
        """
        step = self._step(request, state)
        if step is None:
            return
        marks: dict[str, bytes | None] = {}

        def then(written: Sequence[Written]) -> list[NewRecord]:
            marks.update(step.marks(written))
            known = [state.record(path, entry) for path, entry in step.entries.items()]
            return known + [state.mark_record(name, value) for name, value in marks.items()]

        if step.events:
            written = publisher.publish(step.events, deadline, then)[len(step.events) :]
        else:
            written = publisher.publish(then(()), deadline)
        state.put(step.entries, written, marks)
        if request.kind == "forget":
            state.scrub()
        self.published(step.entries)  # a gc that is under way must not collect what was just written
        done = _progress(state, request)
        if done.complete:
            fields = {"request": request.id, "kind": request.kind, "source": request.source, "count": done.count}
            log.info("request done", extra=fields)

    def published(self, paths: Iterable[str]) -> None:
        """Take note of what the source's writer publishes meanwhile: its deletes are new ones."""
        if self._collecting is not None:
            self._collecting[1].published(DocumentKey(self._source, path).to_bytes() for path in paths)

    def restart(self) -> None:
        """Somebody else may have written: what was seen of the log is of no use any more."""
        if self._collecting is not None:
            self._collecting[1].close()
            self._collecting = None

    def _step(self, request: Request, state: State) -> _Step | None:
        match request.kind:
            case "forget" if request.paths:
                return self._forget(request)
            case "forget":
                return self._forget_all(request, state)
            case "lift":
                return self._lift(request, state)
            case "gc":
                return self._collect(request, state)

    def _forget(self, request: Request) -> _Step:
        """One delete for each key, known or not: what the log still has of it goes with compaction."""

        def marks(written: Sequence[Written]) -> Mapping[str, bytes | None]:
            done = _more(Done(request.id, self._clock()), written)
            offsets = tuple((one.partition, one.offset) for one in written)
            return {done_name(request.id): encode_done(replace(done, offsets=offsets))}

        entries: dict[str, Known | None] = dict.fromkeys(request.paths, Known("", "", "", request.id))
        return _Step(self._deletes(request.paths), entries, marks)

    def _forget_all(self, request: Request, state: State) -> _Step:
        """First of all nothing more is published: the mark comes with the first deletes."""
        paths = state.published(_BATCH)
        complete = len(paths) < _BATCH

        def marks(written: Sequence[Written]) -> Mapping[str, bytes | None]:
            done = _more(_progress(state, request), written)
            done = replace(done, at=self._clock(), complete=complete)
            return {FORGOTTEN: request.id.encode(), done_name(request.id): encode_done(done)}

        return _Step(self._deletes(paths), dict.fromkeys(paths), marks)

    def _lift(self, request: Request, state: State) -> _Step:
        paths = [path for path in request.paths if (known := state.get(path)) is not None and known.forgotten]
        whole = not request.paths and state.mark(FORGOTTEN) is not None

        def marks(written: Sequence[Written]) -> Mapping[str, bytes | None]:
            done = Done(request.id, self._clock(), count=len(paths) + whole)
            # What was forgotten has changed unnoticed: only a scan finds it.
            lifted: dict[str, bytes | None] = {POSITION: None, **({FORGOTTEN: None} if whole else {})}
            return {**lifted, done_name(request.id): encode_done(done)}

        return _Step([], dict.fromkeys(paths), marks)

    def _collect(self, request: Request, state: State) -> _Step | None:
        if self._collecting is None or self._collecting[0] != request:
            self.restart()
            old = OldDeletes(self._broker, self._topic, request.before, request.older, self._source)
            self._collecting = request, old
        old = self._collecting[1]
        if old.look():
            return None
        taken = old.take(_BATCH)
        keys = [key for key in taken if not self._published(state, key)]

        def marks(written: Sequence[Written]) -> Mapping[str, bytes | None]:
            done = replace(_more(_progress(state, request), written), at=self._clock(), complete=not taken)
            needless = {} if taken else self._needless(state)
            return {**needless, done_name(request.id): encode_done(replace(done, left=old.left))}

        return _Step([NewRecord(self._topic, key, None) for key in keys], {}, marks)

    def _published(self, state: State, key: bytes) -> bool:
        known = state.get(DocumentKey.from_bytes(key).path)
        return known is not None and known.published

    def _needless(self, state: State) -> dict[str, bytes | None]:
        """Marks of requests that control has forgotten."""
        names = {done_name(request.id) for request in self._requests()}
        return {name: None for name in state.mark_names() if name.startswith(done_name("")) and name not in names}

    def _deletes(self, paths: Sequence[str]) -> list[NewRecord]:
        provenance = Provenance(self._clock(), traceparent())
        events = (DocumentDeleted(DocumentKey(self._source, path), provenance, erased=True) for path in paths)
        return [NewRecord(self._topic, *encode_event(event)) for event in events]


def carry_out(
    duties: Duties,
    state: State,
    publisher: TransactionalPublisher,
    last: Request,
    seconds: float,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """All requests up to one, a gc or all others, at once, for who has taken over a source that nobody runs.

    Args:
        duties: of the source.
        state: of the source, read after the take-over.
        publisher: of the source's transactional id.
        last: the request after which to stop.
        seconds: for each transaction.
        stopped: asked between two.

    Raises:
        Fenced: the source is run again, or another command has taken it over.
        Transient: no answer; what is done stands in the state.
    """
    try:
        kinds = ("gc",) if last.kind == "gc" else ("forget", "lift")
        while (request := duties.next(state, kinds)) is not None and request.number <= last.number and not stopped():
            duties.step(request, state, publisher, Deadline.after(seconds))
    finally:
        duties.restart()


class _Step(NamedTuple):
    """One transaction."""

    events: list[NewRecord]
    entries: dict[str, Known | None]
    marks: Callable[[Sequence[Written]], Mapping[str, bytes | None]]
    """The marks, from where the events went."""


class OldDeletes:
    """Old deletes of which the log has nothing else: nulls in their place can do no harm.

    The log is read twice, a page at a time: for the deletes, then for what else there is of their
    documents. Whoever writes nulls for them must be the one writer of their keys, and say what it
    publishes meanwhile.

    Args:
        broker: has the topic.
        topic: of the documents.
        before: by partition, what every generation has committed.
        older: only what was appended before this moment.
        source: only its documents; None: those of all.
    """

    def __init__(
        self, broker: Broker, topic: str, before: Mapping[int, int], older: float, source: str | None = None
    ) -> None:
        self.left = 0
        """Deletes that were too many to remember."""
        self._broker = broker
        self._topic = topic
        self._before = before
        self._older = older
        self._prefix = b"" if source is None else DocumentKey(source, "").to_bytes()
        self._found: dict[bytes, int] = {}
        self._published: set[bytes] = set()
        self._written: dict[int, OffsetRange] | None = None
        self._settled = Deadline.after(_SETTLE_SECONDS)
        self._hanging: frozenset[int] = frozenset()
        self._pass = 0
        self._pages: Generator[list[Record]] | None = None

    def look(self) -> bool:
        """Read a page; False once everything is read.

        Raises:
            BrokerUnavailable: no answer; begin anew.
        """
        if self._pass == _PASSES:
            return False
        if not self._readable():
            time.sleep(_SETTLE_POLL_SECONDS)
            return True
        if self._pages is None:
            self._pages = to_the_end(self._broker.reader(self._topic), self._topic, _PAGE, _STALL_SECONDS)
        page = next(self._pages, None)
        if page is None:
            self._pages = None
            self._pass += 1
            return True
        for record in page:
            if record.key is not None and record.key.startswith(self._prefix):
                (self._first if self._pass == 0 else self._second)(record, record.key)
        return True

    def take(self, most: int) -> list[bytes]:
        """Keys of some of them, which are then no longer here; none: there are no more."""
        keys: list[bytes] = []
        while self._found and len(keys) < most:
            key, _ = self._found.popitem()
            if key not in self._published:
                keys.append(key)
        return keys

    def published(self, keys: Iterable[bytes]) -> None:
        """Take note of documents that were published since the look began."""
        self._published.update(keys)

    def close(self) -> None:
        """Stop reading."""
        if self._pages is not None:
            self._pages.close()
            self._pages = None

    def _readable(self) -> bool:
        """True once all that was written can be read: behind an open transaction it cannot."""
        if self._written is None:
            self._written = self._broker.offsets(self._topic, uncommitted=True)
        elif self._pages is not None or self._pass:
            return True
        ends = self._broker.offsets(self._topic)
        hanging = frozenset(partition for partition, one in self._written.items() if ends[partition].end < one.end)
        if self._settled.expired:
            self._hanging = hanging
        return not hanging or self._settled.expired

    def _first(self, record: Record, key: bytes) -> None:
        if record.partition in self._hanging:
            return
        old = record.offset < self._before.get(record.partition, 0) and record.timestamp < self._older
        if not (old and is_delete(record)):
            self._found.pop(key, None)
        elif key in self._found or len(self._found) < _CANDIDATES:
            self._found[key] = record.offset
        else:
            self.left += 1

    def _second(self, record: Record, key: bytes) -> None:
        if key not in self._found:
            return
        newer = record.offset > self._found[key]
        # An older text that compaction has not taken yet: who reads it must find the delete, however
        # much later. A newer record: this delete is not the last word.
        text = record.offset < self._found[key] and record.value is not None and not is_delete(record)
        if newer or text:
            del self._found[key]


def _progress(state: State, request: Request) -> Done:
    mark = state.mark(done_name(request.id))
    try:
        return _begun(request) if mark is None else decode_done(mark)
    except MalformedRecord as error:
        log.warning("a request is carried out again", extra={"request": request.id, "error": str(error)})
        return _begun(request)


def _begun(request: Request) -> Done:
    return Done(request.id, 0.0, complete=False)


def _more(done: Done, written: Sequence[Written]) -> Done:
    """With what was published besides."""
    ranges = dict(done.ranges)
    for partition, offset in written:
        first, last = ranges.get(partition, (offset, offset))
        ranges[partition] = (min(first, offset), max(last, offset))
    return replace(done, count=done.count + len(written), ranges=ranges)
