"""The control topic: which generations there are, what they are made of and which one is live.

It is the truth that every worker and searcher follows; configuration only proposes. One
transactional id writes it, so a second operator is fenced. The topic has one partition and is
compacted; its keys are::

    log                         the documents topic's epoch and topic id
    generation/<id>             the generation's spec and present state
    transition/<id>/<n>         one change of state, kept for ever: the history

What can fail: two processes found the first generation at once (the second is fenced, re-reads
and finds it made); a writer dies inside its transaction (aborted, nothing is seen).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

import msgspec

from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, Fenced, LogDiverged, MalformedRecord, NewerSchema, VectideError
from pipeline.naming import Names
from pipeline.ports import Broker, NewRecord, Reader, Record
from pipeline.specs import GenerationSpec

State: TypeAlias = Literal["building", "ready", "live", "previous", "retired", "aborted", "failed"]
#: Workers follow a generation in one of these states.
FOLLOWED: Final[frozenset[State]] = frozenset({"building", "ready", "live", "previous"})

_SCHEMA: Final = 1
_READ_SECONDS: Final = 30.0
_WRITE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation as ``control`` knows it."""

    spec: GenerationSpec
    state: State
    since: float
    """When it took this state, in seconds since 1970."""
    transitions: int = 1

    @property
    def id(self) -> str:
        """Its name, a fingerprint of its spec."""
        return self.spec.id


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

    @property
    def live(self) -> Generation | None:
        """The generation that searches read; None before the first one is founded."""
        return next((one for one in self.generations.values() if one.state == "live"), None)

    @property
    def followed(self) -> list[Generation]:
        """Those that workers keep in step with the log, live first."""
        found = [one for one in self.generations.values() if one.state in FOLLOWED]
        return sorted(found, key=lambda one: (one.state != "live", one.since))


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


class _Transition(msgspec.Struct):
    schema: int
    generation: str
    state: State
    at: float
    reason: str


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
        if self._reader is None:
            self._state = ControlState()
            self._reader = self._broker.reader(self._names.control)
        records = self._reader.poll(timeout, 500)
        while records or not self._reader.caught_up():
            if deadline.expired:
                # Half of the truth is none: a founder would take it for an empty topic.
                raise BrokerUnavailable(f"{self._names.control} was not read to its end in {_READ_SECONDS:.0f} s")
            try:
                for record in records:
                    self._state = apply(self._state, record)
            except VectideError:
                # What comes after it has been read, and must not be missed by the next call.
                self.close()
                raise
            records = self._reader.poll(0.05 if not self._reader.caught_up() else 0.0, 500)
        return self._state

    def close(self) -> None:
        """Stop following."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def apply(state: ControlState, record: Record) -> ControlState:
    """The state after one more record. Pure."""
    key = (record.key or b"").decode(errors="replace")
    if record.value is None:
        return state
    try:
        schema = msgspec.json.decode(record.value)["schema"]
        if schema > _SCHEMA:
            raise NewerSchema(f"control record {key!r} has schema {schema}; this vectide knows {_SCHEMA}", 10.0)
        if key == "log":
            log = msgspec.json.decode(record.value, type=_Log)
            return replace(state, log=LogIdentity(log.epoch, log.topic_id))
        if key.startswith("generation/"):
            wire = msgspec.json.decode(record.value, type=_Generation)
            generation = Generation(GenerationSpec.model_validate(wire.spec), wire.state, wire.since, wire.transitions)
            return replace(state, generations={**state.generations, generation.id: generation})
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
        raise MalformedRecord(f"control record {key!r} at offset {record.offset}: {error}") from None
    return state


def found(broker: Broker, names: Names, spec: GenerationSpec, log: LogIdentity) -> ControlState:
    """Make sure that there is a live generation: found ``spec`` as the first one if there is none.

    Idempotent, and safe from several processes at once: all see the same generation afterwards.

    Raises:
        LogDiverged: the documents topic is not the one that ``control`` knows.
        BrokerUnavailable: no answer.
    """
    state = _read(broker, names)
    while state.live is None or state.log is None:
        publisher = broker.transactional_publisher(names.operator)
        try:
            # Another founder may have been first: read again, now that nobody else can write.
            state = _read(broker, names)
            if state.live is None or state.log is None:
                publisher.publish(_founding(names, spec, log), Deadline.after(_WRITE_SECONDS))
                state = _read(broker, names)
        except Fenced:
            state = _read(broker, names)
        finally:
            publisher.close(Deadline.after(_WRITE_SECONDS))
    check_log(state, log)
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


def _founding(names: Names, spec: GenerationSpec, log: LogIdentity) -> list[NewRecord]:
    now = time.time()
    generation = _Generation(_SCHEMA, spec.model_dump(mode="json"), "live", now, 1)
    transition = _Transition(_SCHEMA, spec.id, "live", now, "the first generation")
    entries: list[tuple[str, msgspec.Struct]] = [
        ("log", _Log(_SCHEMA, log.epoch, log.topic_id)),
        (f"generation/{spec.id}", generation),
        (f"transition/{spec.id}/1", transition),
    ]
    return [NewRecord(names.control, key.encode(), msgspec.json.encode(value)) for key, value in entries]


def _read(broker: Broker, names: Names) -> ControlState:
    control = Control(broker, names)
    try:
        return control.refresh()
    finally:
        control.close()
