"""What a generation has in Kafka and in the store, and its removal; again and again until all is gone."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pipeline.cli.assembly import Parts
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, CollectionMissing, Fatal, ForeignCollection
from pipeline.naming import Names
from pipeline.records import STAGES

#: What :attr:`pipeline.specs.GenerationSpec.id` looks like: nothing else of a pipeline's names is touched.
_GENERATION: Final = re.compile(r"g[0-9a-f]{12}(-[1-9][0-9]*)?")
_LEAVE_POLL_SECONDS: Final = 0.3


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


def _owned(parts: Parts, names: Names) -> Iterator[tuple[str, str, str]]:
    for name in parts.store.names(names.root):
        yield "collection", name, name.removeprefix(names.root)
    for name in parts.broker.topics(names.chunks("")):
        yield "topic", name, name.removeprefix(names.chunks(""))
    for stage in STAGES:
        prefix = names.group(stage, "")
        for name in parts.broker.groups(prefix):
            yield "group", name, name.removeprefix(prefix)
