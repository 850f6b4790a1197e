"""Heads and chunks as payloads of points, the same for every store.

================  =====================================================================
``kind``          ``head`` or ``chunk``
``doc``           the document's id (also the id of its head point)
``stamp``         what every guard compares, below 2**50
``fh``, ``f``     filter hash and filter fields (on heads too: reads filter heads)
chunk             ``hash``, ``text``, and the vector
head              ``state``, ``key``, ``cv``, ``time``, ``reason``, ``meta``, ``list``, ``missing``,
                  and ``made``: chunks embedded, kept, copied
cells             what verification counts: of a complete head ``hc``, of a tombstone ``tc``, of a
                  chunk ``dc`` (two each) and ``cc`` (one)
================  =====================================================================
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from pipeline.cells import chunk_cell, document_cells, head_cells
from pipeline.codec import UNREADABLE
from pipeline.errors import ForeignCollection, MalformedRecord
from pipeline.identity import DocumentKey, MetadataValue
from pipeline.points import ChunkPoint, Head, HeadState, ListedChunk, Made, ScoredChunk, StoredChunk, Vectors
from pipeline.ports import Tallied

#: The named vector of every chunk. Named, because only such collections can gain others later.
VECTOR: Final = "text"
#: The field of each tally: one of its own, so that a store counts without a filter.
CELLS_OF: Final[Mapping[Tallied, str]] = {"heads": "hc", "tombstones": "tc", "documents": "dc", "chunks": "cc"}
Payload = dict[str, Any]

_pack = msgspec.json.encode

_Count = Annotated[int, msgspec.Meta(ge=0)]
_unpack_list = msgspec.json.Decoder(
    tuple[list[tuple[str, ...]], list[tuple[str, _Count, _Count, _Count, _Count]]]
).decode
_unpack_metadata = msgspec.json.Decoder(dict[str, MetadataValue]).decode


class _Found(msgspec.Struct):
    doc: str
    stamp: _Count
    hash: str
    text: str


class _Chunk(_Found):
    fh: str
    f: dict[str, Any] = {}


class _Head(msgspec.Struct):
    key: str
    stamp: _Count
    state: HeadState
    cv: int
    time: float
    reason: str
    meta: str
    list: str
    missing: tuple[int, ...]
    fh: str
    f: dict[str, Any] = {}
    made: tuple[int, int, int] | None = None


def chunk_payload(chunk: ChunkPoint) -> Payload:
    """The payload of a chunk point."""
    return {
        "kind": "chunk",
        "doc": chunk.doc,
        "stamp": chunk.stamp,
        "hash": chunk.content_hash,
        "text": chunk.text,
        CELLS_OF["chunks"]: [chunk_cell(chunk.id)],
        **aligned_payload(chunk.doc, chunk.filters, chunk.filter_hash),
    }


def aligned_payload(doc: str, filters: Mapping[str, Any], filter_hash: str) -> Payload:
    """What all chunks of a document have in common, and *align* sets."""
    return {
        "f": filter_payload(filters),
        "fh": filter_hash,
        CELLS_OF["documents"]: list(document_cells(doc, filter_hash)),
    }


def filter_payload(filters: Mapping[str, Any]) -> Payload:
    """Filter fields as stored: truth values as words, since bool indexes of the engine do not match."""
    return {name: _stored(value) for name, value in filters.items()}


def stored_value(value: object) -> object:
    """A caller's filter value as it is stored."""
    return _stored(value)


