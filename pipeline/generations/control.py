"""The control topic: which generations there are, what they are made of and which one is live.

It is the truth that every worker and searcher follows; configuration only proposes. One
transactional id writes it, so a second operator is fenced. The topic has one partition and is
compacted; its keys are::

    log                         the documents topic's epoch and topic id
    generation/<id>             the generation's spec and present state
    transition/<id>/<n>.<m>     one change of it, kept for ever: the history
    request/<id>                what a source's own writer is asked to do (docs/adr/0004)

This module reads; :mod:`pipeline.generations.operator` writes what
:mod:`pipeline.generations.transitions` decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

import msgspec

from pipeline.codec import UNREADABLE
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, LogDiverged, MalformedRecord, NewerSchema, VectideError
from pipeline.identity import DocumentKey
from pipeline.naming import Names
from pipeline.ports import Broker, NewRecord, Reader, Record
from pipeline.records import Request, RequestKind
from pipeline.specs import GenerationSpec

State: TypeAlias = Literal["building", "ready", "live", "previous", "retired", "aborted", "failed"]
#: Workers follow a generation in one of these states.
FOLLOWED: Final[frozenset[State]] = frozenset({"building", "ready", "live", "previous"})
#: A migration to a generation in one of these states has not come to its end.
UNDER_WAY: Final[frozenset[State]] = frozenset({"building", "ready"})

_SCHEMA: Final = 1
_READ_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation as ``control`` knows it."""

    spec: GenerationSpec
    state: State
    since: float
    """When it took this state, in seconds since 1970."""
    transitions: int = 1
    """How often it was changed. A decision names the count that it was made on."""
    begun: float = 0.0
    """When it was founded or its migration was started, in seconds since 1970."""
    paused: bool = False
    throttle: float = 1.0
    """The share of the time that building it may take."""
    adjustments: int = 0
    """How often it was paused, resumed or throttled."""

    @property
    def id(self) -> str:
        """Its name, a fingerprint of its spec."""
        return self.spec.id


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of a generation, as the history keeps it."""

    generation: str
    state: State
    """After it."""
    at: float
    """Seconds since 1970."""
    reason: str
    details: Mapping[str, Any] = field(default_factory=dict)
    """What a gate found, or what was forced."""


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """Which documents topic all versions come from."""

    epoch: int
    topic_id: str


@dataclass(frozen=True, slots=True)
class ControlState:
    """Everything that ``control`` says, as of one moment."""

    log: LogIdentity | None = None
    generations: dict[str, Generation] = field(default_factory=dict)
    history: tuple[Transition, ...] = ()
    """In the order in which it was written."""
    requests: dict[str, Request] = field(default_factory=dict)
    """By id."""

    @property
    def asked(self) -> list[Request]:
        """All requests in the order in which they were asked: a record that closes one comes later."""
        return sorted(self.requests.values(), key=lambda one: one.number)

    @property
    def live(self) -> Generation | None:
        """The generation that searches read; None before the first one is founded."""
        return next((one for one in self.generations.values() if one.state == "live"), None)

    @property
    def followed(self) -> list[Generation]:
        """Those that workers keep in step with the log, live first."""
        found = [one for one in self.generations.values() if one.state in FOLLOWED]
        return sorted(found, key=lambda one: (one.state != "live", one.since))

    @property
    def target(self) -> Generation | None:
        """The generation that a migration is building, or has built; at most one."""
        return next((one for one in self.generations.values() if one.state in UNDER_WAY), None)

    @property
    def previous(self) -> Generation | None:
        """The one that a rollback makes live again: the last that was, by the order of the history
        and not by the clocks of those who wrote it.
        """
        for entry in reversed(self.history):
            found = self.generations.get(entry.generation)
            if entry.state == "previous" and found is not None and found.state == "previous":
                return found
        return None


class _Log(msgspec.Struct):
    schema: int
    epoch: int
    topic_id: str


class _Generation(msgspec.Struct):
    schema: int
    spec: dict[str, object]
    state: State
    since: float
    transitions: int
    begun: float = 0.0
    paused: bool = False
    throttle: float = 1.0
    adjustments: int = 0


class _Transition(msgspec.Struct):
    schema: int
    generation: str
    state: State
    at: float
    reason: str
    details: dict[str, Any] = {}


class _Request(msgspec.Struct, omit_defaults=True):
    schema: int
    kind: RequestKind
    source: str
    at: float
    number: int = 0
    keys: list[str] = []
    before: dict[int, int] = {}
    older: float = 0.0
    since: int = 0
    closed: float = 0.0


class Control:
    """Follows the control topic; used by one thread.

    :meth:`refresh` is cheap when nothing happened: a follower calls it a few times a second.
    """

    def __init__(self, broker: Broker, names: Names) -> None:
        self._broker = broker
        self._names = names
        self._reader: Reader | None = None
        self._state = ControlState()

    @property
    def state(self) -> ControlState:
        """As of the last :meth:`refresh`."""
        return self._state

    def refresh(self, timeout: float = 0.0) -> ControlState:
        """Read what was written since; the first call reads everything that is there.

        Raises:
            BrokerUnavailable: no answer, or not to the end in time; call again.
            NewerSchema: a later vectide wrote here: upgrade this process.
            MalformedRecord: somebody else wrote here.
        """
        deadline = Deadline.after(_READ_SECONDS)
        state = self._state
        if self._reader is None:
            self._reader = self._broker.reader(self._names.control)
            state = ControlState()
        try:
            records = self._reader.poll(timeout, 500)
            while records or not self._reader.caught_up():
                if deadline.expired:
                    raise BrokerUnavailable(f"{self._names.control} was not read to its end in {_READ_SECONDS:.0f} s")
                for record in records:
                    state = apply(state, record)
                records = self._reader.poll(0.05 if not self._reader.caught_up() else 0.0, 500)
        except VectideError:
            # Half of the truth is none: the state stays as it was, and the next call reads all of it.
            self.close()
            raise
        self._state = state
        return state

    def close(self) -> None:
        """Stop following."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def apply(state: ControlState, record: Record) -> ControlState:
    """The state after one more record. Pure."""
    key = (record.key or b"").decode(errors="replace")
    if record.value is None:
        # Only requests that are over are ever forgotten.
        left = {id: one for id, one in state.requests.items() if key != f"request/{id}"}
        return state if len(left) == len(state.requests) else replace(state, requests=left)
    try:
        schema = msgspec.json.decode(record.value)["schema"]
        if schema > _SCHEMA:
            raise NewerSchema(f"control record {key!r} has schema {schema}; this vectide knows {_SCHEMA}", 10.0)
        if schema < 1:
            raise ValueError(f"there is no schema {schema}")
        if key == "log":
            log = msgspec.json.decode(record.value, type=_Log)
            return replace(state, log=LogIdentity(log.epoch, log.topic_id))
        if key.startswith("generation/"):
            wire = msgspec.json.decode(record.value, type=_Generation)
            generation = Generation(
                GenerationSpec.model_validate(wire.spec),
                wire.state,
                wire.since,
                wire.transitions,
                wire.begun,
                wire.paused,
                wire.throttle,
                wire.adjustments,
            )
            return replace(state, generations={**state.generations, generation.id: generation})
        if key.startswith("transition/"):
            entry = msgspec.json.decode(record.value, type=_Transition)
            transition = Transition(entry.generation, entry.state, entry.at, entry.reason, entry.details)
            return replace(state, history=(*state.history, transition))
        if key.startswith("request/"):
            request = _request(key.removeprefix("request/"), record.value)
            return replace(state, requests={**state.requests, request.id: request})
    except (*UNREADABLE, KeyError, TypeError, ValueError, MalformedRecord) as error:
        raise MalformedRecord(f"control record {key!r} at offset {record.offset}: {error}") from None
    return state


