"""What is published together: document events, and with each what it makes known of its document."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from connectors.state import Known, State
from pipeline.codec import Encoded, encode_event
from pipeline.errors import Poison
from pipeline.identity import DocumentKey, Metadata, MetadataValue, canonical_json, content_hash
from pipeline.ports import Fetched, NewRecord
from pipeline.records import TOO_LARGE, DocumentChanged, DocumentDeleted, DocumentEvent, Provenance

#: Headers and framing of a record and of its state.
_OVERHEAD_BYTES: Final = 512
#: Of the metadata of a record that was too large, one after another until the log takes it. A documents topic of ours
#: has 1 MiB for what is around a text, one of another's making may take less.
_METADATA_BYTES: Final = (512 * 1024, 16 * 1024, 0)


@dataclass(frozen=True, slots=True)
class Pending:
    """One event that waits to be published."""

    event: DocumentEvent
    known: Known | None
    """What is known once it is published; None after a delete."""
    records: tuple[NewRecord, NewRecord]

    @property
    def path(self) -> str:
        """Of the document."""
        return self.event.key.path

    @property
    def kind(self) -> Literal["changed", "deleted"]:
        """As metrics call it."""
        return "deleted" if self.known is None else "changed"

    @property
    def size(self) -> int:
        """Bytes of its records, about."""
        return sum(len(one.key or b"") + len(one.value or b"") for one in self.records) + _OVERHEAD_BYTES


class Batch:
    """Events of one transaction. Creates and changes come first, so that a rename finds vectors."""

    def __init__(self, pending: Iterable[Pending] = ()) -> None:
        self._pending = {one.path: one for one in pending}
        self.size = sum(one.size for one in self._pending.values())

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[Pending]:
        return iter(sorted(self._pending.values(), key=lambda one: one.known is None))

    def add(self, one: Pending) -> None:
        """Add an event; it replaces an older one of the same document."""
        older = self._pending.pop(one.path, None)
        self.size += one.size - (0 if older is None else older.size)
        self._pending[one.path] = one

    def get(self, path: str) -> Pending | None:
        """The event of a document that waits here."""
        return self._pending.get(path)

    def records(self) -> list[NewRecord]:
        """All records: the events, in order, then what they make known."""
        pending = list(self)
        return [one.records[0] for one in pending] + [one.records[1] for one in pending]

    def known(self) -> dict[str, Known | None]:
        """What is known once it is published."""
        return {one.path: one.known for one in self._pending.values()}


def known_of(fetched: Fetched) -> Known:
    """What is known of a document once this is published."""
    facts = [fetched.media_type, dict(fetched.metadata), fetched.omitted, fetched.text is None]
    return Known(fetched.revision, fetched.digest, content_hash(canonical_json(facts).decode()))


def encoded(key: DocumentKey, fetched: Fetched, provenance: Provenance) -> tuple[DocumentChanged, Encoded]:
    """A document as it is published, and its record. What is not Unicode is left out, and it says so."""
    event = DocumentChanged(
        key=key,
        text=fetched.text,
        metadata=fetched.metadata,
        media_type=fetched.media_type,
        digest=fetched.digest,
        provenance=provenance,
        omitted=fetched.omitted,
        size=fetched.size,
    )
    try:
        return event, encode_event(event)
    except Poison as error:
        sound = {name: value for name, value in event.metadata.items() if _sound([name, value])}
        text = event.text if event.text is not None and _sound([event.text]) else None
        omitted = event.omitted if text is not None or event.omitted else error.detail
        event = replace(event, text=text, metadata=sound, omitted=omitted)
        return event, encode_event(event)


def unreadable(path: str, revision: str, why: Poison) -> Fetched:
    """A document that can never be read as it is, as it is published: without its text."""
    return Fetched(path, revision, None, content_hash(f"{why.reason}: {why.detail}"), "", {}, 0.0, 0, why.detail)


def changed(topic: str, state: State, key: DocumentKey, fetched: Fetched, provenance: Provenance) -> Pending:
    """The event of a document as it is now."""
    event, record = encoded(key, fetched, provenance)
    # Of what was fetched and not of what is left of it: the next look must find it unchanged.
    known = known_of(fetched)
    return Pending(event, known, (NewRecord(topic, *record), state.record(key.path, known)))


def deleted(topic: str, state: State, key: DocumentKey, provenance: Provenance) -> Pending:
    """The event of a document that is gone."""
    event = DocumentDeleted(key, provenance)
    return Pending(event, None, (NewRecord(topic, *encode_event(event)), state.record(key.path, None)))


def smaller(topic: str, one: Pending, why: str) -> Pending | None:
    """The same event for a log that has refused it for its size: without its text, and with metadata, for who may find
    a document does not depend on its length. If that is refused, too, with fewer, the short ones first; None if nothing
    is left to leave out.
    """
    event = one.event
    if not isinstance(event, DocumentChanged):
        return None  # a delete is a few bytes
    size = _written_bytes(event.metadata)
    limits = [limit for limit in _METADATA_BYTES if event.text is not None or limit < size]
    if not limits or (event.text is None and not event.metadata):
        return None
    omitted = event.omitted if event.omitted.startswith(TOO_LARGE) else f"{TOO_LARGE}: {why}"
    event = replace(event, text=None, metadata=_shortest(event.metadata, limits[0]), omitted=omitted)
    return replace(one, event=event, records=(NewRecord(topic, *encode_event(event)), one.records[1]))


def traceparent() -> str:
    """A new W3C trace context: an event begins a trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def _shortest(metadata: Metadata, limit: int) -> Metadata:
    """Of metadata those that fit, the shortest ones first; in their own order."""
    kept: dict[str, MetadataValue] = {}
    left = limit
    for name, value in sorted(metadata.items(), key=lambda pair: _written_bytes(dict([pair]))):
        left -= _written_bytes({name: value})
        if left < 0:
            break
        kept[name] = value
    return {name: value for name, value in metadata.items() if name in kept}


def _written_bytes(metadata: Metadata) -> int:
    return len(canonical_json(dict(metadata)))


def _sound(value: object) -> bool:
    """True if a text, a list of texts or a scalar is valid Unicode."""
    match value:
        case str():
            return not any("\ud800" <= char <= "\udfff" for char in value)
        case list():
            return all(_sound(item) for item in value)
        case _:
            return True
