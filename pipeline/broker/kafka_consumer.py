"""The Consumer and Reader ports on kafka-python; each is used by one thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from kafka import ConsumerRebalanceListener, KafkaConsumer
from kafka import TopicPartition as KafkaPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import (
    CommitFailedError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RebalanceInProgressError,
)
from kafka.structs import OffsetAndMetadata

from pipeline.broker.kafka_connection import made
from pipeline.broker.kafka_errors import translated
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, LogDiverged, PartitionsLost
from pipeline.ports import Polled, Record, TopicPartition

#: One answer of a broker; a larger record still comes through, alone.
_FETCH_BYTES: Final = 16 * 1024 * 1024
_QUERY_MS: Final = 10_000
#: Between two looks for records while a heartbeat is due; nothing waits for it where one is not.
_REST_SECONDS: Final = 0.1


class KafkaGroupConsumer:
    """A member of a consumer group.

    Args:
        connection: client options of the configuration.
        group: the consumer group.
        topics: what it reads.
        session_timeout_seconds: silence after which the others take its partitions over.
        max_poll_interval_seconds: time between polls after which it leaves by itself.
    """

    def __init__(
        self,
        connection: Mapping[str, Any],
        group: str,
        topics: Sequence[str],
        session_timeout_seconds: float,
        max_poll_interval_seconds: float,
    ) -> None:
        self._group = group
        self._changes = _Changes()
        with translated(f"join group {group}"):
            options = {
                **connection,
                "group_id": group,
                # Without an offset it starts at the beginning (see poll); one that is out of range
                # must never be reset in silence.
                "auto_offset_reset": "none",
                "enable_auto_commit": False,
                "isolation_level": "read_committed",
                "partition_assignment_strategy": [CooperativeStickyAssignor],
                "session_timeout_ms": round(session_timeout_seconds * 1000),
                "heartbeat_interval_ms": max(300, round(session_timeout_seconds * 1000 / 5)),
                "max_poll_interval_ms": round(max_poll_interval_seconds * 1000),
                "fetch_max_bytes": _FETCH_BYTES,
                # A zombie of a retired generation must not make its topic again.
                "allow_auto_create_topics": False,
            }
            self._consumer = made(KafkaConsumer, options)
            _keep_finished_joins(self._consumer._coordinator)  # noqa: SLF001
            _rest_while_a_heartbeat_is_due(self._consumer._coordinator)  # noqa: SLF001
            _claim_what_is_held(self._consumer._coordinator)  # noqa: SLF001
            _lose_in_a_join_too(self._consumer._coordinator)  # noqa: SLF001
            self._consumer.subscribe(list(topics), listener=self._changes)

    def poll(self, timeout: float, max_records: int) -> Polled:
        """The next records, and what happened to the assignment before them."""
        # If this raises, the news of a changed assignment stay for the next poll.
        try:
            with translated(f"poll as a member of {self._group}"):
                found = self._poll(timeout, max_records)
        except PartitionsLost as error:
            # Which ones, the listener says; the next poll joins again.
            raise BrokerUnavailable(str(error)) from None
        assigned, revoked = self._changes.take()
        records = [record_of(one) for batch in found.values() for one in batch]
        return Polled(records, frozenset(assigned), frozenset(revoked))

    def joined(self) -> bool:
        """True between the group's answer to joining and its word that this member is out."""
        return bool(self._consumer.group_metadata().generation_id >= 0)

    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions that this member holds."""
        return frozenset(TopicPartition(*one) for one in self._consumer.assignment())

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Deliver nothing from these."""
        self._consumer.pause(*self._held(partitions))

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Deliver from these again."""
        self._consumer.resume(*self._held(partitions))

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read on from ``offset``."""
        for held in self._held([partition]):
            self._consumer.seek(held, offset)

    def position(self, partition: TopicPartition) -> int:
        """The next offset to be read; -1 while it is not known yet, so that nothing is committed."""
        with translated(f"ask for the position of {partition.topic}[{partition.partition}]"):
            found = self._consumer._subscription.assignment[KafkaPartition(*partition)].position  # noqa: SLF001 - position() may ask the broker and wait
            return -1 if found is None else int(found.offset)

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The group's committed offsets."""
        found = {}
        with translated(f"ask for the offsets of {self._group}"):
            for at in partitions:
                offset = self._consumer.committed(KafkaPartition(*at), timeout_ms=_QUERY_MS)
                if offset is not None:
                    found[at] = int(offset)
        return found

    def commit(self, offsets: Mapping[TopicPartition, int], deadline: Deadline) -> None:
        """Commit for the partitions that this member still holds."""
        held = self.assignment()
        lost = [at for at in offsets if at not in held]
        if lost:
            raise PartitionsLost(f"{lost[0].topic}[{lost[0].partition}] belongs to another member of {self._group}")
        wanted = {KafkaPartition(*at): OffsetAndMetadata(offset, "", -1) for at, offset in offsets.items()}
        with translated(f"commit offsets of {self._group}"):
            try:
                self._consumer.commit(wanted, timeout_ms=max(1, round(deadline.remaining() * 1000)))
            except (RebalanceInProgressError, CommitFailedError) as error:
                # What the broker says of a rebalance kafka-python wraps: this is still a member, and
                # keeps what the new assignment leaves it.
                if not any(isinstance(one, RebalanceInProgressError) for one in (error, *error.args)):
                    raise
                raise BrokerUnavailable(f"group {self._group} is rebalancing; commit again") from None

    def close(self, deadline: Deadline) -> None:
        """Leave the group."""
        with contextlib.suppress(KafkaError):  # the session ends by its timeout then
            self._consumer.close(autocommit=False, timeout_ms=max(1, round(deadline.remaining() * 1000)))

    def _poll(self, timeout: float, max_records: int) -> dict[Any, Any]:
        deadline = Deadline.after(timeout)
        while True:
            try:
                found: dict[Any, Any] = self._consumer.poll(round(deadline.remaining() * 1000), max_records=max_records)
                return found
            except NoOffsetForPartitionError as error:
                self._consumer.seek_to_beginning(*error.args[0])
            except OffsetOutOfRangeError as error:
                if not error.args:
                    raise  # a broker's answer to another request than a fetch
                ((at, offset),) = error.args[0].items()
                raise LogDiverged(
                    f"group {self._group} stands at offset {offset} of {at.topic}[{at.partition}], "
                    "which is not in the log",
                    "records were lost or the topic was replaced: rewind the stage before, or start a new generation",
                ) from None

    def _held(self, partitions: Iterable[TopicPartition]) -> list[KafkaPartition]:
        held = self._consumer.assignment()
        return [one for at in partitions if (one := KafkaPartition(*at)) in held]


