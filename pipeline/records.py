"""What is written to Kafka: plain values, without a word about bytes (see codec)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from pipeline.identity import DocumentKey, Metadata


@dataclass(frozen=True, slots=True)
class Provenance:
    """What travels in headers from the source's event to the last record that it causes."""

    event_time: float
    """When it happened at the source, in seconds since 1970."""
    traceparent: str = ""
    """W3C trace context, copied through; empty when there is none."""
    backfill: bool = False
    """Found by a scan and not by watching: its latency says nothing about freshness."""


@dataclass(frozen=True, slots=True)
class DocumentChanged:
    """A whole document as it is now. The log's offset of this record is the document's version."""

    key: DocumentKey
    text: str | None
    """None when the text was left out (``omitted`` says why): over the size limit, or unreadable."""
    metadata: Metadata
    media_type: str
    digest: str
    """Hash of the text as it was extracted (of the raw bytes where the text was left out)."""
    provenance: Provenance
    omitted: str = ""
    """Why there is no text, for people: ``12.3 MB, over the limit of 8 MB``."""
    size: int = 0
    """Bytes of the text in UTF-8, or of the raw document where the text was left out."""


#: ``omitted`` of a document whose record the log has refused for its size begins with it; its metadata are then all
#: that fitted, and may be fewer than its source has.
TOO_LARGE: Final = "too large for the log"


@dataclass(frozen=True, slots=True)
class DocumentDeleted:
    """The document is gone from its source. A record, not a null: compaction forgets nulls."""

    key: DocumentKey
    provenance: Provenance
    erased: bool = False
    """It was asked to be forgotten: its chunks are no donors of vectors, not for a moment."""


DocumentEvent: TypeAlias = DocumentChanged | DocumentDeleted


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """One chunk of a document: a half-open span of code points of its text."""

    start: int
    end: int
    content_hash: str
    tokens: int
    """Tokens of the embedded text, special tokens excluded."""
    headings: tuple[str, ...] = ()
    """The headings above it, outermost first."""
    context: str = ""
    """What is embedded before the text, exactly; empty unless the chunking spec embeds headings."""


ChunkedState: TypeAlias = Literal["chunked", "deleted", "failed", "omitted"]


@dataclass(frozen=True, slots=True)
class ChunkedDocument:
    """One version of one document, cut up for one generation: the record of a chunks topic."""

    key: DocumentKey
    version: int
    generation: str
    """The generation's id, which is a fingerprint: an embedder refuses another's."""
    state: ChunkedState
    provenance: Provenance
    text: str = ""
    chunks: tuple[ChunkSpan, ...] = ()
    metadata: Metadata = field(default_factory=dict)
    media_type: str = ""
    reason: str = ""
    """Why it failed or was omitted."""
    replay: bool = False
    """A dead letter sent round again: run at the head's attempt + 1, at this very version."""
    erased: bool = False
    """Of a delete: see :class:`DocumentDeleted`."""


Stage: TypeAlias = Literal["chunk", "embed"]
STAGES: Final[tuple[Stage, ...]] = ("chunk", "embed")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record was read."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record (or a chunk of it) that failed for good, with its cause and with itself."""

    generation: str
    stage: Stage
    origin: Origin
    version: int
    """The document's version, so that a replay cannot undo anything newer. -1 if it is not known."""
    reason: str
    detail: str
    attempts: int
    failed_at: float
    """Seconds since 1970."""
    record_key: bytes | None
    record_value: bytes | None
    record_headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def id(self) -> str:
        """generation/stage/topic/partition/offset: the record's key in the dead-letters topic."""
        where = self.origin
        return f"{self.generation}/{self.stage}/{where.topic}/{where.partition}/{where.offset}"


RequestKind: TypeAlias = Literal["forget", "lift", "gc"]


@dataclass(frozen=True, slots=True)
class Request:
    """What only a source's own writer may do, asked of it through ``control``."""

    id: str
    kind: RequestKind
    source: str
    at: float
    """When it was asked, in seconds since 1970."""
    number: int = 0
    """Requests are carried out in the order of these."""
    paths: tuple[str, ...] = ()
    """Of the documents; empty: the whole source."""
    before: Mapping[int, int] = field(default_factory=dict)
    """Of a gc, by partition: every generation has committed what lies below this offset."""
    older: float = 0.0
    """Of a gc: only what was appended before this moment."""
    since: int = 0
    """Where its mark's partition of ``connector-state`` ended when it was asked: the mark comes after."""
    closed: float = 0.0
    """When somebody saw that it is done; 0: nobody yet."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a source's writer has done for a request, written in the transaction that did it."""

    request: str
    at: float
    complete: bool = True
    """False: a part of it, the rest follows."""
    count: int = 0
    """Deletes published, suppressions lifted, or nulls written."""
    offsets: tuple[tuple[int, int], ...] = ()
    """Partition and offset of each delete, in the order of the request's paths."""
    ranges: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """By partition, the first and the last offset of what was published for it."""
    left: int = 0
    """Of a gc: records that were too many for one."""