def head_payload(head: Head) -> Payload:
    """The payload of a head point. The list is packed: one string, whatever its length."""
    sections: dict[tuple[str, ...], int] = {}
    rows = [
        (
            base64.b85encode(uuid.UUID(chunk.id).bytes).decode(),
            chunk.start,
            chunk.end - chunk.start,
            chunk.tokens,
            sections.setdefault(chunk.headings, len(sections)),
        )
        for chunk in head.chunks
    ]
    return {
        "kind": "head",
        "doc": head.doc,
        "stamp": head.stamp,
        "state": head.state,
        **_head_cells(head),
        "key": head.key.text,
        "cv": head.content_version,
        "time": head.event_time,
        "reason": head.reason,
        "meta": _pack(head.metadata).decode(),
        "list": _pack((list(sections), rows)).decode(),
        "missing": list(head.missing),
        "f": filter_payload(head.filters),
        "fh": head.filter_hash,
        **({} if head.made is None else {"made": [head.made.embedded, head.made.kept, head.made.copied]}),
    }


def _head_cells(head: Head) -> Payload:
    """The log does not foretell the others: they are read, not counted."""
    tallies: Mapping[str, Tallied] = {"complete": "heads", "deleted": "tombstones"}
    return {CELLS_OF[tallies[head.state]]: list(head_cells(head))} if head.state in tallies else {}


def head_of(payload: Payload, filters: Mapping[str, str]) -> Head:
    """The head in a payload.

    Args:
        payload: as :func:`head_payload` made it.
        filters: the declared filter fields and their types.

    Raises:
        ForeignCollection: this is not a head of ours.
    """
    with _ours("head", payload):
        wire = msgspec.convert(payload, _Head)
        sections, rows = _unpack_list(wire.list)
        return Head(
            key=DocumentKey.from_text(wire.key),
            stamp=wire.stamp,
            state=wire.state,
            content_version=wire.cv,
            event_time=wire.time,
            chunks=tuple(
                ListedChunk(str(uuid.UUID(bytes=base64.b85decode(id))), start, start + size, tokens, sections[section])
                for id, start, size, tokens, section in rows
            ),
            metadata=_unpack_metadata(wire.meta),
            filters=_filters(wire.f, filters),
            filter_hash=wire.fh,
            reason=wire.reason,
            missing=wire.missing,
            made=None if wire.made is None else Made(*wire.made),
        )


def stored_chunk(id: str, payload: Payload, filters: Mapping[str, str], vector: Vectors | None) -> StoredChunk:
    """The chunk in a payload.

    Raises:
        ForeignCollection: this is not a chunk of ours.
    """
    with _ours("chunk", payload):
        wire = msgspec.convert(payload, _Chunk)
        return StoredChunk(
            id=id,
            doc=wire.doc,
            stamp=wire.stamp,
            content_hash=wire.hash,
            text=wire.text,
            filters=_filters(wire.f, filters),
            filter_hash=wire.fh,
            vector=vector,
        )


def scored_chunk(id: str, payload: Payload, score: float) -> ScoredChunk:
    """A chunk that a search found.

    Raises:
        ForeignCollection: this is not a chunk of ours.
    """
    with _ours("chunk", payload):
        wire = msgspec.convert(payload, _Found)
        return ScoredChunk(id, wire.doc, score, wire.text, wire.stamp, wire.hash)


def vector_of(stored: object) -> Vectors | None:
    """float32 [dimension] of a point's named vectors; None for a head.

    Raises:
        ForeignCollection: it is no vector.
    """
    if isinstance(stored, Mapping) and stored.get(VECTOR) is not None:
        with _ours("vector", {}):
            return np.asarray(stored[VECTOR], dtype=np.float32)
    return None


@contextmanager
def _ours(what: str, payload: Payload) -> Iterator[None]:
    try:
        yield
    except (*UNREADABLE, ValueError, TypeError, IndexError, MalformedRecord) as error:
        doc = payload.get("doc") if isinstance(payload, Mapping) else None
        of = f" of document {doc}" if isinstance(doc, str) else ""
        raise ForeignCollection(
            f"a {what}{of} cannot be read: {type(error).__name__} {error}", "was it written by another program?"
        ) from None


def _filters(stored: Mapping[str, Any], types: Mapping[str, str]) -> dict[str, Any]:
    return {name: (value == "true" if types.get(name) == "bool" else value) for name, value in stored.items()}


def _stored(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value
