"""What a generation has in Kafka and in the store, and its removal; again and again until all is gone."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Final

from pipeline.cli.assembly import Parts
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, CollectionMissing, Fatal, ForeignCollection, NotAllowed
from pipeline.generations.control import ControlState
from pipeline.naming import Names
from pipeline.records import STAGES

log = logging.getLogger(__name__)

#: What :attr:`pipeline.specs.GenerationSpec.id` looks like: nothing else of a pipeline's names is touched.
_GENERATION: Final = re.compile(r"g[0-9a-f]{12}(-[1-9][0-9]*)?")
_LEAVE_POLL_SECONDS: Final = 0.3
_LEFT_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Room:
    """What was, or would be, given back."""

    points: int = 0
    bytes: int = 0
    """Of the collection."""
    records: int = 0
    """Of the chunks topic, at most."""
    topic_bytes: int = 0


def is_generation(id: str) -> bool:
    """Whether a name is one that we give to generations."""
    return _GENERATION.fullmatch(id) is not None


def owners(parts: Parts) -> dict[str, list[str]]:
    """By generation, the names that are there of its collection, its chunks topic and its groups.

    Raises:
        BrokerUnavailable, StoreUnavailable: no answer.
    """
    names, found = parts.names, dict[str, list[str]]()
    for kind, name, id in _owned(parts, names):
        if is_generation(id):
            found.setdefault(id, []).append(f"{kind} {name}")
    return found


def stored(parts: Parts, id: str) -> tuple[int, int]:
    """Points and bytes of a generation's collection; nothing if there is none, or it is not ours.

    Raises:
        StoreUnavailable: no answer.
    """
    collection = parts.names.collection(id)
    with contextlib.suppress(CollectionMissing, ForeignCollection):  # another clean-up was faster
        opened = parts.store.open(collection)
        return opened.count_chunks() + sum(opened.count_heads().values()), parts.store.size(collection)
    return 0, 0


def room(parts: Parts, id: str) -> Room:
    """What a generation takes.

    Raises:
        BrokerUnavailable, StoreUnavailable: no answer.
    """
    topic = parts.names.chunks(id)
    points, size = stored(parts, id)
    with contextlib.suppress(Fatal):  # there is no such topic
        records = sum(bounds.end - bounds.start for bounds in parts.broker.offsets(topic).values())
        return Room(points, size, records, parts.broker.size(topic))
    return Room(points, size)


def clear(parts: Parts, id: str, deadline: Deadline) -> None:
    """Remove a generation's groups, collection and chunks topic.

    Args:
        parts: broker and store, open.
        id: of a generation that is over.
        deadline: for its workers to leave; refused at once where it has passed.

    Raises:
        BrokerUnavailable: a worker is still in a group, or no answer; call again.
    """
    leave(parts, id, deadline)
    parts.store.drop(parts.names.collection(id))
    parts.broker.delete_topics([parts.names.chunks(id)])


def leave(parts: Parts, id: str, deadline: Deadline) -> None:
    """Wait until no worker is in the generation's groups, then forget the groups."""
    for stage in STAGES:
        group = parts.names.group(stage, id)
        while True:
            try:
                parts.broker.delete_group(group)
                break
            except BrokerUnavailable:
                if deadline.expired:
                    raise
                time.sleep(_LEAVE_POLL_SECONDS)


def trim(parts: Parts, id: str, *, over: bool) -> None:
    """Drop what a generation's chunks topic holds below its embed stage's commit; of one that is
    over, everything.

    Raises:
        BrokerUnavailable: no answer.
    """
    broker, topic = parts.broker, parts.names.chunks(id)
    with contextlib.suppress(Fatal):  # it is gone
        bounds = broker.offsets(topic)
        committed = broker.committed(parts.names.group("embed", id), topic)
        before = {partition: one.end for partition, one in bounds.items()} if over else committed
        broker.delete_records(
            topic,
            {
                partition: end
                for partition, end in before.items()
                if partition in bounds and end > bounds[partition].start
            },
        )


def remains(parts: Parts, id: str, there: set[str]) -> bool:
    """Whether anything is left of a generation; ``there``: the names of topics and collections."""
    names = parts.names
    topic = names.chunks(id)
    if there & {names.collection(id), topic}:
        return True
    groups = {"chunk": names.documents(parts.config.pipeline.epoch), "embed": topic}
    return any(parts.broker.committed(names.group(stage, id), groups[stage]) for stage in STAGES)


class Leftovers:
    """What is left of generations that are over: a line that began late may have made again what a clean-up had
    removed, and nobody else would look.

    Args:
        parts: broker and store, open.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._next = 0.0
        self._may_remove = True
        self._over: frozenset[str] = frozenset()
        self._clean: set[str] = set()

    def remove(self, state: ControlState, followed: Container[str]) -> None:
        """Look now and then; ``followed``: generations that this process has not left yet.

        Raises:
            BrokerUnavailable, StoreUnavailable: a worker is still in a group, or no answer; call again.
        """
        if not self._may_remove:
            return
        over = [one for one in state.generations.values() if one.state in ("aborted", "retired")]
        now, known = time.monotonic(), self._over
        self._over = frozenset(one.id for one in over)
        if self._over != known:
            self._next = now + _LEFT_SECONDS  # who gave it up removes it, and says how much it was
        if not over or now < self._next:
            return
        self._next = now + _LEFT_SECONDS
        parts, names = self._parts, self._parts.names
        there = {*parts.store.names(names.root), *parts.broker.topics(names.root)}
        for one in over:
            own = {names.collection(one.id), names.chunks(one.id)}
            if one.id in followed or (one.id in self._clean and not there & own):
                continue
            try:
                if remains(parts, one.id, there):
                    clear(parts, one.id, Deadline.after(0.0))  # refused while somebody is in its groups
                else:
                    self._clean.add(one.id)  # its groups are not asked for again
            except NotAllowed as error:
                log.info("what is left of old generations is for an operator to remove", extra={"error": str(error)})
                self._may_remove = False
                return


def _owned(parts: Parts, names: Names) -> Iterator[tuple[str, str, str]]:
    for name in parts.store.names(names.root):
        yield "collection", name, name.removeprefix(names.root)
    for name in parts.broker.topics(names.chunks("")):
        yield "topic", name, name.removeprefix(names.chunks(""))
    for stage in STAGES:
        prefix = names.group(stage, "")
        for name in parts.broker.groups(prefix):
            yield "group", name, name.removeprefix(prefix)
