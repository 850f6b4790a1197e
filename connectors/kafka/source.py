"""The source: hints come from the end of the topics, a scan lists the index, a fetch reads one record.

1. The topics are read from their beginning into the index (:mod:`connectors.kafka.index`), once; a restart goes
   on where the index is.
2. A scan reads on to the ends of now and lists the index, in the order in which records lie, so that what is
   fetched meanwhile is read in one go.
3. Then what is appended is hinted, and fetched from what was just read.

What the index cannot be true about any more leads back to 1, with a line in the log: a topic that was made again,
records that are lost or expired unread, deletes that may have been compacted away. See
docs/adr/0008-topics-as-sources.md.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from connectors.kafka.index import Index, Put, Truncate
from connectors.kafka.lookup import Lookup
from connectors.kafka.records import NoDocument, OwnRecords, TopicRecords
from connectors.kafka.settings import KafkaSettings
from connectors.postgres.keys import escaped
from pipeline.broker.kafka_topics import Cluster, OutOfLog, PartitionsReader, TopicFacts
from pipeline.deadline import Deadline
from pipeline.errors import (
    Backpressure,
    BrokerUnavailable,
    ConfigError,
    Fatal,
    NotAllowed,
    SourceUnavailable,
    Transient,
    VectideError,
)
from pipeline.identity import canonical_json, content_hash
from pipeline.ports import Backlog, Expired, Fetched, Hint, Listed, Record, TopicPartition

log = logging.getLogger(__name__)

#: Raised with what a document is made of: then every document is looked at again.
_VERSION: Final = 1
#: Of one poll, and hints of one call.
_RECORDS: Final = 500
_HINTS: Final = 1000
#: Paths that a scan has read of and that are still to be hinted; beyond it, hints bring the rest.
_PENDING: Final = 20_000
#: Bytes of records that are kept from a poll for the fetches that follow it.
_RECENT_BYTES: Final = 8 * 1024 * 1024
#: A loop counts as stuck after 60 s: reading the topics for the first time stops for its beat, and for its end.
_PORTION_SECONDS: Final = 5.0
#: How soon :meth:`KafkaSource.close` is noticed.
_POLL_SECONDS: Final = 0.1
#: Between two questions for the ends of partitions: an outage shows in nothing else.
_ENDS_SECONDS: Final = 2.0
#: Between two looks at the topics: for new partitions, and whether they still are the same ones.
_TOPICS_SECONDS: Final = 30.0
#: A null that was appended since the last look lies in the open segment, which no compaction touches.
_TOMBSTONES_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 15.0
_RIGHTS: Final = "Read, Describe and DescribeConfigs on its topics"


class StillReading(SourceUnavailable, Backpressure):
    """The topics are being read for the first time: go on at once."""

    def __init__(self, detail: str) -> None:
        Backpressure.__init__(self, detail, 0.0)


class KafkaSource:
    """A :class:`pipeline.ports.LogSource`.

    Args:
        id: the source's.
        settings: of the source.
        limit_bytes: a longer text is published without it.
        state: a folder for the index; None: it is made anew by each process.
        clock: seconds since 1970.

    Raises:
        ConfigError: a setting of the connection is wrong.
    """

    def __init__(
        self,
        id: str,
        settings: KafkaSettings,
        limit_bytes: int,
        state: Path | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.id = id
        self._settings = settings
        self._limit = limit_bytes
        self._state = state
        self._clock = clock
        self._cluster: Cluster | None = self._new_cluster()
        self._records = {topic: TopicRecords(topic, one) for topic, one in settings.topics.items()}
        self._topics = {escaped(topic): topic for topic in settings.topics}
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._reached = False
        self._index: Index | None = None
        self._tail: PartitionsReader | None = None
        self._lookup = Lookup(lambda at, offset: self._of_cluster().reader({at: offset}))
        self._facts: Mapping[str, TopicFacts] = {}
        self._revisions: Mapping[str, str] = {}
        self._read: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._goal: dict[TopicPartition, int] = {}
        self._resume_ends: dict[TopicPartition, int] | None = None
        self._given: dict[TopicPartition, int] = {}
        self._published: dict[TopicPartition, int] = {}
        self._pending: dict[str, float] = {}
        self._owed = False
        self._recent: dict[tuple[TopicPartition, int], Record] = {}
        self._left_out: dict[str, int] = {}
        self._next_ends = 0.0
        self._next_topics = 0.0
        self._next_fresh = 0.0

    # ------------------------------------------------------------------------ documents

    def scan(self) -> Iterator[Listed]:
        """Every document that the topics have."""
        with self._working():
            self._complete()
            self._look_at_topics()
            self._complete()
            self._advance()
            index, until = self._complete(), dict(self._read)
            index.prune(self._starts(), self._published)
            self._tell_left_out()
        for path, place in index.documents(until):
            yield Listed(path, self._revision(place.at, place.offset))

    def fetch(self, path: str) -> Fetched | Expired | None:
        """What the last record of a document says."""
        first, _, rest = path.partition("/")
        topic = self._topics.get(first)
        if topic is None or not rest or not _is_text(rest):
            return None
        with self._working():
            place = self._complete().find(path)
            if place is None:
                return self._absent(path, topic)
            if place.gone:
                return None
            record = self._recent.get((place.at, place.offset)) or self._lookup.get(place.at, place.offset)
            if record is None:
                if self._starts()[place.at] > place.offset:
                    return self._absent(path, topic)
                raise Transient("its record was compacted away: a newer one is still to be read")
            revision = self._revision(place.at, place.offset)
        content = self._records[topic].content(record)
        size = len(content.text.encode())
        within = size <= self._limit
        return Fetched(
            path=path,
            revision=revision,
            text=content.text if within else None,
            digest=content_hash(content.text),
            media_type=self._settings.topics[topic].media_type,
            metadata={},
            event_time=content.at,
            size=size,
            omitted="" if within else f"{size} bytes, over the limit of {self._limit}",
            found=content.found,
        )

    # ------------------------------------------------------------------------------ log

    def resume(self, position: str | None) -> bool:
        """Go on behind ``position``, if the index was made up to there and the topics are the same."""
        with self._working():
            tail, index = self._tail_or_new(), self._of_index()
            known = self._parsed(position)
            if position is not None and known is None:
                log.warning("topics or settings are others than before: all is compared", extra={"source": self.id})
            going_on = known is not None and index.complete and not self._owed and self._gone_back(known)
            self._resume_ends = tail.ends(self._read)
            self._given = dict(self._read)
            self._owed = False  # whoever asked scans
            return going_on

    def caught_up(self) -> bool:
        """Whether everything was hinted up to the ends of then."""
        ends = self._resume_ends
        return ends is not None and all(self._given.get(at, 0) >= end for at, end in ends.items())

    def position(self) -> str:
        """What is read, and the offsets up to which records were hinted."""
        topics: dict[str, list[str]] = {}
        for at, offset in sorted(self._given.items()):
            topics.setdefault(at.topic, []).append(f"{at.partition}:{offset}")
        return "@".join([self._here(), *(f"{topic}={','.join(places)}" for topic, places in topics.items())])

    def acknowledge(self, position: str) -> None:
        """Deletes up to there need not be remembered; the topics do not care who has read them."""
        self._published = self._parsed(position) or self._published

    def backlog(self) -> Backlog | None:
        """Records that were appended and not hinted, as of the last look."""
        if not self._ends:
            return None
        behind = sum(max(0, end - self._given.get(at, 0)) for at, end in self._ends.items())
        return Backlog(behind, "records")

    def hints(self, timeout: float) -> list[Hint]:
        """Documents that records were appended of."""
        deadline = Deadline.after(timeout)
        while not self._closed.is_set():
            try:
                with self._working():
                    found = self._hinted() or self._read_on(deadline)
            except SourceUnavailable:
                if self._closed.is_set():
                    break
                raise
            if found or deadline.expired:
                return found
        return []

    def close(self) -> None:
        """End the connections; wakes a waiting :meth:`hints`."""
        self._closed.set()
        if self._lock.acquire(timeout=_CLOSE_SECONDS):
            try:
                self._drop()
                index, self._index = self._index, None
                if index is not None:
                    index.close()
            finally:
                self._lock.release()

    # ---------------------------------------------------------------------- the topics

    @contextmanager
    def _working(self) -> Iterator[None]:
        """One call at a time; what fails in it is an outage, and the next one begins with new connections."""
        with self._lock:
            if self._closed.is_set():
                raise SourceUnavailable("the source is closed")
            try:
                yield
            except (StillReading, OwnRecords):
                raise
            except (BrokerUnavailable, SourceUnavailable, Fatal) as error:
                self._drop()
                if isinstance(error, ConfigError) and not self._reached:
                    raise
                raise SourceUnavailable(_reason(error)) from None

    def _new_cluster(self) -> Cluster:
        place = f"sources.{self.id}"
        try:
            return Cluster(self._settings.cluster(), f"vectide-{self.id}", place)
        except ValueError as error:
            raise ConfigError(f"{place}.{error}", "mount the secret there") from None

    def _of_cluster(self) -> Cluster:
        if self._cluster is None:
            self._cluster = self._new_cluster()  # secrets may be others by now
        return self._cluster

    def _of_index(self) -> Index:
        if self._index is None:
            self._index = Index(self._state)
        return self._index

    def _drop(self) -> None:
        """Close all connections."""
        cluster, self._cluster = self._cluster, None
        self._lookup.close()
        self._close_tail()
        if cluster is not None:
            cluster.close()

    def _close_tail(self) -> None:
        tail, self._tail = self._tail, None
        if tail is not None:
            tail.close()

    def _described(self) -> Mapping[str, TopicFacts]:
        facts = self._of_cluster().describe(list(self._settings.topics))
        self._next_topics = time.monotonic() + _TOPICS_SECONDS
        missing = [topic for topic in self._settings.topics if topic not in facts]
        if missing:
            raise SourceUnavailable(f"there is no topic {', '.join(missing)} that may be seen; nothing is deleted")
        self._reached = True
        return facts

    def _tail_or_new(self) -> PartitionsReader:
        """What reads on, behind what the index has."""
        if self._tail is not None:
            return self._tail
        self._note(self._described())
        index, partitions = self._of_index(), self._partitions()
        index.add(partitions, self._clock())
        nexts = index.nexts()
        tail = self._of_cluster().reader({at: nexts[at] for at in partitions})
        try:
            bounds = tail.bounds(partitions)
        except BaseException:
            tail.close()
            raise
        for at, (start, end) in bounds.items():
            offset = nexts[at]
            if offset is not None and not start <= offset <= end:
                tail.close()
                self._again(_unread(at, offset, start) if offset < start else _shorter(at, offset, end))
                return self._tail_or_new()
        self._tail = tail
        self._read = tail.positions()
        self._ends = {at: one.end for at, one in bounds.items()}
        self._goal = self._goal or dict(self._ends)
        return tail

    def _note(self, facts: Mapping[str, TopicFacts]) -> None:
        """Topics as they are now; the index is begun anew if it is of others."""
        before, self._facts = self._facts, facts
        settings = self._settings.topics
        self._revisions = {
            topic: _fingerprint([_VERSION, settings[topic].model_dump(mode="json"), one.id])
            for topic, one in facts.items()
        }
        made_of = [[topic, one.id, settings[topic].format, settings[topic].key] for topic, one in facts.items()]
        fingerprint, index = _fingerprint(made_of), self._of_index()
        if index.fingerprint == fingerprint:
            return
        if index.fingerprint:
            again = [topic for topic, one in before.items() if one.id != facts[topic].id]
            self._again(f"{', '.join(again) or 'a topic'} was deleted and made again, or other topics or keys are set")
        index.begin(fingerprint)
        self._goal = {}

    def _again(self, why: str) -> None:
        """Begin the index anew, and have all compared."""
        log.warning("topics are read from their beginning", extra={"source": self.id, "why": why})
        self._close_tail()
        index = self._of_index()
        index.begin(index.fingerprint)
        self._pending.clear()
        self._recent.clear()
        self._goal, self._given, self._read = {}, {}, {}
        self._owed = True

    def _look_at_topics(self) -> None:
        """Whether they are still the same, with as many partitions."""
        facts = self._described()
        if facts != self._facts:
            self._close_tail()
            self._note(facts)
            self._tail_or_new()

    def _partitions(self) -> list[TopicPartition]:
        return [TopicPartition(topic, one) for topic, facts in self._facts.items() for one in range(facts.partitions)]

    def _starts(self) -> dict[TopicPartition, int]:
        return {at: one.start for at, one in self._tail_or_new().bounds(self._read).items()}

    # ------------------------------------------------------------------------- reading

    def _complete(self) -> Index:
        """The index, once it is complete."""
        index = self._of_index()
        portion = Deadline.after(_PORTION_SECONDS)
        self._tail_or_new()
        while not index.complete:
            if not self._behind(self._goal):
                index.finish()
                index.refresh(dict.fromkeys(self._read, self._clock()))
                self._given = dict(self._read)
            elif not self._take(_POLL_SECONDS, hinted=False):
                self._look()
            self._pause(portion)
        return index

    def _advance(self) -> None:
        """Read on to the ends of now, as far as what was read can be remembered."""
        goal, portion = self._tail_or_new().ends(self._read), Deadline.after(_PORTION_SECONDS)
        while self._behind(goal) and len(self._pending) < _PENDING:
            if not self._take(_POLL_SECONDS, hinted=True):
                self._look()
            self._complete()
            self._pause(portion)

    def _behind(self, goal: Mapping[TopicPartition, int]) -> int:
        """Offsets up to there, at most."""
        return sum(max(0, end - self._read.get(at, 0)) for at, end in goal.items())

    def _pause(self, portion: Deadline) -> None:
        if self._closed.is_set():
            raise SourceUnavailable("the source is closed")
        if portion.expired and self._of_index().kept:
            raise StillReading(f"the topics are being read: {self._behind(self._goal):,} records are left")

    def _read_on(self, deadline: Deadline) -> list[Hint]:
        """Hints of the next records; waits for a moment."""
        if self._tail is None:
            self._next_ends = 0.0  # whether it answers again
        self._tail_or_new()
        self._look()
        if not self._owed:
            if self._of_index().complete:
                self._take(min(_POLL_SECONDS, deadline.remaining()), hinted=True)
            else:
                self._closed.wait(min(_POLL_SECONDS, deadline.remaining()))  # a scan reads on
        return self._hinted()

    def _hinted(self) -> list[Hint]:
        """What is to be looked at, and then from where on."""
        if self._owed:
            self._owed = False
            return [Hint(None)]
        paths = list(self._pending)[:_HINTS]
        found = [Hint(path, self._pending.pop(path)) for path in paths]
        if not self._pending and self._read:
            self._given = dict(self._read)
        return found

    def _take(self, timeout: float, *, hinted: bool) -> int:
        """Read the next records into the index; how many there were."""
        try:
            records = self._tail_or_new().poll(timeout, _RECORDS)
        except OutOfLog as error:
            self._again(_unread(error.at, error.offset, None))
            return 0
        changes: list[Put | Truncate] = []
        if records:
            self._recent, room = {}, _RECENT_BYTES
        for record in records:
            change = self._change(record)
            if change is None:
                continue
            changes.append(change)
            if hinted:
                now = self._clock()
                self._pending[change.path] = min(record.timestamp, now) if record.timestamp > 0 else now
                room -= len(record.value or b"")
                if room > 0:
                    self._recent[record.at, record.offset] = record
        read = self._tail_or_new().positions()
        if changes or read != self._read:
            self._of_index().apply(changes, read)
            self._read = read
        return len(records)

    def _change(self, record: Record) -> Put | Truncate | None:
        try:
            told = self._records[record.topic].told(record)
        except NoDocument as why:
            if record.topic not in self._left_out:
                self._left_out[record.topic] = 0
                where = f"{record.topic}[{record.partition}] at offset {record.offset}"
                log.warning(
                    "record is left out; others of its topic are only counted",
                    extra={"source": self.id, "record": where, "why": str(why)},
                )
            self._left_out[record.topic] += 1
            return None
        if told is None:
            return None
        if told.what == "truncate":
            return Truncate(told.path, record.at, record.offset, record.timestamp)
        return Put(told.path, record.at, record.offset, record.timestamp, told.what == "delete")

    def _tell_left_out(self) -> None:
        for topic, count in self._left_out.items():
            if count > 1:
                log.warning("records were left out", extra={"source": self.id, "topic": topic, "records": count})
                self._left_out[topic] = 1

    def _look(self) -> None:
        """From time to time: where the topics end, and whether they are the same."""
        now = time.monotonic()
        if now >= self._next_topics:
            self._look_at_topics()
        if now < self._next_ends:
            return
        self._ends = self._tail_or_new().ends(self._read)
        self._next_ends = time.monotonic() + _ENDS_SECONDS
        index = self._of_index()
        if not index.complete:
            return
        clock, fresh = self._clock(), index.fresh()
        reached = {at: clock for at, end in self._ends.items() if self._read.get(at, 0) >= end}
        for at in reached:
            facts = self._facts[at.topic]
            if facts.compacts and clock - fresh[at] > max(facts.tombstone_seconds, _TOMBSTONES_SECONDS):
                self._again(
                    f"{at.topic}[{at.partition}] was not read to its end for {clock - fresh[at]:.0f} s, longer than "
                    f"delete.retention.ms ({facts.tombstone_seconds:.0f} s): deletes may have been compacted away"
                )
                return
        if now >= self._next_fresh:
            index.refresh(reached)
            self._next_fresh = now + _TOPICS_SECONDS

    # ----------------------------------------------------------------------- positions

    def _here(self) -> str:
        return _fingerprint(sorted(self._revisions.items()))

    def _revision(self, at: TopicPartition, offset: int) -> str:
        return f"{at.partition}:{offset}-{self._revisions[at.topic]}"

    def _parsed(self, position: str | None) -> dict[TopicPartition, int] | None:
        """The offsets of a position; None: it is none of these topics."""
        here, *topics = (position or "").split("@")
        if here != self._here():
            return None
        found = {}
        for one in topics:
            topic, _, places = one.partition("=")
            for place in places.split(","):
                partition, _, offset = place.partition(":")
                found[TopicPartition(topic, int(partition))] = int(offset)
        return found

    def _gone_back(self, known: Mapping[TopicPartition, int]) -> bool:
        """Read on from a position; False: not all that follows it can be read again."""
        tail, starts = self._tail_or_new(), self._starts()
        back = {at: min(known.get(at, starts[at]), offset) for at, offset in self._read.items()}
        if any(offset < starts[at] for at, offset in back.items()):
            return False
        self._of_index().apply([], back)  # first, for new connections begin there
        tail.assign(back)
        self._read = back
        return True

    def _absent(self, path: str, topic: str) -> Expired | None:
        """A document that no record is there of."""
        kept = self._facts[topic].expires and self._settings.expired == "keep"
        return Expired(path) if kept else None


def _reason(error: VectideError) -> str:
    """Why the topics cannot be read, on one line."""
    if isinstance(error, NotAllowed):
        return f"{error.what}: grant {_RIGHTS}"
    return f"{error.what}: {error.remedy}" if isinstance(error, Fatal) else str(error)


def _unread(at: TopicPartition, offset: int, start: int | None) -> str:
    until = "" if start is None else f", which begins at {start}"
    return (
        f"offset {offset} of {at.topic}[{at.partition}] is not in the log{until}: records were removed unread, and "
        "deletes among them are not known; give the topic a longer retention, or let it compact"
    )


def _shorter(at: TopicPartition, offset: int, end: int) -> str:
    return (
        f"{at.topic}[{at.partition}] ends at {end}, before offset {offset} that was read: its cluster has lost "
        "records, or is another one"
    )


def _fingerprint(facts: Any) -> str:
    return hashlib.blake2b(canonical_json(facts), digest_size=6).hexdigest()


def _is_text(path: str) -> bool:
    """Whether a database can hold it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
