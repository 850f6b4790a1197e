"""What the log foretells of a head: of a version, before anything is embedded. Pure.

One place says it for the writer, which runs a replay again whose head is another, and for
verification, which finds such heads: what is found is what a replay mends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipeline.cells import chunk_cell, document_cells, head_cells_of, list_digest, metadata_digest
from pipeline.identity import chunk_id, occurrences
from pipeline.points import Head, ListedChunk
from pipeline.records import ChunkedDocument
from pipeline.specs import FieldType
from pipeline.sync.filters import FilterFields, filter_fields

State: TypeAlias = Literal["complete", "failed", "omitted", "deleted"]
"""What a head is in if every chunk can be embedded."""
Deviation: TypeAlias = Literal["state", "list", "metadata"]
"""In what a head of a version is another than the version leads to: deleted or not, its list, or its metadata."""

_STATES: Mapping[str, State] = {
    "chunked": "complete",
    "failed": "failed",
    "omitted": "omitted",
    "deleted": "deleted",
}


@dataclass(frozen=True, slots=True)
class Foretold:
    """A head before it is written, as far as the log foretells it: its list and metadata as digests.

    What a failed or omitted version lists is what was there before; that is not foretold.
    """

    doc: str
    version: int
    state: State
    filter_hash: str
    chunks: str
    """Digest of the list."""
    metadata: str
    """Digest of the metadata."""
    ids: tuple[int, ...]
    """The cell of each listed chunk, in reading order."""

    @property
    def head_cells(self) -> tuple[int, int]:
        """The cells of the head."""
        return head_cells_of(
            self.doc, self.version, self.version, self.state, self.chunks, self.metadata, self.filter_hash
        )

    @property
    def document_cells(self) -> tuple[int, int]:
        """The cells of each chunk's document."""
        return document_cells(self.doc, self.filter_hash)


def foretold(document: ChunkedDocument, declared: Mapping[str, FieldType]) -> Foretold:
    """What a version leads to if everything of it can be embedded.

    Args:
        document: the version.
        declared: the generation's filter fields.
    """
    return foretold_of(document, point_ids(document), filter_fields(document, declared))


def foretold_of(document: ChunkedDocument, ids: Sequence[str], fields: FilterFields) -> Foretold:
    """As :func:`foretold`, of the point ids and filter fields of the version."""
    return Foretold(
        doc=document.key.doc,
        version=document.version,
        state=_STATES[document.state],
        filter_hash=fields.hash,
        chunks=list_digest(listed(document, ids)),
        metadata=metadata_digest(document.metadata),
        ids=tuple(chunk_cell(id) for id in ids),
    )


def deviation(head: Head, told: Foretold) -> Deviation | None:
    """In what a head of this very version is another than the log foretells; None if it is not.

    A version whose chunks could not all be embedded is as it should be: its head says so. So is one
    that could be cut when it was written, and cannot be now.
    """
    if (head.state == "deleted") != (told.state == "deleted"):
        return "state"
    if not _lists(head, told):
        return "list"
    if head.filter_hash != told.filter_hash or metadata_digest(head.metadata) != told.metadata:
        return "metadata"
    return None


def point_ids(document: ChunkedDocument) -> list[str]:
    """The point ids of a document's chunks, in reading order; equal texts differ by occurrence."""
    hashes = [span.content_hash for span in document.chunks]
    return [chunk_id(document.key, content, nth) for content, nth in zip(hashes, occurrences(hashes), strict=True)]


def listed(document: ChunkedDocument, ids: Sequence[str]) -> tuple[ListedChunk, ...]:
    """A document's chunks as its head lists them."""
    return tuple(
        ListedChunk(id, span.start, span.end, span.tokens, tuple(span.headings))
        for id, span in zip(ids, document.chunks, strict=True)
    )


def _lists(head: Head, told: Foretold) -> bool:
    match told.state, head.state:
        case "complete", "complete":
            return (head.missing, head.content_version, list_digest(head.chunks)) == ((), told.version, told.chunks)
        case "complete", "incomplete":
            # Spans and headings of the others are not compared: the digest is of the whole list.
            missing = set(head.missing)
            others = [cell for place, cell in enumerate(told.ids) if place not in missing]
            return bool(missing) and [chunk_cell(chunk.id) for chunk in head.chunks] == others
        case "complete" | "omitted", "failed":
            return True
        case "omitted", "omitted":
            return True
        case "failed", state:
            return state != "omitted"
        case "deleted", _:
            return not head.chunks
    return False