class KafkaReader:
    """Reads partitions without a group.

    Args:
        connection: client options of the configuration.
        topic: what it reads.
        starts: partition to first offset; the log's start where it is missing.
        partitions: of the topic.
    """

    def __init__(
        self, connection: Mapping[str, Any], topic: str, starts: Mapping[int, int], partitions: Iterable[int]
    ) -> None:
        self._topic = topic
        with translated(f"read {topic}"):
            options = {
                **connection,
                "group_id": None,
                "auto_offset_reset": "earliest",
                "enable_auto_commit": False,
                "isolation_level": "read_committed",
                "fetch_max_bytes": _FETCH_BYTES,
            }
            self._consumer = made(KafkaConsumer, options)
            try:
                self._ends = self._assign([KafkaPartition(topic, partition) for partition in partitions], starts)
            except BaseException:
                self.close()
                raise

    def poll(self, timeout: float, max_records: int) -> list[Record]:
        """The next records of committed transactions."""
        with translated(f"read {self._topic}"):
            found = self._consumer.poll(round(timeout * 1000), max_records=max_records)
        return [record_of(one) for batch in found.values() for one in batch]

    def caught_up(self) -> bool:
        """True once everything up to the ends at the opening has been read."""
        with translated(f"read {self._topic}"):
            return all(
                (self._consumer.position(at, timeout_ms=_QUERY_MS) or 0) >= end for at, end in self._ends.items()
            )

    def close(self) -> None:
        """Release connections."""
        self._consumer.close(autocommit=False, timeout_ms=1000)

    def _assign(self, partitions: list[KafkaPartition], starts: Mapping[int, int]) -> dict[KafkaPartition, int]:
        self._consumer.assign(partitions)
        ends = self._consumer.end_offsets(partitions, timeout_ms=_QUERY_MS)
        begins = self._consumer.beginning_offsets(partitions, timeout_ms=_QUERY_MS)
        for at in partitions:
            self._consumer.seek(at, max(int(begins[at]), starts.get(at.partition, 0)))
        return {at: int(end) for at, end in ends.items()}


