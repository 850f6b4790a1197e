"""A schedule's log as the documents topic that verification reads, and those who verify and repair meanwhile."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.codec import encode_event
from pipeline.errors import Poison
from pipeline.identity import DocumentKey, chunk_id, content_hash, filter_hash
from pipeline.points import Alignment, ChunkPoint, StoredChunk, Sweep
from pipeline.ports import Collection, OffsetRange, Record
from pipeline.records import ChunkedDocument, ChunkSpan, DocumentChanged, DocumentDeleted
from pipeline.verification import Findings, Repaired, Verdict, repair, verify
from tests.simulation.requests import Witness
from tests.simulation.world import World, vector_of

TOPIC = "documents"
EPOCH = 0
#: What the chunker cannot cut is of this media type.
_ODD = "odd"


class Documents:
    """The part of the Broker port that verification uses: a version's offset is the version.

    Args:
        world: the schedule's.
        salt: what each text of it begins with.
        turn: called before each request.
        random_: compaction has come as far as it says.
    """

    def __init__(
        self,
        world: World,
        salt: str,
        turn: Callable[[str], None] = lambda what: None,
        random_: random.Random | None = None,
    ) -> None:
        self._world = world
        self._salt = salt
        self._turn = turn
        self._random = random_

    def offsets(self, topic: str) -> dict[int, OffsetRange]:
        self._turn("offsets")
        return {0: OffsetRange(0, self.end())}

    def reader(self, topic: str, start: Mapping[int, int] | None = None) -> _Reader:
        self._turn("open reader")
        first = (start or {}).get(0, 0)
        return _Reader([record for record in self._records() if record.offset >= first], self._turn)

    def end(self) -> int:
        """One more than the last version that was published."""
        return max((one.version for one in self._world.log[: self._world.end]), default=-1) + 1

    def chunk(self, text: str, media_type: str) -> list[ChunkSpan]:
        """As the schedule's documents are cut: a paragraph for each letter."""
        if media_type == _ODD:
            raise Poison("too_odd", "too odd")
        parts = re.finditer(re.escape(self._salt) + ".", text)
        return [ChunkSpan(one.start(), one.end(), content_hash(one[0]), 1, ("Title",)) for one in parts]

    def _records(self) -> list[Record]:
        world, end = self._world, self.end()
        compacted: dict[str, int] = {}
        for at in world.compacted:
            one = world.log[at]
            compacted[one.key.doc] = max(compacted.get(one.key.doc, -1), one.version)
        found: dict[DocumentKey, dict[int, ChunkedDocument]] = {}
        for one in world.log:
            # The chunker reads ahead of what it publishes, but no schedule needs that.
            if one.version < end and not one.replay and one.version > compacted.get(one.key.doc, -1):
                found.setdefault(one.key, {})[one.version] = one
        records = []
        for versions in found.values():
            kept = sorted(versions)
            if self._random is not None and self._random.random() < 0.5:
                kept = kept[-1:]
            records += [self._record(versions[version]) for version in kept]
        return sorted(records, key=lambda record: record.offset)

    def _record(self, document: ChunkedDocument) -> Record:
        event: DocumentChanged | DocumentDeleted
        if document.state == "deleted":
            event = DocumentDeleted(document.key, document.provenance)
        else:
            event = DocumentChanged(
                key=document.key,
                text=None if document.state == "omitted" else document.text,
                metadata=document.metadata,
                media_type=_ODD if document.state == "failed" else "",
                digest="",
                provenance=document.provenance,
                omitted="too large" if document.state == "omitted" else "",
            )
        return Record(TOPIC, 0, document.version, *encode_event(event))


class _Reader:
    def __init__(self, records: list[Record], turn: Callable[[str], None]) -> None:
        self._records = records
        self._turn = turn

    def poll(self, timeout: float, max_records: int) -> list[Record]:
        self._turn("read")
        page, self._records = self._records[:max_records], self._records[max_records:]
        return page

    def caught_up(self) -> bool:
        return not self._records

    def close(self) -> None:
        self._records = []


def possible(world: World) -> bool:
    """False if a version without its text is replayed with one: no dead letter holds what was never published."""
    omitted = {one.version for one in world.log if one.state == "omitted"}
    return not any(one.replay and one.state == "chunked" and one.version in omitted for one in world.log)


def applied(world: World, committed: int) -> int:
    """The first version that the group has not applied, by its committed offset. A replay in flight counts
    as one: whoever verifies waits for those as well.
    """
    waiting = {one.version for one in world.log[committed:]}
    waiting -= {one.version for at, one in enumerate(world.log[:committed]) if not one.replay}
    waiting |= {one.version for one in world.log[committed:] if one.replay}
    end = max((one.version for one in world.log[: world.end]), default=-1) + 1
    return min([end, *waiting])


def verified(documents: Documents, collection: Collection, end: int | None = None, **more: Any) -> Verdict:
    """Verify a schedule's collection up to a version."""
    broker: Any = documents
    ends = {0: documents.end() if end is None else end}
    return verify(broker, TOPIC, EPOCH, collection, ends, documents.chunk, **more)


def repaired(
    documents: Documents, collection: Collection, findings: Findings, embed: Any, end: int | None = None
) -> Repaired:
    """Repair what was found."""
    broker: Any = documents
    ends = {0: documents.end() if end is None else end}
    return repair(broker, TOPIC, EPOCH, collection, ends, findings, documents.chunk, embed)


def all_chunks(collection: Collection) -> list[StoredChunk]:
    """All of a collection."""
    found, after = collection.scan_chunks(None, 1_000, vectors=True)
    while after is not None:
        page, after = collection.scan_chunks(after, 1_000, vectors=True)
        found += page
    return found


def spoil(world: World, collection: Collection, witness: Witness, random_: random.Random) -> tuple[str, str]:
    """Damage that no worker does: the kind, and the document. None that a worker takes for a log with another
    content: it would stop, as it must.
    """
    key = random_.choice(world.keys)
    head = collection.heads([key.doc]).get(key.doc)
    kinds = ["chunk of nobody"]
    if head is not None:
        kinds += ["chunk too many", "other metadata"]
    if head is not None and head.chunks:
        kinds += ["chunk gone", "other fields"]
    kind = random_.choice(kinds)
    if kind == "chunk of nobody" or head is None:
        stranger = DocumentKey("stranger", str(random_.random()))
        collection.upsert_chunks([_point(stranger, "x", 0)], {})
        return kind, stranger.doc
    match kind:
        case "chunk too many":
            collection.upsert_chunks([_point(key, f"left {random_.random()}", head.stamp)], {})
        case "other metadata":
            changed = replace(head, metadata={**head.metadata, "title": "another"})
            collection.replace_heads([changed], {head.doc: head.stamp})
            witness.seen[head.doc] = changed
        case "chunk gone":
            lost = random_.choice(head.chunks).id
            kept = frozenset(chunk.id for chunk in all_chunks(collection) if chunk.id != lost)
            witness.lost.add(lost)
            collection.sweep([Sweep(head.doc, kept, head.stamp)])
        case "other fields":
            fields = {"acl": "spoilt"}
            collection.align([Alignment(head.doc, fields, filter_hash(fields), head.stamp)])
    return kind, head.doc


def _point(key: DocumentKey, text: str, stamp: int) -> ChunkPoint:
    content = content_hash(text)
    return ChunkPoint(chunk_id(key, content, 0), key.doc, stamp, content, text, {}, filter_hash({}), vector_of(content))


def told(findings: Findings) -> Sequence[str]:
    """What was found, readable."""
    return [f"{one.doc[:4]} {one.kind}" for one in findings]
