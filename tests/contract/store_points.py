"""Points for the store suites, and what lies in a collection as one comparable value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.identity import DocumentKey, chunk_id, content_hash, filter_hash, stamp_of
from pipeline.points import ChunkPoint, Head, ListedChunk, StoredChunk, Vectors
from pipeline.ports import Collection, CollectionSpec

FIELDS = {"acl": "keyword", "team": "tenant", "year": "integer", "weight": "float", "public": "bool"}
SPEC = CollectionSpec(
    name="contract.one",
    generation="g1",
    dimension=3,
    distance="cosine",
    model_fingerprint="model-a",
    chunking_fingerprint="chunking-a",
    filter_fields=FIELDS,  # type: ignore[arg-type]
)


def key(name: str) -> DocumentKey:
    """A document."""
    return DocumentKey("source", name)


def vector(*numbers: float) -> Vectors:
    """A vector of the suites' dimension."""
    return np.array(numbers, dtype=np.float32)


def chunk(
    name: str,
    text: str,
    stamp: int,
    at: Sequence[float] = (1, 0, 0),
    filters: Mapping[str, Any] | None = None,
) -> ChunkPoint:
    """A chunk of a document."""
    document = key(name)
    content = content_hash(text)
    fields = dict(filters or {})
    return ChunkPoint(
        chunk_id(document, content, 0),
        document.doc,
        stamp,
        content,
        text,
        fields,
        filter_hash(fields),
        vector(*at),
    )


def head(name: str, stamp: int, *chunks: ChunkPoint, **others: Any) -> Head:
    """A head that lists chunks."""
    fields = others.pop("filters", {})
    return replace(
        Head(
            key=key(name),
            stamp=stamp,
            state="complete",
            content_version=stamp // 64,
            event_time=1.5,
            chunks=tuple(ListedChunk(one.id, 0, 5, 2, ("Über", "one")) for one in chunks),
            metadata={"title": "T", "tags": ["a", "b"], "n": 3, "x": 0.5, "yes": True},
            filters=fields,
            filter_hash=filter_hash(fields),
        ),
        **others,
    )


def stamp(version: int, attempt: int = 0) -> int:
    """A stamp."""
    return stamp_of(version, attempt)


def chunks_of(
    collection: Collection, vectors: bool = False, docs: Sequence[str] | None = None, page: int = 3
) -> list[StoredChunk]:
    """All chunks, over small pages."""
    found, after = collection.scan_chunks(None, page, docs, vectors)
    while after is not None:
        more, after = collection.scan_chunks(after, page, docs, vectors)
        found += more
    return found


def heads_of(collection: Collection, page: int = 2) -> list[Head]:
    """All heads, over small pages."""
    found, after = collection.scan_heads(None, page)
    while after is not None:
        more, after = collection.scan_heads(after, page)
        found += more
    return found


def contents(collection: Collection) -> tuple[dict[str, Head], dict[str, tuple[int, str, dict[str, Any], str]]]:
    """What lies there, by id: equal for equal collections, whatever the adapter."""
    return (
        {one.doc: one for one in heads_of(collection)},
        {one.id: (one.stamp, one.doc, dict(one.filters), one.filter_hash) for one in chunks_of(collection)},
    )