def _keep_finished_joins(coordinator: Any) -> None:
    """Let the next poll take what the group has answered between two polls.

    kafka-python 3.0.12 takes it for an earlier join, drops it and joins again, which is a rebalance
    for every member; who polls for a quarter of a second at a time may do so several times over.
    And where it joins because the topic's partitions have become known, it forgets with the first
    request that it had to: the next poll does not take the answer, and this member's share of the
    partitions is read by nobody, for good.
    """
    join = coordinator.join_group_async

    async def join_once(timeout_ms: float | None = None) -> bool:
        coordinator.request_rejoin()  # until it has joined
        task = coordinator._join_task  # noqa: SLF001
        # A generation that was reset meanwhile is over, and so is its answer.
        if task is not None and task.is_done and coordinator._generation.generation_id >= 0:  # noqa: SLF001
            coordinator._join_task = _Finished(task)  # noqa: SLF001
        return bool(await join(timeout_ms=timeout_ms))

    coordinator.join_group_async = join_once


def _rest_while_a_heartbeat_is_due(coordinator: Any) -> None:
    """Let a poll wait although a heartbeat has had no answer: another thread sends them.

    kafka-python 3.0.12 waits for records no longer than until the next heartbeat. While a broker hangs
    that is no time at all, over and over: a poll takes a whole core, and each of its turns leaves a
    callback behind, 10 MB a second, until the request times out.
    """
    until_next = coordinator.time_to_next_poll
    coordinator.time_to_next_poll = lambda: max(_REST_SECONDS, until_next())


def _claim_what_is_held(coordinator: Any) -> None:
    """Join with the partitions that this member holds now, and no others.

    kafka-python 3.0.12 joins with those of its last assignment, and forgets none when it has lost them.
    Where two members have lost theirs (a hang, and a coordinator that went away), both claim the same
    ones; the leader leaves a partition that seems to move to its owner, who would give it up and have
    the group share it out again. But nobody holds it: it is read by nobody until somebody joins or leaves.
    """
    for assignor in coordinator._assignors.values():  # noqa: SLF001
        assignor.metadata = partial(_claims, assignor, assignor.metadata, coordinator._subscription)  # noqa: SLF001


def _claims(assignor: Any, metadata: Callable[[Any], Any], subscription: Any, topics: Any) -> Any:
    assignor.member_assignment = sorted(subscription.assigned_partitions())
    return metadata(topics)


def _lose_in_a_join_too(coordinator: Any) -> None:
    """Let a member that learns in the middle of a join that it is out of the group lose what it holds.

    kafka-python 3.0.12 looks at what a member has lost only when it begins to join. One that learns it by
    the answer (it waited on a broker that hung, and its group had moved on) keeps its partitions, claims
    them once more, and may be left them: then it reads on where it was, and commits below their new owner.
    """
    reset = coordinator.reset_generation

    def reset_and_begin_anew(*arguments: Any, **named: Any) -> None:
        reset(*arguments, **named)
        coordinator.rejoining = False

    coordinator.reset_generation = reset_and_begin_anew


class _Finished:
    """A future that has its result, and does not say so before it is asked for it."""

    is_done = False

    def __init__(self, task: Any) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def __await__(self) -> Any:
        return self._task.__await__()


class _Changes(ConsumerRebalanceListener):  # type: ignore[misc] # the library has no types
    """What the rebalance listener was told, until the next poll returns it. Called on another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._assigned: set[TopicPartition] = set()
        self._revoked: set[TopicPartition] = set()

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """Given up to another member."""
        with self._lock:
            gone = {TopicPartition(*at) for at in revoked}
            self._revoked |= gone
            self._assigned -= gone

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        """The group moved on without this member."""
        self.on_partitions_revoked(lost)

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """New to this member (cooperative: only what it did not hold)."""
        with self._lock:
            self._assigned |= {TopicPartition(*at) for at in assigned}

    def take(self) -> tuple[set[TopicPartition], set[TopicPartition]]:
        """What happened since the last call."""
        with self._lock:
            taken = self._assigned, self._revoked
            self._assigned, self._revoked = set(), set()
            return taken


def record_of(one: Any) -> Record:
    """What kafka-python has read, as ours."""
    return Record(
        one.topic,
        one.partition,
        one.offset,
        one.key,
        one.value,
        tuple((name, value or b"") for name, value in one.headers),
        one.timestamp / 1000,
    )