def check_log(state: ControlState, log: LogIdentity) -> None:
    """Refuse to work on another log than the one that all versions in the store come from.

    Raises:
        LogDiverged: the topic was deleted and made again, or the epoch was changed in place.
    """
    if state.log is not None and state.log != log:
        raise LogDiverged(
            f"the documents topic of epoch {log.epoch} has id {log.topic_id}, but every version in the store comes "
            f"from epoch {state.log.epoch}, topic id {state.log.topic_id}: its offsets start anew and older text "
            "would win over newer",
            "restore the topic, or set pipeline.epoch to a number never used before and start a new generation",
        )


def log_record(names: Names, log: LogIdentity) -> NewRecord:
    """Which log all versions come from, as a record."""
    return NewRecord(names.control, b"log", msgspec.json.encode(_Log(_SCHEMA, log.epoch, log.topic_id)))


def change_records(names: Names, generation: Generation, transition: Transition) -> list[NewRecord]:
    """A generation after a change, and the entry of its history, as records."""
    wire = _Generation(
        _SCHEMA,
        generation.spec.model_dump(mode="json"),
        generation.state,
        generation.since,
        generation.transitions,
        generation.begun,
        generation.paused,
        generation.throttle,
        generation.adjustments,
    )
    entry = _Transition(
        _SCHEMA,
        transition.generation,
        transition.state,
        transition.at,
        transition.reason,
        dict(transition.details),
    )
    number = f"transition/{generation.id}/{generation.transitions}.{generation.adjustments}"
    return [
        NewRecord(names.control, f"generation/{generation.id}".encode(), msgspec.json.encode(wire)),
        NewRecord(names.control, number.encode(), msgspec.json.encode(entry)),
    ]


def request_record(names: Names, request: Request) -> NewRecord:
    """A request as a record."""
    wire = _Request(
        _SCHEMA,
        request.kind,
        # As the source of a key: it may have bytes that are not UTF-8.
        DocumentKey(request.source, "").text,
        request.at,
        request.number,
        [DocumentKey(request.source, path).text for path in request.paths],
        dict(request.before),
        request.older,
        request.since,
        request.closed,
    )
    return NewRecord(names.control, f"request/{request.id}".encode(), msgspec.json.encode(wire))


def forgotten_record(names: Names, request: Request) -> NewRecord:
    """The null that removes a request that is over and has no effect any more."""
    return NewRecord(names.control, f"request/{request.id}".encode(), None)


def _request(id: str, value: bytes) -> Request:
    wire = msgspec.json.decode(value, type=_Request)
    source = DocumentKey.from_text(wire.source).source
    paths = tuple(DocumentKey.from_text(key).path for key in wire.keys)
    return Request(id, wire.kind, source, wire.at, wire.number, paths, wire.before, wire.older, wire.since, wire.closed)


def read(broker: Broker, names: Names) -> ControlState:
    """What ``control`` says now.

    Raises:
        BrokerUnavailable, NewerSchema, MalformedRecord: see :meth:`Control.refresh`.
    """
    control = Control(broker, names)
    try:
        return control.refresh()
    finally:
        control.close()
