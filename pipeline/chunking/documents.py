"""Document events as chunked documents of one generation; pure, so that verification can foretell them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from pipeline.codec import decode_event, unreadable
from pipeline.errors import MalformedRecord, Poison
from pipeline.ports import Record
from pipeline.records import ChunkedDocument, ChunkSpan, DocumentDeleted, DocumentEvent

Chunk: TypeAlias = Callable[[str, str], Sequence[ChunkSpan]]
"""Text and media type to spans."""


class Made(NamedTuple):
    """What a record of the documents topic leads to."""

    document: ChunkedDocument | None
    """None: a null, which only forgets an old delete, or a record of which not even the key can be read."""
    cause: Poison | None = None
    """Why the document has failed."""


def made_of(record: Record, version: int, generation: str, chunk: Chunk) -> Made:
    """The chunked document of a record; one that cannot be read or cut is a version that failed.

    Raises:
        NewerSchema: written by a later version; it waits for an upgrade.
    """
    try:
        event = decode_event(record)
    except MalformedRecord as error:
        document = unreadable(record, generation, version)
        return Made(None if document is None else failed(document, str(error)), error)
    if event is None:
        return Made(None)
    try:
        return Made(chunked(event, version, generation, chunk))
    except Poison as error:
        return Made(failed(chunked(event, version, generation, lambda *_: ()), str(error)), error)


def chunked(event: DocumentEvent, version: int, generation: str, chunk: Chunk) -> ChunkedDocument:
    """One event at one version, cut up for one generation.

    Raises:
        Poison: it cannot be cut.
    """
    if isinstance(event, DocumentDeleted):
        return ChunkedDocument(event.key, version, generation, "deleted", event.provenance, erased=event.erased)
    if event.text is None:
        return ChunkedDocument(
            key=event.key,
            version=version,
            generation=generation,
            state="omitted",
            provenance=event.provenance,
            metadata=event.metadata,
            media_type=event.media_type,
            reason=event.omitted or "published without its text",
        )
    return ChunkedDocument(
        key=event.key,
        version=version,
        generation=generation,
        state="chunked",
        provenance=event.provenance,
        text=event.text,
        chunks=_cut(event.text, event.media_type, chunk),
        metadata=event.metadata,
        media_type=event.media_type,
    )


def failed(document: ChunkedDocument, reason: str) -> ChunkedDocument:
    """The version without its text, in place of what cannot be sent on."""
    return replace(document, state="failed", text="", chunks=(), reason=reason)


def _cut(text: str, media_type: str, chunk: Chunk) -> tuple[ChunkSpan, ...]:
    try:
        return tuple(chunk(text, media_type))
    except Poison:
        raise
    except Exception as error:
        # Whatever a text brings out of our code or a library's: it is this document's, not the worker's.
        raise Poison("chunking_failed", f"{type(error).__name__}: {error}") from error
