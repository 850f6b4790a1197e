"""Every error that vectide raises, as one tree; the class decides what happens next.

::

    VectideError
    ├── Transient               try again, within the retry budget
    │   ├── BrokerUnavailable     Kafka does not answer, or not in time
    │   ├── StoreUnavailable      Qdrant does not answer, or not in time
    │   │   └── CollectionUnfinished  a collection is being made
    │   ├── SourceUnavailable     a source as a whole does not answer: none of it counts as deleted
    │   └── PartitionsLost        the group moved on: drop the batch, write no more
    ├── Backpressure            wait for ``retry_after`` seconds, then go on
    │   ├── StoreBusy             429 or 507 from the store
    │   └── NewerSchema           a record of a later vectide: the partition waits for an upgrade
    ├── Poison                  this record never succeeds: dead letter, with ``reason``
    │   ├── MalformedRecord       bytes that no decoder of ours understands
    │   └── BadVector             NaN, wrong dimension or wrong norm
    └── Fatal                   stop the process; the text says what to do
        ├── ConfigError           the configuration, a command-line argument or the environment
        ├── NotAllowed            Kafka or the store refuses this to whoever the process is there
        ├── Fenced                another process has taken over this writer's identity
        ├── LogDiverged           the log was replaced, truncated or its offsets were reused
        ├── TopicMismatch         a topic has settings that would lose data
        ├── FingerprintMismatch   vectors of another model or chunking
        ├── ForeignCollection     a collection that vectide did not make
        ├── CollectionMissing     a collection that should be there is not
        ├── RequestRefused        the store knows no such request, or a limit of its forbids it
        ├── StateInUse            a second process on the same embedded state
        └── Refused               what was asked for must not be done as things are
            └── GateRefused         a generation is not proven good enough to be searched
"""

from __future__ import annotations


class VectideError(Exception):
    """The root of all errors of vectide."""


class Transient(VectideError):
    """Something that passes: retried with backoff until a deadline."""


class BrokerUnavailable(Transient):
    """The broker does not answer, or not in time."""


class StoreUnavailable(Transient):
    """The vector store does not answer, or not in time. The request may have been applied."""


class CollectionUnfinished(StoreUnavailable):
    """A collection that is being made: it does not have all of its indexes yet."""


class SourceUnavailable(Transient):
    """A source as a whole does not answer: nothing that is missing now counts as deleted."""


class PartitionsLost(Transient):
    """The consumer group moved on without this member: drop the batch, write no more."""


class Backpressure(VectideError):
    """A dependency asks to be left alone for a while.

    Args:
        retry_after: seconds to wait before the next attempt.
    """

    def __init__(self, detail: str, retry_after: float) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class StoreBusy(Backpressure):
    """The store refuses for lack of rate (429) or of disk or memory (507)."""


class NewerSchema(Backpressure):
    """A record was written by a later vectide; the partition waits for the rolling upgrade."""


class Poison(VectideError):
    """A record that can never succeed: it becomes a dead letter.

    Args:
        reason: a short label of a bounded set, used in metrics and dead letters.
        detail: what exactly is wrong, for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class MalformedRecord(Poison):
    """Bytes that no decoder understands."""

    def __init__(self, detail: str) -> None:
        super().__init__("malformed_record", detail)


class BadVector(Poison):
    """A model returned a vector that must not be stored."""

    def __init__(self, detail: str) -> None:
        super().__init__("bad_vector", detail)


class Fatal(VectideError):
    """The process must stop; a person has to act.

    Args:
        what: what is wrong, naming the file, field or record.
        remedy: what to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(f"{what}\n  {remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy


class ConfigError(Fatal):
    """The configuration, a command-line argument or the environment is wrong."""

    exit_code = 2


class NotAllowed(Fatal):
    """Whoever this process is to Kafka or to the store lacks the right for what it asked."""


class Fenced(Fatal):
    """Another process has taken over this writer's transactional id."""

    exit_code = 3


class LogDiverged(Fatal):
    """The log was replaced, truncated, or its offsets were used twice."""

    exit_code = 4


class TopicMismatch(Fatal):
    """A topic exists with settings that would lose data."""

    exit_code = 4


class FingerprintMismatch(Fatal):
    """A collection or a record belongs to another model or chunking."""

    exit_code = 5


class ForeignCollection(Fatal):
    """A collection of that name exists, and vectide did not make it."""

    exit_code = 5


class CollectionMissing(Fatal):
    """A collection that should be there is not. Searchers resolve the live generation anew."""

    exit_code = 5


class RequestRefused(Fatal):
    """The store does not know a request, or a limit of its (strict mode) forbids it."""


class StateInUse(Fatal):
    """A second process wants the same embedded state."""

    exit_code = 6


class Refused(Fatal):
    """What an operator asked for must not be done as things are; nothing was changed."""

    exit_code = 8


class GateRefused(Refused):
    """A generation is not proven: behind, different from the log, or worse than the live one."""

    exit_code = 9


#: Of Transient and Backpressure: nothing is wrong with what was asked.
UNAVAILABLE = 7


def kind_of(error: Exception) -> str:
    """The name of the class above that an error is of: the adapters have finer ones, and metrics must not."""
    names = [one.__name__ for one in type(error).__mro__ if one.__module__ == __name__]
    return names[0] if names else "other"


def exit_code(error: VectideError) -> int:
    """The exit code of an error; docs/commands.md lists them."""
    if isinstance(error, Fatal):
        return error.exit_code
    if isinstance(error, Transient | Backpressure):
        return UNAVAILABLE
    return 2 if isinstance(error, Poison) else 1


def as_error(code: int, text: str) -> VectideError:
    """The error that another process ended with, from its exit code and text."""
    kinds: dict[int, type[VectideError]] = {
        2: ConfigError, 3: Fenced, 4: LogDiverged, 5: FingerprintMismatch, 6: StateInUse,
        UNAVAILABLE: Transient, 8: Refused, 9: GateRefused,
    }  # fmt: skip
    return kinds.get(code, Fatal)(text)
