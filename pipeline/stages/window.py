"""What is in flight: which offsets may be committed, and how much memory it holds. Pure.

An offset may be committed when everything before it is done, that is durable. A record stops
holding memory earlier: when its effect is applied, when its partition is lost, or when its
partition is parked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from pipeline.ports import Record, TopicPartition


@dataclass(slots=True, eq=False)
class Lease:
    """The time during which this worker holds a partition; a new assignment is a new lease."""

    partition: TopicPartition
    lost: bool = False
    first: int | None = None
    """The offset of the first record that was read under it."""


@dataclass(slots=True, eq=False)
class Taken:
    """A record that was read under a lease and is not yet done."""

    record: Record
    lease: Lease
    size: int = 0
    """Bytes that it holds while it waits."""
    waiting: bool = True
    """Until its effect is applied."""
    done: bool = False
    """Its effect is durable."""

    @property
    def live(self) -> bool:
        """False once the partition is lost: then nothing more may be written for it."""
        return not self.lease.lost


@dataclass(slots=True)
class _Flight:
    lease: Lease
    taken: deque[Taken] = field(default_factory=deque)


class Window:
    """Records in flight, per partition, in the order of their offsets."""

    def __init__(self) -> None:
        self._flights: dict[TopicPartition, _Flight] = {}
        self._in_flight = 0
        self._waiting = 0
        self._waiting_bytes = 0

    @property
    def in_flight(self) -> int:
        """Records that were taken and are not done, over all partitions."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Records whose effect is not applied yet."""
        return self._waiting

    @property
    def waiting_bytes(self) -> int:
        """Bytes that these hold."""
        return self._waiting_bytes

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Start a lease for each partition that has none."""
        for partition in partitions:
            if partition not in self._flights:
                self._flights[partition] = _Flight(Lease(partition))

    def revoke(self, partitions: Iterable[TopicPartition]) -> None:
        """End the leases: nothing of these is committed or written any more."""
        for partition in partitions:
            flight = self._flights.pop(partition, None)
            if flight is not None:
                flight.lease.lost = True
                for taken in flight.taken:
                    self._drop(taken)

    def take(self, record: Record) -> Taken:
        """Account for a record, in the order in which it was read."""
        self.assign([record.at])
        flight = self._flights[record.at]
        if flight.lease.first is None:
            flight.lease.first = record.offset
        taken = Taken(record, flight.lease, len(record.value or b"") + len(record.key or b""))
        flight.taken.append(taken)
        self._in_flight += 1
        self._waiting += 1
        self._waiting_bytes += taken.size
        return taken

    def applied(self, taken: Taken) -> None:
        """The record's effect is there, not yet durable: it waits for nothing but its commit."""
        if taken.waiting:
            taken.waiting = False
            self._waiting -= 1
            self._waiting_bytes -= taken.size
        # Behind a record that takes long there may be thousands of these: they keep no bytes.
        taken.record = replace(taken.record, key=None, value=None, headers=())

    def done(self, taken: Taken) -> None:
        """The record's effect is durable. Of a lost lease: ignored."""
        if taken.lease.lost or taken.done:
            return
        self._drop(taken)

    def park(self, partition: TopicPartition, offset: int) -> None:
        """Forget what was read from ``offset`` on; it will be read again."""
        flight = self._flights.get(partition)
        while flight is not None and flight.taken and flight.taken[-1].record.offset >= offset:
            self._drop(flight.taken.pop())

    def committable(self) -> dict[TopicPartition, int | None]:
        """For each partition the offset to commit: the first that is not done.

        None means that nothing is in flight: commit the consumer's position, which also passes
        transaction markers and compacted offsets, or lag would never reach 0.
        """
        result: dict[TopicPartition, int | None] = {}
        for partition, flight in self._flights.items():
            while flight.taken and flight.taken[0].done:
                flight.taken.popleft()
            result[partition] = flight.taken[0].record.offset if flight.taken else None
        return result

    def first(self, partition: TopicPartition) -> int | None:
        """The first offset that was read under the present lease; None if nothing was."""
        flight = self._flights.get(partition)
        return None if flight is None else flight.lease.first

    def oldest(self) -> Record | None:
        """Of the records not done, the one that has been in the log for longest."""
        fronts = [
            next((taken.record for taken in flight.taken if not taken.done), None) for flight in self._flights.values()
        ]
        return min((record for record in fronts if record is not None), key=lambda one: one.timestamp, default=None)

    def _drop(self, taken: Taken) -> None:
        if taken.waiting:
            taken.waiting = False
            self._waiting -= 1
            self._waiting_bytes -= taken.size
        if not taken.done:
            taken.done = True
            self._in_flight -= 1
