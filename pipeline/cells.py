"""Cells: small numbers, hashes of what a point must be, that a store counts and the log foretells.

A thing falls into one cell of each of two tables, so that two things seldom share both. Heads and
chunks carry their cells in the payload. Two collections that hold the same have the same counts,
and where counts differ, the cells say which documents to look at.

The hash is BLAKE2b over canonical JSON (sorted keys, ASCII, no spaces), a chunk's own cell the
first 16 bits of its id, which is a hash already. Neither may change without a new format of
collections: tests/unit/test_cells.py pins both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.identity import Metadata, canonical_json
from pipeline.points import Head, ListedChunk

#: Of both tables together: a store's answer of a megabyte, and a thousand faults still stand apart.
CELLS: Final = 65_536
#: Cells of one table; those of the second follow those of the first, since a store counts equal
#: numbers of one point once.
TABLE: Final = CELLS // 2

Counts: TypeAlias = npt.NDArray[np.int64]
"""int64 [CELLS]: how many things fall into each cell."""


def head_cells(head: Head) -> tuple[int, int]:
    """The cells of a head: of its document, versions, state, list, metadata and filter fields.

    Neither of its attempt nor of the time of its event: another run of a version changes no cell.
    """
    return head_cells_of(
        head.doc,
        head.version,
        head.content_version,
        head.state,
        list_digest(head.chunks),
        metadata_digest(head.metadata),
        head.filter_hash,
    )


def head_cells_of(
    doc: str, version: int, content_version: int, state: str, chunks: str, metadata: str, filter_hash: str
) -> tuple[int, int]:
    """As :func:`head_cells`, of the digests of list and metadata."""
    return _cells([doc, version, content_version, state, chunks, metadata, filter_hash])


def document_cells(doc: str, filter_hash: str) -> tuple[int, int]:
    """The cells of all chunks of a document: of the document and of the filter fields that they carry."""
    return _cells([doc, filter_hash])


def chunk_cell(chunk_id: str) -> int:
    """The one cell of a chunk's id."""
    return int(chunk_id[:4], 16)


def list_digest(chunks: Iterable[ListedChunk]) -> str:
    """64 bits, in hex, over a head's list: ids, spans, tokens and headings, in reading order."""
    return _digest([(one.id, one.start, one.end, one.tokens, one.headings) for one in chunks])


def metadata_digest(metadata: Metadata) -> str:
    """64 bits, in hex, over a document's metadata."""
    return _digest(metadata)


def no_counts() -> Counts:
    """Counts of nothing."""
    return np.zeros(CELLS, dtype=np.int64)


def _cells(parts: list[Any]) -> tuple[int, int]:
    digest = hashlib.blake2b(canonical_json(parts), digest_size=4).digest()
    return int.from_bytes(digest[:2], "big") % TABLE, TABLE + int.from_bytes(digest[2:], "big") % TABLE


def _digest(value: Any) -> str:
    return hashlib.blake2b(canonical_json(value), digest_size=8).hexdigest()
