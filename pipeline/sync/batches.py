"""A batch on its way through the store protocol: what was read, what is planned, what happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

from pipeline.errors import Poison
from pipeline.points import Head, Vectors
from pipeline.ports import Collection
from pipeline.records import ChunkedDocument, ChunkSpan
from pipeline.sync.filters import FilterFields

Result: TypeAlias = Literal[
    "complete",  # written; every chunk of this version is searchable
    "incomplete",  # written; some chunk could not be embedded, the others are searchable
    "failed",  # the head says so; the chunks of the content version stay readable
    "omitted",  # as failed, for a document published without its text
    "deleted",  # a tombstone is in place
    "unchanged",  # this version was there already, whole
    "stale",  # a newer version is, or came, in its place
    "exhausted",  # every attempt at this version is used up: ``poison`` says so
    "again",  # the compare-and-set was lost to an older version: prepare this document again
]


Distrust: TypeAlias = Mapping[str, frozenset[str]]
"""By document, the content hashes of chunks whose stored vectors (or texts) are not believed."""
TRUSTING: Final[Distrust] = MappingProxyType({})


class ToEmbed(NamedTuple):
    """A text that the model has to embed, once for the whole batch."""

    content_hash: str
    text: str
    tokens: int


@dataclass(slots=True)
class Plan:
    """One document of a batch after steps 1 and 2."""

    document: ChunkedDocument
    read: Head | None
    """The head that step 1 found: the compare-and-set is over its stamp and no other."""
    stamp: int | None
    """What will be written; None when nothing will be (stale, unchanged, exhausted)."""
    result: Result
    fields: FilterFields
    ids: list[str] = field(default_factory=list)
    """The point ids of the document's chunks, in reading order."""
    kept: frozenset[str] = frozenset()
    """Ids that the head lists and that have a point: neither vector nor write is needed."""
    poison: Poison | None = None
    again: bool = False
    """The head is written although it says the same: to be above points that are above it."""

    @property
    def doc(self) -> str:
        """The document's id in the store."""
        return self.document.key.doc

    @property
    def needed(self) -> list[tuple[int, str, ChunkSpan]]:
        """Index, point id and span of each chunk that has to be written."""
        if self.stamp is None or self.document.state != "chunked":
            return []
        return [
            (index, id, span)
            for index, (id, span) in enumerate(zip(self.ids, self.document.chunks, strict=True))
            if id not in self.kept
        ]


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """Steps 1 and 2, done: give ``to_embed`` to the model, and the answer to ``write``."""

    collection: Collection
    plans: tuple[Plan, ...]
    found: dict[str, Vectors]
    """Vectors found by content hash, in this collection or a sibling."""
    to_embed: list[ToEmbed]
    superseded: int
    """Events of the batch that a higher version of the same document in it made needless."""

    @property
    def documents(self) -> list[ChunkedDocument]:
        """The documents of the batch, one version each."""
        return [plan.document for plan in self.plans]


class Failure(NamedTuple):
    """A chunk that could not be embedded."""

    place: int
    """In reading order of the whole document."""
    content_hash: str
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened to one document; count metrics from it, for its effect is in the store."""

    document: ChunkedDocument
    result: Result
    stamp: int
    """The head's stamp as last read (-1: there is no head)."""
    embedded: int = 0
    """Chunks whose vector came from the model. A text is counted once, however often it occurs."""
    listed: int = 0
    """Chunks that the head listed already: no vector, no write."""
    copied: int = 0
    """Chunks whose vector was found by content hash, in the store or in this batch."""
    written: int = 0
    """Chunk points sent to the store."""
    removed: int = 0
    """Chunks that the old head listed and the new one does not."""
    failures: tuple[Failure, ...] = ()
    rejected_fields: tuple[str, ...] = ()
    """Declared filter fields that were left out because of their type."""
    sweep_after: float | None = None
    """Seconds after which ``sweep_deleted`` must have run; the offset is not committed before."""
    poison: Poison | None = None
