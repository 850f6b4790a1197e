"""kafka-python's errors as ours, by what should happen next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from kafka import errors

from pipeline.deadline import Deadline
from pipeline.errors import (
    BrokerUnavailable,
    ConfigError,
    Fatal,
    Fenced,
    NotAllowed,
    PartitionsLost,
    Poison,
    VectideError,
)

T = TypeVar("T")

_LOST = (
    errors.CommitFailedError,
    errors.IllegalGenerationError,
    errors.UnknownMemberIdError,
    errors.FencedInstanceIdError,
)
_FENCED = (errors.ProducerFencedError, errors.InvalidProducerEpochError, errors.TransactionCoordinatorFencedError)
#: The cluster's answer to who we are; it does not change by asking again.
REFUSED = (
    errors.AuthorizationError,
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.UnsupportedVersionError,
)


@contextmanager
def translated(what: str, *, writing: bool = False, place: str = "kafka") -> Iterator[None]:
    """Raise ours for theirs.

    Args:
        what: was done, for the text.
        writing: records were sent. Only these can be refused for what they are, and only their
            producer can be fenced; as the answer to any other request that is a broker's confusion.
        place: of the cluster's settings in the configuration, for the texts of errors.
    """
    try:
        yield
    except VectideError:
        raise
    except _LOST as error:
        raise PartitionsLost(f"{what}: {error}") from None
    except errors.AuthorizationError as error:
        raise NotAllowed(
            f"{what}: Kafka refuses: {error}", "`vectide topics rights` lists the ACLs that each role needs"
        ) from None
    except REFUSED as error:
        raise Fatal(f"{what}: Kafka refuses: {error}", f"check {place}.sasl_* and the broker's version") from None
    except errors.UnsupportedCodecError as error:
        raise ConfigError(
            f"{what}: records are compressed: {error}", "pip install 'vectide[kafka-codecs]' reads lz4, snappy and zstd"
        ) from None
    except errors.KafkaConfigurationError as error:
        raise ConfigError(f"{what}: {error}", f"correct {place}.options") from None
    except (errors.KafkaError, OSError, TimeoutError) as error:
        if writing:
            _raise_refusal(what, error)
        raise BrokerUnavailable(f"{what}: {type(error).__name__} {error}".rstrip()) from None


def _raise_refusal(what: str, error: Exception) -> None:
    """Raise if the records, or the producer that sent them, will never be taken."""
    if isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError):
        raise Poison("record_too_large", f"{what}: {error}") from None
    if isinstance(error, errors.InvalidRecordError):
        raise Poison("record_refused", f"{what}: {error}") from None
    # What the sender's thread was told first, kafka-python wraps for the next record.
    if any(isinstance(cause, _FENCED) for cause in (error, *error.args)):
        raise Fenced(f"{what}: another process has taken over", "one writer per source: stop the other one") from None


def within(deadline: Deadline, what: str, operation: Callable[[], T]) -> T:
    """Run what has no timeout of its own; after the deadline it is left behind in its thread.

    Raises:
        BrokerUnavailable: the deadline has passed; it may still happen.
    """
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(operation())
        except BaseException as error:  # kept, and raised by the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, name=f"kafka {what}", daemon=True)
    thread.start()
    thread.join(min(deadline.remaining(), threading.TIMEOUT_MAX))
    if failure:
        raise failure[0]
    if not result:
        raise BrokerUnavailable(f"{what}: no answer in time")
    return result[0]
