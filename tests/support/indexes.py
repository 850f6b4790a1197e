"""A log and a generation that follows it when it is told to: no threads, any store, and ways to spoil it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.chunking.documents import made_of
from pipeline.codec import encode_event
from pipeline.deadline import Deadline
from pipeline.identity import DocumentKey, chunk_id, content_hash, filter_hash, stamp_of, version_of
from pipeline.points import ChunkPoint, Head, StoredChunk, Sweep, Vectors
from pipeline.ports import Collection, CollectionSpec, NewRecord, TopicSpec
from pipeline.records import ChunkedDocument, ChunkSpan, DocumentChanged, DocumentDeleted, Provenance
from pipeline.store.memory import MemoryCollection, MemoryStore
from pipeline.sync import ToEmbed, synchronise
from pipeline.verification import Findings, Repaired, Verdict, repair, verify

TOPIC = "documents"
EPOCH = 2
GENERATION = "g"
PARTITIONS = 3
SPEC = CollectionSpec("c", GENERATION, 2, "dot", "model", "chunking", {"acl": "keyword", "year": "integer"})
#: Above every stamp.
TOP = 1 << 50
Wait = Callable[[float], None]


def cut(text: str, media_type: str) -> list[ChunkSpan]:
    """Each paragraph is a chunk, below a heading that its first letter names."""
    spans, at = [], 0
    for part in text.split("|"):
        if part:
            spans.append(ChunkSpan(at, at + len(part), content_hash(part), len(part.split()), (part[0],)))
        at += len(part) + 1
    return spans


def vector_of(text: str) -> Vectors:
    """What the model makes of a text."""
    digest = content_hash(text)
    return np.array([int(digest[:4], 16) + 1, int(digest[4:8], 16) + 1], np.float32)


def embed(items: Sequence[ToEmbed]) -> tuple[dict[str, Vectors], dict[str, str]]:
    """The model; it cannot take one word."""
    bad = {item.content_hash: "out of memory" for item in items if item.text == "poison"}
    return {item.content_hash: vector_of(item.text) for item in items if item.content_hash not in bad}, bad


@dataclass
class Index:
    """A log, and a generation that follows it when it is told to."""

    partitions: int = PARTITIONS
    broker: EmbeddedBroker = field(default_factory=lambda: EmbeddedBroker(None))
    collection: Collection = field(default_factory=lambda: MemoryStore().create(SPEC))
    committed: dict[int, int] = field(default_factory=dict)
    clock: float = 0.0
    """The event time of every record."""

    def __post_init__(self) -> None:
        self.broker.ensure_topics([TopicSpec(TOPIC, self.partitions, "compact", 1 << 20)])

    # ---------------------------------------------------------------------------- the log

    def write(self, key: bytes | None, value: bytes | None, headers: Any = (), partition: int | None = None) -> int:
        """A record; its version."""
        record = NewRecord(TOPIC, key, value, headers, partition)
        (written,) = self.broker.publisher("test").publish([record], Deadline.after(5))
        return version_of(EPOCH, written.offset)

    def put(self, key: DocumentKey, text: str | None = "one|two", **metadata: Any) -> int:
        omitted = "" if text else "big"
        event = DocumentChanged(key, text, metadata, "text/plain", "digest", self.now(), omitted=omitted)
        return self.write(*encode_event(event))

    def delete(self, key: DocumentKey) -> int:
        return self.write(*encode_event(DocumentDeleted(key, self.now())))

    def forget(self, key: DocumentKey) -> int:
        return self.write(key.to_bytes(), None)

    def spoil(self, key: DocumentKey) -> int:
        """A record that nobody can decode."""
        return self.write(key.to_bytes(), b"\xff not JSON")

    def now(self) -> Provenance:
        """Always the same: only the place in the log tells versions apart."""
        return Provenance(self.clock)

    def ends(self) -> dict[int, int]:
        return {partition: bounds.end for partition, bounds in self.broker.offsets(TOPIC).items()}

    def compact(self) -> None:
        self.broker.log.maintain(least_dirty=0)

    # --------------------------------------------------------------------- the generation

    def follow(self) -> None:
        """What both stages do with what was written since."""
        found = self.unread()
        self.committed = self.ends()
        if found:
            synchronise(self.collection, found, embed, donor_seconds=0)

    def unread(self) -> list[ChunkedDocument]:
        """What was written since."""
        reader = self.broker.reader(TOPIC, self.committed)
        found: list[ChunkedDocument] = []
        while not reader.caught_up():
            for record in reader.poll(0, 100):
                made = made_of(record, version_of(EPOCH, record.offset), GENERATION, cut).document
                found += [] if made is None else [made]
        return found

    def verify(self, ends: Mapping[int, int] | None = None, wait: Wait = lambda _: None, **more: Any) -> Verdict:
        return verify(
            self.broker, TOPIC, EPOCH, self.collection, self.ends() if ends is None else ends, cut, wait=wait, **more
        )

    def repair(self, findings: Findings, ends: Mapping[int, int] | None = None, **more: Any) -> Repaired:
        return repair(
            self.broker,
            TOPIC,
            EPOCH,
            self.collection,
            self.ends() if ends is None else ends,
            findings,
            cut,
            more.pop("embed", embed),
            **more,
        )

    # ------------------------------------------------------------------------------ faults

    def head(self, key: DocumentKey) -> Head:
        return self.collection.heads([key.doc])[key.doc]

    def chunks(self, *keys: DocumentKey) -> list[StoredChunk]:
        """Of a document, or all."""
        docs = [key.doc for key in keys] or None
        found, after = self.collection.scan_chunks(None, 500, docs, vectors=True)
        while after is not None:
            page, after = self.collection.scan_chunks(after, 500, docs, vectors=True)
            found += page
        return found

    def set_head(self, key: DocumentKey, **changes: Any) -> None:
        head = self.head(key)
        self.collection.replace_heads([replace(head, **changes)], {key.doc: head.stamp})

    def add_head(self, key: DocumentKey, version: int, **changes: Any) -> None:
        made = Head(key, stamp_of(version), "complete", version, 1.0, filter_hash=filter_hash({}))
        self.collection.insert_heads([replace(made, **changes)])

    def drop_head(self, key: DocumentKey) -> None:
        """No request of the port deletes a head."""
        collection: Any = self.collection
        if isinstance(collection, MemoryCollection):
            del collection._heads[key.doc]
        else:
            collection._engine.delete({"must": [{"has_id": [key.doc]}]})

    def add_chunk(self, key: DocumentKey, text: str, stamp: int, nth: int = 0, **changes: Any) -> str:
        content = content_hash(text)
        id = chunk_id(key, content, nth)
        point = ChunkPoint(id, key.doc, stamp, content, text, {}, filter_hash({}), vector_of(text))
        self.collection.upsert_chunks([replace(point, **changes)], {key.doc: TOP})
        return id

    def set_chunk(self, chunk: StoredChunk, **changes: Any) -> None:
        assert chunk.vector is not None
        point = ChunkPoint(
            chunk.id,
            chunk.doc,
            chunk.stamp,
            chunk.content_hash,
            chunk.text,
            chunk.filters,
            chunk.filter_hash,
            chunk.vector,
        )
        self.collection.upsert_chunks([replace(point, **changes)], {chunk.doc: TOP})

    def drop_chunk(self, key: DocumentKey, place: int = 0) -> None:
        lost = self.head(key).chunks[place].id
        kept = frozenset(chunk.id for chunk in self.chunks(key) if chunk.id != lost)
        self.collection.sweep([Sweep(key.doc, kept, TOP)])
