"""Records to bytes and back: JSON values, a schema number in the headers, decoders kept for ever.

A record is readable with any Kafka console tool. Adding an optional field keeps the schema
number; a change of meaning raises it, keeps the old decoder, and makes older workers wait
(:class:`NewerSchema`) instead of failing. Golden files in tests/golden pin every version's bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from pipeline.errors import MalformedRecord, NewerSchema, Poison
from pipeline.identity import MAX_EPOCH, OFFSET_BITS, DocumentKey, Metadata, MetadataValue
from pipeline.ports import Headers, Record
from pipeline.records import (
    ChunkedDocument,
    ChunkedState,
    ChunkSpan,
    DeadLetter,
    DocumentChanged,
    DocumentDeleted,
    DocumentEvent,
    Origin,
    Provenance,
    Stage,
)

KIND: Final = "vectide-kind"
SCHEMA: Final = "vectide-schema"
EVENT_TIME: Final = "vectide-event-time"
GENERATION: Final = "vectide-generation"
VERSION: Final = "vectide-version"
TRAFFIC: Final = "vectide-traffic"
ERASED: Final = "vectide-erased"
TRACEPARENT: Final = "traceparent"

#: The newest schema of each kind that this version writes and understands.
SCHEMAS: Final = {"changed": 1, "deleted": 1, "chunked": 1, "dead-letter": 1}

#: Seconds until a partition that waits for an upgrade looks again.
_UPGRADE_POLL_SECONDS: Final = 10.0


#: What msgspec raises of bytes that are no JSON, or not the JSON that was asked for.
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Encoded(NamedTuple):
    """The bytes of a record."""

    key: bytes | None
    value: bytes | None
    headers: Headers


#: What stores and JSON of every kind can hold.
_WHOLE: Final = range(-(1 << 63), 1 << 63)
_Whole = Annotated[int, msgspec.Meta(ge=_WHOLE.start, le=_WHOLE.stop - 1)]
_Metadata: TypeAlias = dict[str, str | _Whole | float | bool | list[str]]


class _Changed(msgspec.Struct, omit_defaults=True):
    text: str | None
    media_type: str
    digest: str
    metadata: _Metadata = {}
    omitted: str = ""
    size: _Whole = 0


_Count = Annotated[int, msgspec.Meta(ge=0)]
#: What a content hash is made of: point ids are made from its bytes.
_Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
#: What a stamp can hold.
_Version = Annotated[int, msgspec.Meta(ge=0, lt=MAX_EPOCH << OFFSET_BITS)]


class _Section(msgspec.Struct, array_like=True):
    headings: tuple[str, ...]
    context: str


class _Span(msgspec.Struct, array_like=True):
    start: _Count
    end: _Count
    hash: _Hash
    tokens: _Count
    section: _Count


class _Chunked(msgspec.Struct, omit_defaults=True):
    version: _Version
    state: ChunkedState
    text: str = ""
    sections: list[_Section] = []
    chunks: list[_Span] = []
    metadata: _Metadata = {}
    media_type: str = ""
    reason: str = ""
    replay: bool = False
    erased: bool = False


class _DeadLetter(msgspec.Struct):
    generation: str
    stage: Stage
    topic: str
    partition: _Whole
    offset: _Whole
    version: _Whole
    reason: str
    detail: str
    attempts: _Whole
    failed_at: float
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


_T = TypeVar("_T")
_encoder = msgspec.json.Encoder()
_changed_v1 = msgspec.json.Decoder(_Changed)
_chunked_v1 = msgspec.json.Decoder(_Chunked)
_dead_letter_v1 = msgspec.json.Decoder(_DeadLetter)


def encode_event(event: DocumentEvent) -> Encoded:
    """A document event as a record of the documents topic.

    Raises:
        Poison: a text or a metadata value is not valid Unicode (a lone surrogate), or a number of
            the metadata cannot be written as JSON.
    """
    kind: Literal["changed", "deleted"]
    if isinstance(event, DocumentDeleted):
        kind, value = "deleted", b"{}"
    else:
        kind = "changed"
        value = _encode(
            _Changed(
                text=event.text,
                media_type=event.media_type,
                digest=event.digest,
                metadata=_metadata(event.metadata),
                omitted=event.omitted,
                size=event.size,
            )
        )
    headers = _headers(kind, event.provenance)
    if isinstance(event, DocumentDeleted) and event.erased:
        headers += ((ERASED, b"1"),)
    return Encoded(event.key.to_bytes(), value, headers)


def decode_event(record: Record) -> DocumentEvent | None:
    """A record of the documents topic; None for a null value, which only forgets an old delete.

    Raises:
        NewerSchema: written by a later version; the partition waits.
        MalformedRecord: no version of ours wrote this.
    """
    if record.value is None:
        return None
    kind, headers = _open(record, "changed", "deleted")
    key = _key(record)
    if kind == "deleted":
        return DocumentDeleted(key, _provenance(record, headers), ERASED in headers)
    wire = _decode(_changed_v1.decode, record)
    return DocumentChanged(
        key=key,
        text=wire.text,
        metadata=wire.metadata,
        media_type=wire.media_type,
        digest=wire.digest,
        provenance=_provenance(record, headers),
        omitted=wire.omitted,
        size=wire.size,
    )


def supersedes(record: Record) -> bool:
    """True if a record of the documents topic makes earlier ones of its key needless: it is one
    that this version reads, and no null, which says nothing about the document.
    """
    try:
        return record.value is not None and bool(_open(record, "changed", "deleted"))
    except (MalformedRecord, NewerSchema):
        return False


def is_delete(record: Record) -> bool:
    """True if a record of the documents topic says that its document is gone; a null says nothing."""
    try:
        return record.value is not None and _open(record, "changed", "deleted")[0] == "deleted"
    except (MalformedRecord, NewerSchema):
        return False


def encode_chunked(document: ChunkedDocument) -> Encoded:
    """A chunked document as a record of a chunks topic.

    Raises:
        Poison: as :func:`encode_event`.
    """
    sections: dict[tuple[tuple[str, ...], str], int] = {}
    spans = []
    for chunk in document.chunks:
        section = sections.setdefault((chunk.headings, chunk.context), len(sections))
        spans.append(_Span(chunk.start, chunk.end, chunk.content_hash, chunk.tokens, section))
    wire = _Chunked(
        version=document.version,
        state=document.state,
        text=document.text,
        sections=[_Section(headings, context) for headings, context in sections],
        chunks=spans,
        metadata=_metadata(document.metadata),
        media_type=document.media_type,
        reason=document.reason,
        replay=document.replay,
        erased=document.erased,
    )
    headers = (
        *_headers("chunked", document.provenance),
        (GENERATION, document.generation.encode()),
        # Also here: of a value that cannot be read, the head can still say that this version failed.
        (VERSION, str(document.version).encode()),
    )
    return Encoded(document.key.to_bytes(), _encode(wire), headers)


def decode_chunked(record: Record) -> ChunkedDocument:
    """A record of a chunks topic.

    Raises:
        NewerSchema: written by a later version; the partition waits.
        MalformedRecord: no version of ours wrote this.
    """
    _, headers = _open(record, "chunked")
    wire = _decode(_chunked_v1.decode, record)
    try:
        generation = headers[GENERATION].decode()
        chunks = tuple(
            ChunkSpan(
                span.start,
                span.end,
                span.hash,
                span.tokens,
                wire.sections[span.section].headings,
                wire.sections[span.section].context,
            )
            for span in wire.chunks
        )
    except (KeyError, IndexError, UnicodeDecodeError, AttributeError) as error:
        raise MalformedRecord(f"{_place(record)}: {type(error).__name__} {error}") from None
    if any(not 0 <= chunk.start <= chunk.end <= len(wire.text) for chunk in chunks):
        raise MalformedRecord(f"{_place(record)}: a chunk's span lies outside the text")
    return ChunkedDocument(
        key=_key(record),
        version=wire.version,
        generation=generation,
        state=wire.state,
        provenance=_provenance(record, headers),
        text=wire.text,
        chunks=chunks,
        metadata=wire.metadata,
        media_type=wire.media_type,
        reason=wire.reason,
        replay=wire.replay,
        erased=wire.erased,
    )


def unreadable(record: Record, generation: str, version: int | None = None) -> ChunkedDocument | None:
    """What is left of a record whose value cannot be read: this version of its document failed.

    Args:
        record: of the documents topic or of a chunks topic.
        generation: of the reader.
        version: of the document; None: as the record's headers say.

    Returns:
        None if the key or the version cannot be read either.
    """
    try:
        key = DocumentKey.from_bytes(record.key or b"")
        at = int(dict(record.headers)[VERSION]) if version is None else version
    except (MalformedRecord, KeyError, ValueError, TypeError):
        return None
    if not 0 <= at < MAX_EPOCH << OFFSET_BITS:
        return None
    happened = event_time(record)
    provenance = Provenance(record.timestamp if happened is None else happened)
    return ChunkedDocument(key, at, generation, "failed", provenance)


def encode_dead_letter(letter: DeadLetter) -> Encoded:
    """A dead letter; its key is :attr:`DeadLetter.id`."""
    wire = _DeadLetter(
        generation=letter.generation,
        stage=letter.stage,
        topic=letter.origin.topic,
        partition=letter.origin.partition,
        offset=letter.origin.offset,
        version=letter.version,
        reason=letter.reason,
        detail=letter.detail,
        attempts=letter.attempts,
        failed_at=letter.failed_at,
        key=letter.record_key,
        value=letter.record_value,
        headers=list(letter.record_headers),
    )
    return Encoded(letter.id.encode(), _encode(wire), ((KIND, b"dead-letter"), (SCHEMA, b"1")))


def decode_dead_letter(record: Record) -> DeadLetter | None:
    """A record of the dead-letters topic; None for a null value, which says: resolved.

    Raises:
        NewerSchema, MalformedRecord: as above.
    """
    if record.value is None:
        return None
    _open(record, "dead-letter")
    wire = _decode(_dead_letter_v1.decode, record)
    return DeadLetter(
        generation=wire.generation,
        stage=wire.stage,
        origin=Origin(wire.topic, wire.partition, wire.offset),
        version=wire.version,
        reason=wire.reason,
        detail=wire.detail,
        attempts=wire.attempts,
        failed_at=wire.failed_at,
        record_key=wire.key,
        record_value=wire.value,
        record_headers=tuple(wire.headers),
    )


def event_time(record: Record) -> float | None:
    """The source's event time in a record's headers, in seconds since 1970, without decoding it."""
    for name, value in record.headers:
        if name == EVENT_TIME:
            try:
                time = float(value)
            except (ValueError, TypeError):
                return None
            return time if math.isfinite(time) else None
    return None


def _headers(kind: str, provenance: Provenance) -> Headers:
    headers: list[tuple[str, bytes]] = [
        (KIND, kind.encode()),
        (SCHEMA, str(SCHEMAS[kind]).encode()),
        (EVENT_TIME, repr(provenance.event_time).encode()),
    ]
    if provenance.backfill:
        headers.append((TRAFFIC, b"backfill"))
    if provenance.traceparent:
        headers.append((TRACEPARENT, provenance.traceparent.encode("ascii", "ignore")))
    return tuple(headers)


def _open(record: Record, *kinds: str) -> tuple[str, dict[str, bytes]]:
    headers = dict(record.headers)
    try:
        kind = headers[KIND].decode()
        schema = int(headers[SCHEMA])
    except (KeyError, ValueError, AttributeError, TypeError):  # the last two: a header of null
        raise MalformedRecord(f"{_place(record)} lacks the headers {KIND} and {SCHEMA}") from None
    # The number first: a later version may have kinds that we have never heard of.
    if schema > SCHEMAS.get(kind, max(SCHEMAS.values())):
        raise NewerSchema(
            f"{_place(record)} has schema {schema} of {kind!r}; this vectide knows up to {SCHEMAS.get(kind, 0)}: "
            "upgrade",
            _UPGRADE_POLL_SECONDS,
        )
    if kind not in kinds or schema < 1:
        raise MalformedRecord(f"{_place(record)} is of kind {kind!r}, schema {schema}; expected {' or '.join(kinds)}")
    return kind, headers


def _provenance(record: Record, headers: Mapping[str, bytes]) -> Provenance:
    time = event_time(record)
    if time is None:
        raise MalformedRecord(f"{_place(record)}: header {EVENT_TIME} is missing or not a number")
    return Provenance(
        event_time=time,
        traceparent=(headers.get(TRACEPARENT) or b"").decode("ascii", "ignore"),
        backfill=headers.get(TRAFFIC) == b"backfill",
    )


def _metadata(metadata: Metadata) -> dict[str, MetadataValue]:
    for name, value in metadata.items():
        # JSON has no NaN: it would be written as null, which no decoder takes.
        if isinstance(value, float) and not math.isfinite(value):
            raise Poison("bad_metadata", f"metadata {name!r} is {value}")
        if isinstance(value, int) and value not in _WHOLE:
            raise Poison("bad_metadata", f"metadata {name!r} is a number of more than 64 bits")
    return dict(metadata)


def _key(record: Record) -> DocumentKey:
    if record.key is None:
        raise MalformedRecord(f"{_place(record)} has no key")
    return DocumentKey.from_bytes(record.key)


def _encode(wire: Any) -> bytes:
    try:
        return _encoder.encode(wire)
    except UnicodeEncodeError as error:
        raise Poison("not_unicode", f"a text or metadata value cannot be encoded as UTF-8: {error}") from None
    except (OverflowError, TypeError) as error:
        raise Poison("bad_metadata", f"a metadata value cannot be written as JSON: {error}") from None


def _decode(decode: Callable[[bytes], _T], record: Record) -> _T:
    try:
        return decode(record.value or b"")
    except UNREADABLE as error:
        raise MalformedRecord(f"{_place(record)}: {error}") from None


def _place(record: Record) -> str:
    return f"record {record.topic}[{record.partition}]@{record.offset}"
