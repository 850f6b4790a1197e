"""Broker and store as threads of a schedule see them: each request waits for its turn, and may get no answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias, TypeVar

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, Fatal, PartitionsLost, StoreUnavailable
from pipeline.ports import CollectionSpec, Consumer, NewRecord, Polled, Record, TopicPartition, Written
from pipeline.store.memory import MemoryCollection, MemoryStore
from tests.simulation.migration_time import Timeline

T = TypeVar("T")
Port: TypeAlias = Literal["broker", "store"]
Fate: TypeAlias = Literal["answered", "lost", "unanswered"]
"""Of a request: what it asks for is done, is not done, or is done and nobody is told."""


class Requests:
    """What every request goes through.

    Args:
        timeline: whose turn it is.
        fate: of the present thread's request; a read is never done without an answer.
    """

    def __init__(self, timeline: Timeline, fate: Callable[[bool], Fate] = lambda reads: "answered") -> None:
        self.timeline = timeline
        self._fate = fate

    def send(self, port: Port, what: str, arguments: Any, run: Callable[[], T], *, reads: bool = False) -> T:
        """Wait for the turn, then do it."""
        self.timeline.turn(what, arguments)
        actor = self.timeline.current
        fate: Fate = "answered" if actor is None or actor.reliable else self._fate(reads)
        if fate == "lost":
            raise self._no_answer(port, "not done")
        found = run()
        if fate == "unanswered":
            raise self._no_answer(port, "done")
        return found

    def _no_answer(self, port: Port, truth: str) -> Exception:
        self.timeline.note("no answer", truth)
        error = BrokerUnavailable if port == "broker" else StoreUnavailable
        return error("no answer")


class SteppedBroker:
    """The Broker port over the embedded one.

    Args:
        inner: the broker.
        requests: what each goes through.
        on_control: called after every transaction.
        on_removal: called with what is about to be deleted.
        waits_for_members: a group that has members is not forgotten, as in Kafka.
    """

    def __init__(
        self,
        inner: EmbeddedBroker,
        requests: Requests,
        on_control: Callable[[], None],
        on_removal: Callable[[str], None],
        *,
        waits_for_members: bool,
    ) -> None:
        self.inner = inner
        self._requests = requests
        self._on_control = on_control
        self._on_removal = on_removal
        self._waits_for_members = waits_for_members

    def consumer(self, group: str, topics: Sequence[str], client: str) -> SteppedConsumer:
        def join() -> Consumer:
            try:
                return self.inner.consumer(group, topics, client)
            except Fatal:
                # The embedded broker keeps a member whose topic was not there; a Kafka group would not.
                self.inner._groups[group]._members.pop()
                raise

        made = self._requests.send("broker", "join", group, join, reads=True)
        consumer = SteppedConsumer(made, join, self._requests)
        actor = self._requests.timeline.current
        assert actor is not None
        actor.process.consumers.append(consumer)
        return consumer

    def reader(self, topic: str, start: Mapping[int, int] | None = None) -> _SteppedReader:
        made = self._requests.send("broker", "open reader", topic, lambda: self.inner.reader(topic, start), reads=True)
        return _SteppedReader(made, topic, self._requests)

    def publisher(self, client: str) -> _SteppedPublisher:
        return _SteppedPublisher(self.inner.publisher(client), self._requests, "publish", lambda: None)

    def transactional_publisher(self, transactional_id: str) -> _SteppedPublisher:
        made = self._requests.send(
            "broker", "take over", transactional_id, lambda: self.inner.transactional_publisher(transactional_id)
        )
        return _SteppedPublisher(made, self._requests, "commit transaction", self._on_control)

    def ensure_topics(self, specs: Sequence[Any]) -> list[str]:
        names = [one.name for one in specs]
        return self._requests.send("broker", "ensure topics", names, lambda: self.inner.ensure_topics(specs))

    def delete_topics(self, names: Sequence[str]) -> None:
        def delete() -> None:
            for name in names:
                self._on_removal(name)
            self.inner.delete_topics(names)

        self._requests.send("broker", "delete topics", list(names), delete)

    def delete_group(self, group: str) -> None:
        def delete() -> None:
            self._on_removal(group)
            found = self.inner._groups.get(group)
            if self._waits_for_members and found is not None and found._members:
                raise BrokerUnavailable(f"group {group} cannot be deleted now: it has members")
            self.inner.delete_group(group)

        self._requests.send("broker", "delete group", group, delete)

    def topics(self, prefix: str) -> dict[str, Any]:
        return self._read("topics", prefix)

    def offsets(self, topic: str, *, uncommitted: bool = False) -> dict[int, Any]:
        return self._read("offsets", topic)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        return self._read("committed", group, topic)

    def lag(self, group: str, topic: str) -> dict[int, int]:
        return self._read("lag", group, topic)

    def _read(self, name: str, *arguments: str) -> Any:
        return self._requests.send("broker", name, arguments, lambda: getattr(self.inner, name)(*arguments), reads=True)


class SteppedConsumer:
    """A member of a group, which may lose its membership while it sleeps."""

    def __init__(self, inner: Consumer, join: Callable[[], Consumer], requests: Requests) -> None:
        self._inner: Consumer | None = inner
        self._join = join
        self._requests = requests
        self._lost: frozenset[TopicPartition] = frozenset()

    def evict(self) -> None:
        """The group goes on without this member; it notices when it asks next."""
        if self._inner is not None:
            self._lost = self._inner.assignment()
            with suppress(Fatal):  # the embedded broker shares out a topic anew that is not there any more
                self._inner.close(Deadline.never())
            self._inner = None

    def poll(self, timeout: float, max_records: int) -> Polled:
        def run() -> Polled:
            if self._inner is None:
                lost, self._lost = self._lost, frozenset()
                self._inner = self._join()
                return Polled(revoked=lost)
            return self._inner.poll(0.0, max_records)

        return self._requests.send("broker", "poll", "", run, reads=True)

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset() if self._inner is None else self._inner.assignment()

    def position(self, partition: TopicPartition) -> int:
        assert self._inner is not None
        return self._inner.position(partition)

    def commit(self, offsets: Mapping[TopicPartition, int], deadline: Deadline) -> None:
        def run() -> None:
            if self._inner is None:
                raise PartitionsLost("the group went on without this member")
            self._inner.commit(offsets, deadline)

        self._requests.send("broker", "commit", [(at.partition, offsets[at]) for at in sorted(offsets)], run)

    def close(self, deadline: Deadline) -> None:
        # A group would notice in any case, if later.
        self._requests.timeline.turn("leave")
        if self._inner is not None:
            self._inner.close(deadline)


class _SteppedReader:
    def __init__(self, inner: Any, topic: str, requests: Requests) -> None:
        self._inner = inner
        self._topic = topic
        self._requests = requests

    def poll(self, timeout: float, max_records: int) -> list[Record]:
        found = self._poll(max_records)
        if not found and timeout > 0:
            # The inner one would wait in another time.
            self._requests.timeline.sleep(timeout)
            found = self._poll(max_records)
        return found

    def _poll(self, max_records: int) -> list[Record]:
        return self._requests.send(
            "broker", "read", self._topic, lambda: self._inner.poll(0.0, max_records), reads=True
        )

    def caught_up(self) -> bool:
        return bool(self._inner.caught_up())

    def close(self) -> None:
        self._inner.close()


class _SteppedPublisher:
    def __init__(self, inner: Any, requests: Requests, what: str, after: Callable[[], None]) -> None:
        self._inner = inner
        self._requests = requests
        self._what = what
        self._after = after

    def publish(self, records: Sequence[NewRecord], deadline: Deadline) -> list[Written]:
        def run() -> list[Written]:
            written: list[Written] = self._inner.publish(records, deadline)
            self._after()
            return written

        return self._requests.send("broker", self._what, [(one.key or b"").decode("latin-1") for one in records], run)

    def close(self, deadline: Deadline) -> None:
        self._inner.close(deadline)


#: Of the Store port and of the Collection port; whatever else there is only reads.
_WRITES: Final = {
    *("create", "defer_index", "build_index", "drop", "point_alias"),
    *("upsert_chunks", "insert_heads", "replace_heads", "sweep", "align"),
}


class SteppedStore:
    """The Store port over the one in memory."""

    def __init__(self, inner: MemoryStore, requests: Requests, on_removal: Callable[[str], None]) -> None:
        self._inner = inner
        self._requests = requests
        self._on_removal = on_removal

    def create(self, spec: CollectionSpec) -> SteppedCollection:
        made = self._requests.send("store", "create", spec.name, lambda: self._inner.create(spec))
        return SteppedCollection(made, self._requests)

    def open(self, name: str) -> SteppedCollection:
        found = self._requests.send("store", "open", name, lambda: self._inner.open(name), reads=True)
        return SteppedCollection(found, self._requests)

    def drop(self, name: str) -> None:
        def run() -> None:
            self._on_removal(name)
            self._inner.drop(name)

        self._requests.send("store", "drop", name, run)

    def __getattr__(self, name: str) -> Any:
        found, reads = getattr(self._inner, name), name not in _WRITES

        def request(*arguments: Any) -> Any:
            return self._requests.send("store", name, arguments, lambda: found(*arguments), reads=reads)

        setattr(self, name, request)
        return request


class SteppedCollection:
    """The Collection port over one in memory."""

    def __init__(self, inner: MemoryCollection, requests: Requests) -> None:
        self.spec = inner.spec
        self.flush_each_batch = inner.flush_each_batch
        self._inner = inner
        self._requests = requests

    def __getattr__(self, name: str) -> Any:
        found, reads, id = getattr(self._inner, name), name not in _WRITES, self.spec.generation

        def request(*arguments: Any, **more: Any) -> Any:
            return self._requests.send("store", name, id, lambda: found(*arguments, **more), reads=reads)

        setattr(self, name, request)
        return request
