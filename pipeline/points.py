"""What lies in the vector store: heads and chunks, as values (adapters turn them into payloads)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.identity import DocumentKey, Metadata, version_in

Vectors: TypeAlias = npt.NDArray[np.float32]
"""float32, shape [n, dimension], or [dimension] for one."""

HeadState: TypeAlias = Literal["complete", "incomplete", "failed", "omitted", "deleted"]


@dataclass(frozen=True, slots=True)
class ListedChunk:
    """A chunk as its document's head lists it, in reading order."""

    id: str
    start: int
    end: int
    tokens: int
    headings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """What the write of a head cost: where its chunks' vectors are from. For people, and no part of the truth:
    a write that is repeated finds what the first one embedded.
    """

    embedded: int
    """By the model."""
    kept: int
    """In the list before."""
    copied: int
    """From another document's chunk of the same text, or this one's earlier one."""


@dataclass(frozen=True, slots=True)
class Head:
    """The one point without a vector that says what a document is, as of its stamp."""

    key: DocumentKey
    stamp: int
    state: HeadState
    content_version: int
    """The version whose chunks the list holds: older than the stamp's after a failure."""
    event_time: float
    chunks: tuple[ListedChunk, ...] = ()
    metadata: Metadata = field(default_factory=dict)
    filters: Mapping[str, Any] = field(default_factory=dict)
    """The declared filter fields, as copied to every chunk."""
    filter_hash: str = ""
    reason: str = ""
    missing: tuple[int, ...] = ()
    """Indexes (in reading order of the whole document) of chunks that could not be embedded."""
    made: Made | None = field(default=None, compare=False)
    """None where nobody has noted it, and of a head that lists older chunks."""

    @property
    def doc(self) -> str:
        """The document's id in the store."""
        return self.key.doc

    @property
    def version(self) -> int:
        """The version that wrote this head."""
        return version_in(self.stamp)


@dataclass(frozen=True, slots=True)
class ChunkPoint:
    """A chunk with its vector. Text and vector never change under an id; the stamp does."""

    id: str
    doc: str
    stamp: int
    content_hash: str
    text: str
    filters: Mapping[str, Any]
    filter_hash: str
    vector: Vectors


@dataclass(frozen=True, slots=True)
class Sweep:
    """Delete the chunks of ``doc`` that are not in ``keep`` and whose stamp is not above ``stamp``."""

    doc: str
    keep: frozenset[str]
    stamp: int


@dataclass(frozen=True, slots=True)
class Alignment:
    """Give the chunks of ``doc`` that differ in filter hash, up to ``stamp``, these fields and this stamp."""

    doc: str
    filters: Mapping[str, Any]
    filter_hash: str
    stamp: int


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """A chunk found by vector search, not yet held against its document's head."""

    id: str
    doc: str
    score: float
    text: str
    stamp: int
    content_hash: str


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as it lies in the store, for verify, repair and tests."""

    id: str
    doc: str
    stamp: int
    content_hash: str
    text: str
    filters: Mapping[str, Any]
    filter_hash: str
    vector: Vectors | None = None


_Stamped = TypeVar("_Stamped", Head, ChunkPoint)


def highest(points: Iterable[_Stamped], id_of: Callable[[_Stamped], str]) -> list[_Stamped]:
    """One point of each id, the one with the highest stamp (of equal ones the last)."""
    kept: dict[str, _Stamped] = {}
    for point in points:
        present = kept.get(id_of(point))
        if present is None or present.stamp <= point.stamp:
            kept[id_of(point)] = point
    return list(kept.values())


Where: TypeAlias = Mapping[str, tuple[str | int | float | bool, ...]]
"""A caller's filter over declared fields: every field must match one of its values."""
