"""The source: hints come from the end of the topics, a scan lists the index, a fetch reads one record.

1. The topics are read from their beginning into the index (:mod:`connectors.kafka.index`), once; a restart goes
   on where the index is.
2. A scan reads on to the ends of now and lists the index, in the order in which records lie, so that what is
   fetched meanwhile is read in one go.
3. Then what is appended is hinted, and fetched from what was just read.

What the index cannot be true about any more leads back to 1 (:mod:`connectors.kafka.following`). See
docs/adr/0008-topics-as-sources.md.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from connectors.kafka.following import POLL_SECONDS, PORTION_SECONDS, Following, StillReading
from connectors.kafka.index import Index, Place
from connectors.kafka.lookup import Lookup
from connectors.kafka.records import NoDocument, OwnRecords, TopicRecords
from connectors.kafka.settings import KafkaSettings
from connectors.keys import escaped
from connectors.texts import bounded
from pipeline.deadline import Deadline
from pipeline.errors import (
    BrokerUnavailable,
    ConfigError,
    Fatal,
    NotAllowed,
    SourceUnavailable,
    Transient,
    VectideError,
)
from pipeline.identity import content_hash
from pipeline.ports import Backlog, Expired, Fetched, Hint, Listed, Record, TopicPartition

log = logging.getLogger(__name__)

#: Hints of one call.
_HINTS: Final = 1000
#: Paths that a scan has read of and that are still to be hinted; beyond it, hints bring the rest.
_PENDING: Final = 20_000
#: Bytes of records that are kept from a poll for the fetches that follow it.
_RECENT_BYTES: Final = 8 * 1024 * 1024
_CLOSE_SECONDS: Final = 15.0
_RIGHTS: Final = "Read, Describe and DescribeConfigs on its topics"


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
        self._clock = clock
        self._topics = {escaped(topic): topic for topic in settings.topics}
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._following = Following(id, settings, state, self._closed, clock)
        self._lookup = Lookup(lambda at, offset: self._following.cluster().reader({at: offset}))
        self._resume_ends: dict[TopicPartition, int] | None = None
        self._given: dict[TopicPartition, int] = {}
        self._published: dict[TopicPartition, int] = {}
        self._pending: dict[str, float] = {}
        self._recent: dict[tuple[TopicPartition, int], Record] = {}
        self._era = 0

    # ------------------------------------------------------------------------ documents

    def scan(self) -> Iterator[Listed | None]:
        """Every document that the topics have. A long reading into an index that is kept raises
        :class:`StillReading`, which says how much is left; into another, it pauses.
        """
        following = self._following
        while True:
            try:
                index, until, era = self._read_up()
                break
            except StillReading as reading:
                if reading.kept:
                    raise
                yield None
        for path, place in index.documents(until):
            if following.era != era:
                break
            yield Listed(path, following.revision(place.at, place.offset))
        if following.era != era:
            raise SourceUnavailable(
                "the topics are read again from their beginning: what was listed is no list any more"
            )

    def fetch(self, path: str) -> Fetched | Expired | None:
        """What the last record of a document says."""
        first, _, rest = path.partition("/")
        topic = self._topics.get(first)
        if topic is None or not rest or not _is_text(rest):
            return None
        with self._working():
            place = self._following.complete().find(path)
            if place is None:
                return self._absent(path, topic)
            if place.gone:
                return None
            record = self._record(place)
            if record is None:
                if self._following.starts()[place.at] > place.offset:
                    return Expired(path) if self._keeps(topic) else None
                raise Transient("its record was compacted away: a newer one is still to be read")
            revision = self._following.revision(place.at, place.offset)
            records = self._following.records[topic]
        if not _is_of(path, record, records):
            raise Transient("another document's record lies there: the topic was made again")
        content = records.content(record)
        read, size = bounded(content.text, self._settings.topics[topic].media_type, self._limit)
        within = size <= self._limit
        return Fetched(
            path=path,
            revision=revision,
            text=read.text if within else None,
            digest=content_hash(read.text),
            media_type=read.media_type,
            metadata=read.metadata,
            event_time=content.at,
            size=size,
            omitted="" if within else f"{size} bytes, over the limit of {self._limit}",
            found=content.found,
        )

    # ------------------------------------------------------------------------------ log

    def resume(self, position: str | None) -> bool:
        """Go on behind ``position``, if the index was made up to there and the topics are the same."""
        with self._working():
            following = self._following
            ends = following.now_ends()
            known = self._parsed(position)
            if position is not None and known is None:
                log.warning("topics or settings are others than before: all is compared", extra={"source": self.id})
            going_on = known is not None and following.index().complete and not following.anew
            going_on = going_on and following.go_back(known or {})
            self._resume_ends = ends
            self._given = dict(following.read)
            following.anew = False  # whoever asked scans
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
        return "@".join([self._following.here, *(f"{topic}={','.join(places)}" for topic, places in topics.items())])

    def acknowledge(self, position: str) -> None:
        """Deletes up to there need not be remembered; the topics do not care who has read them."""
        self._published = self._parsed(position) or self._published

    def backlog(self) -> Backlog | None:
        """Records that were appended and not hinted, as of the last look."""
        if not self._following.ends:
            return None
        behind = sum(max(0, end - self._given.get(at, 0)) for at, end in self._following.ends.items())
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
                self._lookup.close()
                self._following.close()
            finally:
                self._lock.release()

    # ------------------------------------------------------------------------ private

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
                self._lookup.close()
                self._following.drop()
                if isinstance(error, ConfigError) and not self._following.reached:
                    raise
                raise SourceUnavailable(_reason(error)) from None

    def _read_up(self) -> tuple[Index, dict[TopicPartition, int], int]:
        """The index, up to where it can be listed, and its era."""
        following = self._following
        with self._working():
            following.complete(pausing=True)
            following.look_at_topics()
            following.complete(pausing=True)
            self._advance()
            index, until = following.complete(pausing=True), dict(following.read)
            starts = {at: start for at, start in following.starts().items() if not self._keeps(at.topic)}
            index.prune(starts, {at: self._published[at] for at in until if at in self._published})
            following.tell_left_out()
            return index, until, following.era

    def _record(self, place: Place) -> Record | None:
        """The record there; None: it is gone."""
        if self._era != self._following.era:
            self._era = self._following.era
            self._recent = {}
            self._lookup.close()
        return self._recent.get((place.at, place.offset)) or self._lookup.get(place.at, place.offset)

    def _advance(self) -> None:
        """Read on to the ends of now, as far as what was read can be remembered."""
        following = self._following
        goal, portion = following.now_ends(), Deadline.after(PORTION_SECONDS)
        while following.behind(goal) and len(self._pending) < _PENDING:
            if not self._take(POLL_SECONDS):
                following.look()
            following.complete(pausing=True)
            following.pause(portion, pausing=True)

    def _read_on(self, deadline: Deadline) -> list[Hint]:
        """Hints of the next records; waits for a moment."""
        following = self._following
        following.look()
        if following.index().complete:
            self._take(min(POLL_SECONDS, deadline.remaining()))
        elif not following.anew:
            self._closed.wait(min(POLL_SECONDS, deadline.remaining()))  # a scan reads on
        return self._hinted()

    def _hinted(self) -> list[Hint]:
        """What is to be looked at, and then from where on."""
        following = self._following
        if following.anew:
            following.anew = False
            self._pending.clear()
            self._given = dict(following.read)
            return [Hint(None)]
        found = [Hint(path, self._pending.pop(path)) for path in list(self._pending)[:_HINTS]]
        if not self._pending and following.index().complete:
            self._given = dict(following.read)
        return found

    def _take(self, timeout: float) -> bool:
        """Read the next records, and have them hinted; False: there were none."""
        told = self._following.take(timeout)
        if not told:
            return False
        self._recent, room, now = {}, _RECENT_BYTES, self._clock()
        for change, record in told:
            self._pending[change.path] = min(record.timestamp, now) if record.timestamp > 0 else now
            room -= len(record.value or b"")
            if room > 0:
                self._recent[record.at, record.offset] = record
        return True

    def _parsed(self, position: str | None) -> dict[TopicPartition, int] | None:
        """The offsets of a position; None: it is none of these topics."""
        here, *topics = (position or "").split("@")
        if here != self._following.here:
            return None
        found = {}
        for one in topics:
            topic, _, places = one.partition("=")
            for place in places.split(","):
                partition, _, offset = place.partition(":")
                found[TopicPartition(topic, int(partition))] = int(offset)
        return found

    def _keeps(self, topic: str) -> bool:
        """Whether a document stays that has no record any more."""
        return self._following.facts[topic].expires and self._settings.expired == "keep"

    def _absent(self, path: str, topic: str) -> Expired | None:
        """A document that the index has no row of: its last record was removed before the index was begun."""
        kept = self._keeps(topic) and not self._following.index().truncated(topic)
        return Expired(path) if kept else None


def _reason(error: VectideError) -> str:
    """Why the topics cannot be read, on one line."""
    if isinstance(error, NotAllowed):
        return f"{error.what}: grant {_RIGHTS}"
    return f"{error.what}: {error.remedy}" if isinstance(error, Fatal) else str(error)


def _is_of(path: str, record: Record, records: TopicRecords) -> bool:
    try:
        told = records.told(record)
    except NoDocument:
        return False
    return told is not None and told.path == path


def _is_text(path: str) -> bool:
    """Whether a database can hold it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
