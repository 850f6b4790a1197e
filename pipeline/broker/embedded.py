"""The Broker port on the embedded log: groups of consumers inside one process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from pipeline.broker.embedded_log import EmbeddedLog
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, Fenced, LogDiverged, PartitionsLost
from pipeline.ports import (
    Consumer,
    Lifetime,
    NewRecord,
    OffsetRange,
    Polled,
    Publisher,
    Reader,
    Record,
    Then,
    TopicInfo,
    TopicPartition,
    TopicSpec,
    TransactionalPublisher,
    Written,
)

log = logging.getLogger(__name__)

_MAINTENANCE_SECONDS: Final = 15.0


class EmbeddedBroker:
    """A single-node log in SQLite; one process.

    Args:
        directory: where it lives; None keeps it in memory.
        clock: seconds since 1970.

    Raises:
        StateInUse: another process has the directory open.
    """

    def __init__(self, directory: Path | None, clock: Callable[[], float] = time.time) -> None:
        self.log = EmbeddedLog(directory, clock)
        self._groups: dict[str, _Group] = {}
        self._epochs: dict[str, int] = {}
        self._closing = threading.Event()
        self._maintenance = threading.Thread(target=self._maintain, name="log-maintenance", daemon=True)
        self._maintenance.start()

    def consumer(self, group: str, topics: Sequence[str], client: str) -> Consumer:
        """Join a group."""
        with self.log.changed:
            for topic in topics:
                self.log.topic(topic)  # who cannot join is no member, and no reason for a group
            if group not in self._groups:
                self._groups[group] = _Group(group, self.log, lambda: self._groups.pop(group, None))
            return self._groups[group].join(topics, client)

    def reader(self, topic: str, start: Mapping[int, int] | None = None) -> Reader:
        """Read a topic without a group."""
        return _EmbeddedReader(self.log, topic, start or {})

    def publisher(self, client: str) -> Publisher:
        """Make a producer."""
        return _EmbeddedPublisher(self.log)

    def transactional_publisher(self, transactional_id: str) -> TransactionalPublisher:
        """Take a transactional id over."""
        with self.log.changed:
            epoch = self._epochs[transactional_id] = self._epochs.get(transactional_id, 0) + 1
        return _EmbeddedTransactional(self, transactional_id, epoch)

    def check_epoch(self, transactional_id: str, epoch: int) -> None:
        """Refuse a writer that another one has replaced.

        Raises:
            Fenced: it was.
        """
        if self._epochs[transactional_id] != epoch:
            raise Fenced(
                f"transactional id {transactional_id} was taken over by another writer",
                "one writer per source: stop the other one, or let this one end",
            )

    def ensure_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        """Create what is missing."""
        return self.log.ensure_topics(specs)

    def topics(self, prefix: str) -> dict[str, TopicInfo]:
        """Those whose names start with ``prefix``."""
        return self.log.topics(prefix)

    def delete_topics(self, names: Sequence[str]) -> None:
        """Delete topics."""
        self.log.delete_topics(names)

    def offsets(self, topic: str, *, uncommitted: bool = False) -> dict[int, OffsetRange]:
        """First kept and next offset of every partition."""
        return self.log.bounds(topic)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """A group's committed offsets."""
        return self.log.committed(group, topic)

    def lag(self, group: str, topic: str) -> dict[int, int]:
        """Records that a group has not committed, by partition."""
        committed = self.log.committed(group, topic)
        return {
            partition: self.log.count_from(topic, partition, committed.get(partition, bounds.start))
            for partition, bounds in self.log.bounds(topic).items()
        }

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Drop everything before these offsets."""
        self.log.trim(topic, before)

    def groups(self, prefix: str) -> list[str]:
        """The groups whose names start with ``prefix``."""
        with self.log.changed:
            known = self._groups.keys() | self.log.groups()
        return sorted(name for name in known if name.startswith(prefix))

    def delete_group(self, group: str) -> None:
        """Forget a group."""
        self.log.delete_group(group)

    def size(self, topic: str) -> int:
        """Bytes of its records."""
        return self.log.size(topic)

    def lifetime(self, topic: str) -> Lifetime:
        """Compaction waits for enough records, and has no other limit; :meth:`purge` does it at once."""
        return self.log.lifetime(topic)

    def purge(self, topics: Sequence[str]) -> bool:
        """Compact now, and leave no byte of what was removed in the files."""
        self.log.purge(topics)
        return True

    def close(self) -> None:
        """Close the files; consumers and publishers are useless afterwards."""
        self._closing.set()
        self._maintenance.join(timeout=10)
        self.log.close()

    def _maintain(self) -> None:
        while not self._closing.wait(_MAINTENANCE_SECONDS):
            try:
                self.log.maintain()
            except BrokerUnavailable as error:
                log.warning("compaction put off", extra={"error": str(error)})


class _Group:
    """Who holds which partition. A partition changes hands only when its holder polls or leaves.

    Args:
        emptied: called when the last member has left: generations come and go, and each has groups of its own.
    """

    def __init__(self, name: str, log_: EmbeddedLog, emptied: Callable[[], object]) -> None:
        self.name = name
        self._log = log_
        self._emptied = emptied
        self._members: list[_EmbeddedConsumer] = []
        self._holders: dict[TopicPartition, _EmbeddedConsumer] = {}
        self._targets: dict[TopicPartition, _EmbeddedConsumer] = {}

    def join(self, topics: Sequence[str], client: str) -> _EmbeddedConsumer:
        member = _EmbeddedConsumer(self, self._log, topics, client)
        self._members.append(member)
        self._rebalance()
        return member

    def leave(self, member: _EmbeddedConsumer) -> None:
        if member not in self._members:
            return
        self._members.remove(member)
        for at in [at for at, holder in self._holders.items() if holder is member]:
            del self._holders[at]
        self._rebalance()
        if not self._members:
            self._emptied()

    def settle(self, member: _EmbeddedConsumer) -> tuple[frozenset[TopicPartition], frozenset[TopicPartition]]:
        """Give up what is another's now, take what is free and ours: (assigned, revoked)."""
        revoked = {
            at for at, holder in self._holders.items() if holder is member and self._targets.get(at) is not member
        }
        for at in revoked:
            del self._holders[at]
        assigned = {at for at, target in self._targets.items() if target is member and at not in self._holders}
        for at in assigned:
            self._holders[at] = member
        if revoked:
            self._log.changed.notify_all()
        return frozenset(assigned), frozenset(revoked)

    def holds(self, member: _EmbeddedConsumer, at: TopicPartition) -> bool:
        return self._holders.get(at) is member

    def _rebalance(self) -> None:
        """Share the partitions evenly, moving as few as possible."""
        wanted: dict[TopicPartition, list[_EmbeddedConsumer]] = {}
        for member in self._members:
            for topic in member.topics:
                for partition in range(self._log.topic(topic).partitions):
                    wanted.setdefault(TopicPartition(topic, partition), []).append(member)
        counts = dict.fromkeys(self._members, 0)
        quota = -(-len(wanted) // max(1, len(self._members)))
        targets: dict[TopicPartition, _EmbeddedConsumer] = {}
        for at, candidates in sorted(wanted.items()):
            holder = self._targets.get(at)
            if holder in candidates and holder is not None and counts[holder] < quota:
                targets[at] = holder
                counts[holder] += 1
        for at, candidates in sorted(wanted.items()):
            if at not in targets:
                least = min(candidates, key=lambda member: counts[member])
                targets[at] = least
                counts[least] += 1
        self._targets = targets
        self._log.changed.notify_all()


class _EmbeddedConsumer:
    def __init__(self, group: _Group, log_: EmbeddedLog, topics: Sequence[str], client: str) -> None:
        self.topics = tuple(topics)
        self._group = group
        self._log = log_
        self._client = client
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._turn = 0

    def poll(self, timeout: float, max_records: int) -> Polled:
        deadline = Deadline.after(timeout)
        with self._log.changed:
            while True:
                assigned, revoked = self._group.settle(self)
                for at in revoked:
                    self._positions.pop(at, None)
                    self._paused.discard(at)
                for at in assigned:
                    self._positions[at] = self._start(at)
                records = self._fetch(max_records)
                if records or assigned or revoked or deadline.expired:
                    return Polled(records, assigned, revoked)
                self._log.changed.wait(deadline.remaining())

    def joined(self) -> bool:
        return True

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._positions)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused |= set(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused -= set(partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if partition in self._positions:
            self._positions[partition] = offset

    def position(self, partition: TopicPartition) -> int:
        return self._positions[partition]

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        found = {}
        for at in partitions:
            offset = self._log.committed(self._group.name, at.topic).get(at.partition)
            if offset is not None:
                found[at] = offset
        return found

    def commit(self, offsets: Mapping[TopicPartition, int], deadline: Deadline) -> None:
        with self._log.changed:
            for at in offsets:
                if not self._group.holds(self, at):
                    raise PartitionsLost(f"{self._client} does not hold {at.topic}[{at.partition}] any more")
            self._log.commit(self._group.name, {(at.topic, at.partition): offset for at, offset in offsets.items()})

    def close(self, deadline: Deadline) -> None:
        with self._log.changed:
            self._group.leave(self)
            self._positions.clear()

    def _start(self, at: TopicPartition) -> int:
        bounds = self._log.bounds(at.topic)[at.partition]
        committed = self._log.committed(self._group.name, at.topic).get(at.partition)
        if committed is None:
            return bounds.start
        if not bounds.start <= committed <= bounds.end:
            raise LogDiverged(
                f"group {self._group.name} has committed offset {committed} of {at.topic}[{at.partition}], "
                f"which holds {bounds.start} to {bounds.end}",
                "records were lost or the topic was replaced: rewind the stage before, or start a new generation",
            )
        return committed

    def _fetch(self, max_records: int) -> list[Record]:
        records: list[Record] = []
        active = sorted(at for at in self._positions if at not in self._paused)
        # Another partition goes first each time, so that none starves.
        self._turn += 1
        for index in range(len(active)):
            at = active[(index + self._turn) % len(active)]
            room = max_records - len(records)
            if room <= 0:
                break
            found, self._positions[at] = self._log.fetch(at.topic, at.partition, self._positions[at], room)
            records += found
        return records


class _EmbeddedReader:
    def __init__(self, log_: EmbeddedLog, topic: str, start: Mapping[int, int]) -> None:
        self._log = log_
        self._topic = topic
        bounds = log_.bounds(topic)
        self._positions = {partition: start.get(partition, one.start) for partition, one in bounds.items()}
        self._ends = {partition: one.end for partition, one in bounds.items()}

    def poll(self, timeout: float, max_records: int) -> list[Record]:
        deadline = Deadline.after(timeout)
        with self._log.changed:
            while True:
                records: list[Record] = []
                for partition, position in self._positions.items():
                    if len(records) < max_records:
                        found, self._positions[partition] = self._log.fetch(
                            self._topic, partition, position, max_records - len(records)
                        )
                        records += found
                if records or deadline.expired:
                    return records
                self._log.changed.wait(deadline.remaining())

    def caught_up(self) -> bool:
        return all(self._positions[partition] >= end for partition, end in self._ends.items())

    def close(self) -> None:
        self._positions.clear()


class _EmbeddedPublisher:
    def __init__(self, log_: EmbeddedLog) -> None:
        self._log = log_

    def publish(self, records: Sequence[NewRecord], deadline: Deadline) -> list[Written]:
        return self._log.append(records) if records else []

    def close(self, deadline: Deadline) -> None:
        pass


class _EmbeddedTransactional:
    def __init__(self, broker: EmbeddedBroker, transactional_id: str, epoch: int) -> None:
        self._broker = broker
        self._id = transactional_id
        self._epoch = epoch

    def publish(self, records: Sequence[NewRecord], deadline: Deadline, then: Then | None = None) -> list[Written]:
        with self._broker.log.changed:
            self._broker.check_epoch(self._id, self._epoch)
            return self._broker.log.append(records, then) if records else []

    def close(self, deadline: Deadline) -> None:
        pass
