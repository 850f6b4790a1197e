"""kafka-python's errors as ours, by what should happen next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from kafka import errors

from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, ConfigError, Fatal, Fenced, PartitionsLost, Poison, VectideError

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
def translated(what: str) -> Iterator[None]:
    """Raise ours for theirs.

    Args:
        what: was done, for the text.
    """
    try:
        yield
    except VectideError:
        raise
    except _LOST as error:
        raise PartitionsLost(f"{what}: {error}") from None
    except _FENCED:
        raise _fenced(what) from None
    except (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError) as error:
        raise Poison("record_too_large", f"{what}: {error}") from None
    except REFUSED as error:
        raise Fatal(
            f"{what}: Kafka refuses: {error}", "check kafka.sasl_*, the ACLs and the broker's version"
        ) from None
    except errors.KafkaConfigurationError as error:
        raise ConfigError(f"{what}: {error}", "correct kafka.options") from None
    except (errors.KafkaError, OSError, TimeoutError) as error:
        # What the sender's thread was told first, kafka-python wraps for the next record.
        if any(isinstance(cause, _FENCED) for cause in error.args):
            raise _fenced(what) from None
        raise BrokerUnavailable(f"{what}: {type(error).__name__} {error}".rstrip()) from None


def _fenced(what: str) -> Fenced:
    return Fenced(f"{what}: another process has taken over", "one writer per source: stop the other one")


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
