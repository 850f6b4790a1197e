"""One transaction in the making: what requests lead to, decided one after the other against what is known by then.

Nothing is written here. A draft is made anew whenever the state may be another one than it was made from.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from connectors.batches import encoded, traceparent
from connectors.batches import known_of as content_of
from connectors.mapping import NAMES, TAKEN, Rule, fitted, mapped
from connectors.push.intake import Asked, KeyReused
from connectors.push.ledger import (
    COMMIT,
    Answer,
    Ledger,
    deleted_name,
    encode_answer,
    encode_deleted,
    known_of,
)
from connectors.push.operations import Delete, Document, Operation, Outcome, Patch, Place, Put
from connectors.push.ordering import Accepted, Content, Standing, decide
from connectors.state import Known, State
from pipeline.codec import encode_event
from pipeline.identity import DocumentKey, Metadata, MetadataValue, content_hash
from pipeline.ports import Fetched, NewRecord, Written
from pipeline.records import DocumentChanged, DocumentDeleted, Provenance

#: Reads the event of a document back from the log; None: it is not there.
Lookup = Callable[[DocumentKey, Place], DocumentChanged | None]

#: Those of senders, and of the document itself.
_NAMES: Final = 2 * NAMES
#: Where an event will be whose offset is not known yet.
_PENDING: Final = Place(-1, -1, 0.0)


@dataclass(slots=True)
class _Pending:
    """What a document is to be after the transaction."""

    standing: Standing
    event: NewRecord | None = None
    """None: its revision is another one, and nothing else."""
    deleted: bool = False
    fetched: Fetched | None = None
    had_tombstone: bool = False


@dataclass(slots=True)
class Ruling:
    """What becomes of one request."""

    request: Asked
    outcomes: list[Outcome]
    pending: list[bool]
    """Of each outcome: whether its place is that of an event of this transaction."""
    error: Exception | None = None
    replayed: bool = False


class Draft:
    """A transaction of one source.

    Args:
        source: its id.
        topic: of the documents.
        state: read up to the last transaction.
        ledger: over it.
        lookup: reads an event back.
        rules: for metadata.
        now: seconds since 1970.
    """

    def __init__(
        self,
        source: str,
        topic: str,
        state: State,
        ledger: Ledger,
        lookup: Lookup,
        rules: tuple[Rule, ...],
        now: float,
    ) -> None:
        self.token = secrets.token_hex(8)
        """Tells this transaction from any other."""
        self.rulings: list[Ruling] = []
        self.entries: dict[str, Known | None] = {}
        """What the state has of documents once it is written."""
        self.marks: dict[str, bytes | None] = {}
        self._source = source
        self._topic = topic
        self._state = state
        self._ledger = ledger
        self._lookup = lookup
        self._rules = rules
        self._now = now
        self._documents: dict[str, _Pending] = {}
        self._by_key: dict[str, Ruling] = {}
        self._places: dict[str, Place] = {}

    @property
    def empty(self) -> bool:
        """Nothing is to be written: all was answered before. What is refused, or only found to be as it should be, is
        written, too, for whoever finds it might not be the writer any more.
        """
        return not self.marks and all(one.replayed or one.error is not None for one in self.rulings)

    def add(self, request: Asked) -> None:
        """Decide on a request.

        Raises:
            Transient: the log cannot be read; make the draft anew.
        """
        key = request.idempotency
        if key is not None:
            earlier = self._ledger.answer(key.name)
            twin = self._by_key.get(key.name)
            before = earlier.fingerprint if earlier else twin.request.idempotency if twin else None
            before = before.fingerprint if not isinstance(before, str) and before is not None else before
            if before is not None and before != key.fingerprint:
                self.rulings.append(Ruling(request, [], [], KeyReused()))
                return
            if earlier is not None:
                self.rulings.append(
                    Ruling(request, list(earlier.outcomes), [False] * len(earlier.outcomes), None, True)
                )
                return
            if twin is not None:  # of the same moment: both get the one answer
                self.rulings.append(Ruling(request, twin.outcomes, twin.pending, None, True))
                return
        ruling = Ruling(request, [], [])
        for operation in request.operations:
            outcome = self._decide(operation)
            ruling.outcomes.append(outcome)
            ruling.pending.append(outcome.place is _PENDING)
        self.rulings.append(ruling)
        if key is not None and any(one.result != "refused" for one in ruling.outcomes):
            self._by_key[key.name] = ruling

    def tidy(self) -> None:
        """Let go what has outlived its time; of the marks that this transaction does not write itself."""
        for name in self._ledger.outlived():
            self.marks.setdefault(name, None)

    def events(self) -> list[NewRecord]:
        """The events, in order."""
        return [event for _, event, _ in self._ordered()]

    def then(self, written: Sequence[Written]) -> list[NewRecord]:
        """What the transaction makes known, from where its events went."""
        for (path, _, deleted), where in zip(self._ordered(), written, strict=True):
            if not deleted:
                self._places[path] = Place(where.partition, where.offset, self._now)
        for path, one in self._documents.items():
            standing = one.standing
            assert standing.revision is not None  # it was accepted
            if standing.content is None:
                self.entries[path] = None
                self.marks[deleted_name(path)] = encode_deleted(standing.revision, self._now)
            else:
                place = self._places.get(path, standing.place)
                assert place is not None  # it is there, so it was published
                self.entries[path] = known_of(standing.revision, standing.content, place)
                if one.had_tombstone:
                    self.marks[deleted_name(path)] = None
        for name, ruling in self._by_key.items():
            fingerprint = "" if ruling.request.idempotency is None else ruling.request.idempotency.fingerprint
            self.marks[name] = encode_answer(Answer(fingerprint, self.outcomes(ruling)), self._now)
        self.marks[COMMIT] = self.token.encode()
        known = [self._state.record(path, entry) for path, entry in self.entries.items()]
        return known + [self._state.mark_record(name, value) for name, value in self.marks.items()]

    def placed(self) -> None:
        """It was written after all, and the state has read it: take the places from there."""
        for path in self._documents:
            place = self._ledger.standing(path).place
            if place is not None:
                self._places[path] = place

    def outcomes(self, ruling: Ruling) -> tuple[Outcome, ...]:
        """What a request is answered, once it is known where events went."""
        found = []
        for operation, outcome, pending in zip(ruling.request.operations, ruling.outcomes, ruling.pending, strict=True):
            place = self._places.get(operation.path) if pending else outcome.place
            found.append(replace(outcome, place=place))
        return tuple(found)

    def _ordered(self) -> list[tuple[str, NewRecord, bool]]:
        """Paths, events, and whether they are deletes. Creates come before deletes: a rename finds vectors."""
        found = [(path, one.event, one.deleted) for path, one in self._documents.items() if one.event is not None]
        return sorted(found, key=lambda one: one[2])

    def changed(self) -> dict[str, int]:
        """How many events there are of each kind, as metrics call them."""
        events = [one for one in self._documents.values() if one.event is not None]
        deleted = sum(one.deleted for one in events)
        return {"changed": len(events) - deleted, "deleted": deleted}

    # ---------------------------------------------------------------------- one operation

    def _decide(self, operation: Operation) -> Outcome:
        path = operation.path
        pending = self._documents.get(path)
        standing = self._ledger.standing(path) if pending is None else pending.standing
        made: list[Fetched] = []

        def content(fetched: Fetched) -> Content:
            made.append(fetched)
            known = content_of(fetched)
            return Content(known.digest, known.facts)

        match operation:
            case Put():
                verdict = decide(
                    standing, operation.revision, operation.condition, lambda: content(self._fetched(operation))
                )
            case Patch():
                try:
                    verdict = decide(
                        standing,
                        operation.revision,
                        operation.condition,
                        lambda: content(self._patched(operation, standing)),
                        create=False,
                    )
                except _Impossible as error:
                    return Outcome("refused", standing.revision, standing.place, "patch-impossible", str(error))
            case Delete():
                verdict = decide(standing, operation.revision, operation.condition, None)
        if isinstance(verdict, Outcome):
            return verdict
        return self._accept(operation, standing, verdict, made[0] if made else None)

    def _accept(self, operation: Operation, before: Standing, verdict: Accepted, fetched: Fetched | None) -> Outcome:
        path = operation.path
        if not verdict.event and verdict.revision == before.revision:
            return Outcome("unchanged", before.revision, before.place)
        earlier = self._documents.pop(path, None)
        had = before.revision is not None and not before.exists if earlier is None else earlier.had_tombstone
        place = _PENDING if verdict.event and verdict.content is not None else before.place
        standing = Standing(verdict.revision, verdict.content, place)
        event = None if earlier is None else earlier.event
        if verdict.event:
            event = self._event(operation, fetched)
        gone = verdict.content is None
        self._documents[path] = _Pending(standing, event, gone, fetched or (earlier.fetched if earlier else None), had)
        if not verdict.event:
            return Outcome("unchanged", verdict.revision, standing.place)
        if gone:
            return Outcome("deleted", verdict.revision)
        return Outcome("changed" if before.exists else "created", verdict.revision, standing.place)

    def _event(self, operation: Operation, fetched: Fetched | None) -> NewRecord:
        provenance = Provenance(operation.event_time, traceparent())
        key = DocumentKey(self._source, operation.path)
        if fetched is None:
            return NewRecord(self._topic, *encode_event(DocumentDeleted(key, provenance)))
        return NewRecord(self._topic, *encoded(key, fetched, provenance)[1])

    def _fetched(self, operation: Put) -> Fetched:
        return self._mapped(_as_fetched(operation.path, operation.document, operation.event_time))

    def _patched(self, patch: Patch, standing: Standing) -> Fetched:
        """The document with a merge patch applied; the log has what it is now."""
        if self._rules:
            # What they made of metadata cannot be turned back into what was sent.
            raise _Impossible("this source has rules for metadata, which are made of whole documents: put it instead")
        now = self._present(patch.path, standing)
        document = patch.document
        if document is None:
            metadata = merged(now.metadata, patch.metadata)
        else:  # where its pages were, and what read it, is said of the text that is gone
            kept = {name: value for name, value in now.metadata.items() if name not in TAKEN}
            metadata = merged({**kept, **document.metadata}, patch.metadata)
        if document is not None:
            return _as_fetched(patch.path, replace(document, metadata=metadata), patch.event_time)
        return replace(now, metadata=metadata, event_time=patch.event_time)

    def _present(self, path: str, standing: Standing) -> Fetched:
        pending = self._documents.get(path)
        if pending is not None and pending.fetched is not None:
            return pending.fetched
        event = None if standing.place is None else self._lookup(DocumentKey(self._source, path), standing.place)
        if event is None:
            raise _Impossible("what it is now cannot be read back from the log: put it instead")
        return Fetched(
            path=path,
            revision="",
            text=event.text,
            digest=event.digest,
            media_type=event.media_type,
            metadata=event.metadata,
            event_time=event.provenance.event_time,
            size=event.size,
            omitted=event.omitted,
        )

    def _mapped(self, fetched: Fetched) -> Fetched:
        if not self._rules:
            return fetched
        metadata, unfit = mapped(self._rules, self._source, fetched)
        return replace(fetched, metadata=metadata, unfit=unfit)


class _Impossible(Exception):
    """A patch that cannot be right."""


def merged(metadata: Metadata, patch: Mapping[str, Any] | None) -> dict[str, MetadataValue]:
    """Metadata with a merge patch (RFC 7396) applied. What the document says of itself stays.

    Raises:
        connectors.mapping.Unfit: a value can be no metadata.
    """
    if patch is None:
        return {name: value for name, value in metadata.items() if name in TAKEN}
    found = dict(metadata)
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = fitted(value, None)
    if len(found) > _NAMES:
        raise _Impossible(f"it would have {len(found)} names of metadata, {_NAMES} at most")
    return found


def _as_fetched(path: str, document: Document, at: float) -> Fetched:
    return Fetched(
        path=path,
        revision="",
        text=document.text,
        digest=content_hash(document.text),
        media_type=document.media_type,
        metadata=document.metadata,
        event_time=at,
        size=len(document.text.encode()),
        found=document.found,
    )
