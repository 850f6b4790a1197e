"""What a pushed source remembers of its senders, in the state of the source and nowhere else.

Of a document that exists, its entry in ``connector-state`` has the sender's revision and the place of its last event.
Marks of the source have the rest: revisions of deleted documents, answers to requests with an idempotency key, and
which transaction was the last. The first two have a lifetime and a bound; what is beyond either is removed in the
next transaction, oldest first.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from connectors.duties import FORGOTTEN
from connectors.push.operations import Outcome, Place, Refusal, Result
from connectors.push.ordering import Content, Standing
from connectors.state import Known, State

log = logging.getLogger(__name__)

T = TypeVar("T")

#: The mark of the last transaction: whether one whose answer was lost has happened.
COMMIT: Final = "commit"
_DELETED: Final = "deleted/"
_ANSWER: Final = "answer/"
#: Marks that are removed with one transaction, so that it stays small.
_REMOVED: Final = 200


@dataclass(frozen=True, slots=True)
class Memory:
    """For how long, and how much at most, is remembered."""

    tombstone_seconds: float = 7 * 86_400.0
    tombstones: int = 100_000
    answer_seconds: float = 86_400.0
    answers: int = 100_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request with an idempotency key was answered."""

    fingerprint: str
    """Of the request, keyed with the idempotency key: without that it tells nothing of a text."""
    outcomes: tuple[Outcome, ...]


class _Deleted(msgspec.Struct, array_like=True):
    revision: int
    at: float


class _Outcome(msgspec.Struct, array_like=True):
    result: Result
    revision: int | None
    place: tuple[int, int, float] | None
    refusal: Refusal | None
    detail: str


class _Answer(msgspec.Struct, array_like=True):
    at: float
    fingerprint: str
    outcomes: list[_Outcome]


def known_of(revision: int, content: Content, place: Place) -> Known:
    """The state's entry of a document that exists."""
    said = msgspec.json.encode([revision, place.partition, place.offset, place.at]).decode()
    return Known(said, content.digest, content.facts)


def deleted_name(path: str) -> str:
    """The mark of a deleted document."""
    return _DELETED + path


def answer_name(digest: str) -> str:
    """The mark of a request with an idempotency key, by a hash of it and of whoever sent it."""
    return _ANSWER + digest


def encode_deleted(revision: int, at: float) -> bytes:
    """The value of a deleted document's mark."""
    return msgspec.json.encode(_Deleted(revision, at))


def encode_answer(answer: Answer, at: float) -> bytes:
    """The value of an answer's mark."""
    outcomes = [
        _Outcome(
            one.result,
            one.revision,
            None if one.place is None else (one.place.partition, one.place.offset, one.place.at),
            one.refusal,
            one.detail,
        )
        for one in answer.outcomes
    ]
    return msgspec.json.encode(_Answer(at, answer.fingerprint, outcomes))


class Ledger:
    """The memory of one source; one thread, the state's.

    Args:
        state: of the source.
        memory: bounds.
        clock: seconds since 1970.
    """

    def __init__(self, state: State, memory: Memory, clock: Callable[[], float] = time.time) -> None:
        self._state = state
        self._memory = memory
        self._clock = clock
        self._ages: dict[str, OrderedDict[str, float]] = {_DELETED: OrderedDict(), _ANSWER: OrderedDict()}
        self._told: set[str] = set()

    def load(self) -> None:
        """Take note of what the state has; after every take-over."""
        for prefix, ages in self._ages.items():
            found = [(self._age(prefix, value), name) for name, value in self._state.marks(prefix)]
            ages.clear()
            ages.update((name, at) for at, name in sorted(found))

    def standing(self, path: str) -> Standing:
        """What is known of a document."""
        known = self._state.get(path)
        if self._state.mark(FORGOTTEN) is not None or (known is not None and known.forgotten):
            return Standing(forgotten=True)
        if known is not None and known.published:
            revision, place = _entry(known.revision)
            return Standing(revision, Content(known.digest, known.facts), place)
        mark = self._state.mark(deleted_name(path))
        return Standing() if mark is None else Standing(_decoded(mark, _Deleted, _Deleted(0, 0.0)).revision)

    def answer(self, name: str) -> Answer | None:
        """What the request of this mark was answered; None: it is new, or too long ago."""
        mark = self._state.mark(name)
        if mark is None:
            return None
        found = _decoded(mark, _Answer, _Answer(0.0, "", []))
        if found.at + self._memory.answer_seconds <= self._clock():
            return None
        return Answer(found.fingerprint, tuple(_outcome(one) for one in found.outcomes))

    def commit(self) -> str:
        """Which transaction was the last."""
        return (self._state.mark(COMMIT) or b"").decode("utf-8", "replace")

    def outlived(self) -> list[str]:
        """Names of marks that may go, some of them."""
        now = self._clock()
        found: list[str] = []
        for prefix, seconds, most in (
            (_DELETED, self._memory.tombstone_seconds, self._memory.tombstones),
            (_ANSWER, self._memory.answer_seconds, self._memory.answers),
        ):
            ages = self._ages[prefix]
            over = len(ages) - most
            if over > 0 and prefix not in self._told:
                self._told.add(prefix)
                log.warning(
                    "more is to be remembered than the bound allows: the oldest are forgotten early",
                    extra={"marks": prefix.rstrip("/"), "bound": most},
                )
            for number, (name, at) in enumerate(ages.items()):
                if len(found) >= _REMOVED or (number >= over and at + seconds > now):
                    break
                found.append(name)
        return found

    def noted(self, marks: Mapping[str, bytes | None]) -> None:
        """These marks were written."""
        for name, value in marks.items():
            for prefix, ages in self._ages.items():
                if name.startswith(prefix):
                    ages.pop(name, None)
                    if value is not None:
                        ages[name] = self._age(prefix, value)

    @staticmethod
    def _age(prefix: str, value: bytes) -> float:
        if prefix == _DELETED:
            return _decoded(value, _Deleted, _Deleted(0, 0.0)).at
        return _decoded(value, _Answer, _Answer(0.0, "", [])).at


def _decoded(value: bytes, type_: type[T], otherwise: T) -> T:
    try:
        return msgspec.json.decode(value, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return otherwise  # of nobody that we know: as if it were long ago


def _entry(said: str) -> tuple[int, Place | None]:
    try:
        revision, partition, offset, at = msgspec.json.decode(said, type=tuple[int, int, int, float])
    except msgspec.MsgspecError:
        return 0, None  # of another connector under this id: any revision is newer
    return revision, Place(partition, offset, at)


def _outcome(one: _Outcome) -> Outcome:
    place = None if one.place is None else Place(*one.place)
    return Outcome(one.result, one.revision, place, one.refusal, one.detail)
