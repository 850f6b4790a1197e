"""What is read of the topics, and the index that is kept of it: both end at the same place.

What the index cannot be true about any more begins it anew: a topic that was made again, records that are lost or
were removed unread, deletes that may have been compacted away before they were read.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from connectors.kafka.index import Index, Put, Truncate
from connectors.kafka.records import NoDocument, TopicRecords
from connectors.kafka.settings import KafkaSettings
from connectors.settings import secrets_of
from connectors.texts import reading
from pipeline.broker.kafka_topics import Cluster, OutOfLog, PartitionsReader, TopicFacts
from pipeline.deadline import Deadline
from pipeline.errors import Backpressure, SourceUnavailable
from pipeline.identity import canonical_json
from pipeline.ports import Record, TopicPartition

log = logging.getLogger(__name__)

#: Raised with what a document is made of: then every document is looked at again.
_VERSION: Final = 1
#: Of one poll.
_RECORDS: Final = 500
#: A loop counts as stuck after 60 s: reading the topics for the first time stops for its beat, and for its end.
PORTION_SECONDS: Final = 5.0
#: How soon a source that is closed is noticed.
POLL_SECONDS: Final = 0.1
#: Between two questions for the ends of partitions: an outage shows in nothing else.
_ENDS_SECONDS: Final = 2.0
#: Between two looks at the topics: for new partitions, and whether they still are the same ones.
_TOPICS_SECONDS: Final = 30.0
#: A null that was appended since the last look lies in the open segment, which no compaction touches.
_TOMBSTONES_SECONDS: Final = 60.0


class StillReading(SourceUnavailable, Backpressure):
    """The topics are being read for the first time: go on at once.

    Args:
        kept: what was read is there after a restart.
    """

    def __init__(self, detail: str, *, kept: bool) -> None:
        Backpressure.__init__(self, detail, 0.0)
        self.kept = kept


class Following:
    """The topics of one source; one thread. After any error that it raises but :class:`StillReading`, the caller
    drops its connections.

    Args:
        source_id: for texts.
        settings: of the source.
        state: a folder for the index; None: it is made anew by each process.
        closed: set once all is to end.
        clock: seconds since 1970.

    Raises:
        ConfigError: a setting of the connection is wrong.
    """

    def __init__(
        self,
        source_id: str,
        settings: KafkaSettings,
        state: Path | None,
        closed: threading.Event,
        clock: Callable[[], float],
    ) -> None:
        self.read: dict[TopicPartition, int] = {}
        """Up to where each partition was read, and the index made."""
        self.ends: dict[TopicPartition, int] = {}
        """Where they ended, as of the last look."""
        self.facts: Mapping[str, TopicFacts] = {}
        self.anew = False
        """The index was begun anew: all is to be compared."""
        self.era = 0
        """Another one since then: an offset can be another record's."""
        self.reached = False
        """The cluster has answered."""
        self._id = source_id
        self._settings = settings
        self._state = state
        self._closed = closed
        self._clock = clock
        self.records = {topic: TopicRecords(topic, one) for topic, one in settings.topics.items()}
        """By topic, what its records say."""
        self._cluster: Cluster | None = self._new_cluster()
        self._index: Index | None = None
        self._tail: PartitionsReader | None = None
        self._revisions: Mapping[str, str] = {}
        self._goal: dict[TopicPartition, int] = {}
        self._left_out: dict[str, int] = {}
        self._next_ends = 0.0
        self._next_topics = 0.0
        self._next_fresh = 0.0

    @property
    def here(self) -> str:
        """What is read and how: another fingerprint means that any document can be another."""
        return _fingerprint(sorted(self._revisions.items()))

    def revision(self, at: TopicPartition, offset: int) -> str:
        """Of the document that a record is."""
        return f"{at.partition}:{offset}-{self._revisions[at.topic]}"

    def index(self) -> Index:
        """As far as it is made."""
        if self._index is None:
            self._index = Index(self._state)
        return self._index

    def complete(self, *, pausing: bool = False) -> Index:
        """The index, once it was read to the ends that the topics had when it was begun.

        Args:
            pausing: the caller goes on after a pause, also with an index that is not kept.

        Raises:
            StillReading: that takes a while; call again.
            SourceUnavailable, BrokerUnavailable: no answer, or there is no such topic.
        """
        index = self.index()
        portion = Deadline.after(PORTION_SECONDS)
        self._tail_or_new()
        while not index.complete:
            if not self.behind(self._goal):
                index.finish()
                self._tell_slow(index)
                index.refresh(dict.fromkeys(self.read, self._clock()))
            elif not self.take(POLL_SECONDS):
                self.look()
            self.pause(portion, pausing=pausing)
        return index

    def take(self, timeout: float) -> list[tuple[Put | Truncate, Record]]:
        """Read the next records into the index; what they say of documents."""
        try:
            records = self._tail_or_new().poll(timeout, _RECORDS)
        except OutOfLog as error:
            self._again(_unread(error.at, error.offset, None))
            return []
        told = [(change, record) for record in records if (change := self._change(record)) is not None]
        read = self._tail_or_new().positions()
        if told or read != self.read:
            self.index().apply([change for change, _ in told], read)
            self.read = read
        return told

    def now_ends(self) -> dict[TopicPartition, int]:
        """Where the topics end."""
        return self._tail_or_new().ends(self.read)

    def starts(self) -> dict[TopicPartition, int]:
        """What they keep first."""
        return {at: one.start for at, one in self._tail_or_new().bounds(self.read).items()}

    def behind(self, goal: Mapping[TopicPartition, int]) -> int:
        """Offsets up to there, at most."""
        return sum(max(0, end - self.read.get(at, 0)) for at, end in goal.items())

    def pause(self, portion: Deadline, *, pausing: bool) -> None:
        """Between two portions of a long reading.

        Raises:
            StillReading: so much was read that the caller is to be told.
            SourceUnavailable: all is to end.
        """
        if self._closed.is_set():
            raise SourceUnavailable("the source is closed")
        kept = self.index().kept
        if portion.expired and (pausing or kept):
            raise StillReading(f"the topics are being read: {self.behind(self._goal):,} records are left", kept=kept)

    def look(self) -> None:
        """From time to time: where the topics end, and whether they are the same."""
        now = time.monotonic()
        if now >= self._next_topics:
            self.look_at_topics()
        if now < self._next_ends:
            return
        self.ends = self._tail_or_new().ends(self.read)
        self._next_ends = time.monotonic() + _ENDS_SECONDS
        index = self.index()
        if not index.complete:
            return
        clock, fresh = self._clock(), index.fresh()
        reached = {at: clock for at, end in self.ends.items() if self.read.get(at, 0) >= end}
        for at in reached:
            facts = self.facts[at.topic]
            if facts.compacts and clock - fresh[at] > max(facts.tombstone_seconds, _TOMBSTONES_SECONDS):
                self._again(
                    f"{at.topic}[{at.partition}] was not read to its end for {clock - fresh[at]:.0f} s, longer than "
                    f"delete.retention.ms ({facts.tombstone_seconds:.0f} s): deletes may have been compacted away"
                )
                return
        if now >= self._next_fresh:
            index.refresh(reached)
            self._next_fresh = now + _TOPICS_SECONDS

    def look_at_topics(self) -> None:
        """Whether they are still the same, with as many partitions."""
        facts = self._described()
        if facts != self.facts:
            self._close_tail()
            self._note(facts)
            self._tail_or_new()

    def go_back(self, known: Mapping[TopicPartition, int]) -> bool:
        """Read on from a position; False: not all that follows it can be read again."""
        tail, starts = self._tail_or_new(), self.starts()
        back = {at: min(known.get(at, starts[at]), offset) for at, offset in self.read.items()}
        if any(offset < starts[at] for at, offset in back.items()):
            return False
        self.index().apply([], back)  # first, for new connections begin there
        tail.assign(back)
        self.read = back
        return True

    def tell_left_out(self) -> None:
        """Say how many records were left out since the last time."""
        for topic, count in self._left_out.items():
            if count > 1:
                log.warning("records were left out", extra={"source": self._id, "topic": topic, "records": count})
                self._left_out[topic] = 1

    def cluster(self) -> Cluster:
        """The cluster that the topics are of."""
        if self._cluster is None:
            self._cluster = self._new_cluster()  # secrets may be others by now
        return self._cluster

    def drop(self) -> None:
        """Close all connections; the next call makes new ones."""
        cluster, self._cluster = self._cluster, None
        self._close_tail()
        if cluster is not None:
            cluster.close()

    def close(self) -> None:
        """Close everything."""
        self.drop()
        index, self._index = self._index, None
        if index is not None:
            index.close()

    # ------------------------------------------------------------------------- private

    def _new_cluster(self) -> Cluster:
        with secrets_of(self._id):
            settings = self._settings.cluster()
        return Cluster(settings, f"vectide-{self._id}", f"sources.{self._id}")

    def _close_tail(self) -> None:
        tail, self._tail = self._tail, None
        if tail is not None:
            tail.close()

    def _described(self) -> Mapping[str, TopicFacts]:
        facts = self.cluster().describe(list(self._settings.topics))
        self._next_topics = time.monotonic() + _TOPICS_SECONDS
        missing = [topic for topic in self._settings.topics if topic not in facts]
        if missing:
            raise SourceUnavailable(f"there is no topic {', '.join(missing)} that may be seen; nothing is deleted")
        self.reached = True
        return facts

    def _tail_or_new(self) -> PartitionsReader:
        """What reads on, behind what the index has."""
        if self._tail is not None:
            return self._tail
        self._note(self._described())
        index, partitions = self.index(), self._partitions()
        index.add(partitions, self._clock())
        nexts = index.nexts()
        tail = self.cluster().reader({at: nexts[at] for at in partitions})
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
        self.read = tail.positions()
        self.ends = {at: one.end for at, one in bounds.items()}
        self._goal = self._goal or dict(self.ends)
        return tail

    def _note(self, facts: Mapping[str, TopicFacts]) -> None:
        """Topics as they are now; the index is begun anew if it is of others."""
        before, self.facts = self.facts, facts
        settings = self._settings.topics
        self._revisions = {
            topic: _fingerprint(
                [_VERSION, settings[topic].model_dump(mode="json"), one.id, *reading(settings[topic].media_type)]
            )
            for topic, one in facts.items()
        }
        made_of = [[topic, one.id, settings[topic].format, settings[topic].key] for topic, one in facts.items()]
        fingerprint, index = _fingerprint(made_of), self.index()
        if index.fingerprint == fingerprint:
            return
        if index.fingerprint:
            again = [topic for topic, one in before.items() if one.id != facts[topic].id]
            self._again(f"{', '.join(again) or 'a topic'} was deleted and made again, or other topics or keys are set")
        index.begin(fingerprint)
        self._goal = {}

    def _again(self, why: str) -> None:
        """Begin the index anew, and have all compared."""
        log.warning("topics are read from their beginning", extra={"source": self._id, "why": why})
        self._close_tail()
        index = self.index()
        index.begin(index.fingerprint)
        self._goal, self.read = {}, {}
        self.anew = True
        self.era += 1

    def _tell_slow(self, index: Index) -> None:
        """Of a first reading that took too long. It is not begun again: that would take as long."""
        fresh, clock = index.fresh(), self._clock()
        for at in self.read:
            facts, took = self.facts[at.topic], clock - fresh[at]
            if facts.compacts and took > max(facts.tombstone_seconds, _TOMBSTONES_SECONDS):
                why = (
                    f"{at.topic}[{at.partition}] took {took:.0f} s, longer than delete.retention.ms "
                    f"({facts.tombstone_seconds:.0f} s): deletes may have been compacted away; raise it, "
                    "delete the state folder, and let it be read again"
                )
                log.warning("the first reading took too long", extra={"source": self._id, "why": why})

    def _partitions(self) -> list[TopicPartition]:
        return [TopicPartition(topic, one) for topic, facts in self.facts.items() for one in range(facts.partitions)]

    def _change(self, record: Record) -> Put | Truncate | None:
        try:
            told = self.records[record.topic].told(record)
        except NoDocument as why:
            if record.topic not in self._left_out:
                self._left_out[record.topic] = 0
                where = f"{record.topic}[{record.partition}] at offset {record.offset}"
                log.warning(
                    "record is left out; others of its topic are only counted",
                    extra={"source": self._id, "record": where, "why": str(why)},
                )
            self._left_out[record.topic] += 1
            return None
        if told is None:
            return None
        if told.what == "truncate":
            return Truncate(told.path, record.at, record.offset, record.timestamp)
        return Put(told.path, record.at, record.offset, record.timestamp, told.what == "delete")


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
