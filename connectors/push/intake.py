"""The bounded queue between those who listen for senders and the one writer: group commit.

While one transaction is written, requests gather for the next one.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from connectors.push.operations import Operation, Outcome, Patch
from connectors.push.ordering import Standing
from pipeline.deadline import Deadline
from pipeline.errors import Backpressure, Transient

_RETRY_SECONDS: Final = 1.0
#: Between two looks at how far the pipeline is behind lie five seconds.
_BEHIND_SECONDS: Final = 10.0
#: Each reads the log: more of them wait for the next transaction.
PATCHES: Final = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the queue and of one transaction."""

    queue_operations: int = 2_000
    queue_bytes: int = 64 * 1024 * 1024
    group_operations: int = 500
    group_bytes: int = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Idempotency:
    """What makes two requests the same one."""

    name: str
    """Of its mark: by the key and by whoever sent it."""
    fingerprint: str
    """Another one under the same name is another request, which is refused."""


class KeyReused(Exception):
    """An idempotency key came with another request before."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a request is answered once the log has it."""

    outcomes: tuple[Outcome, ...]
    replayed: bool = False
    """As it was answered before."""


@dataclass(slots=True, eq=False)
class Asked:
    """A request to write; its operations are one transaction, with those of other requests."""

    operations: tuple[Operation, ...]
    size: int
    """Bytes, about."""
    deadline: Deadline
    """What is not begun by then is not begun at all."""
    idempotency: Idempotency | None = None
    future: Future[Answered] = field(default_factory=Future)

    @property
    def patches(self) -> int:
        """How often the log must be read for it."""
        return sum(isinstance(one, Patch) for one in self.operations)


@dataclass(slots=True, eq=False)
class Looked:
    """A question what is known of a document."""

    path: str
    deadline: Deadline
    future: Future[Standing] = field(default_factory=Future)


Request: TypeAlias = Asked | Looked


class Intake:
    """Thread-safe; requests are taken by one thread.

    Args:
        limits: bounds.
    """

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._operations = 0
        self._bytes = 0
        self._away = "it is starting"
        self._behind = ""
        self._closed = False

    def submit(self, request: Request) -> None:
        """Queue a request; its future is resolved by the writer.

        Raises:
            Backpressure: there is no room, or the pipeline is too far behind; nothing was queued.
            Transient: the log does not answer, or this process ends; nothing was queued.
        """
        with self._changed:
            if self._closed:
                raise Transient("this process is ending")
            if self._away:
                raise Transient(f"nothing can be written now: {self._away}")
            if isinstance(request, Asked):
                if self._behind:
                    raise Backpressure(self._behind, _BEHIND_SECONDS)
                operations, size = self._operations + len(request.operations), self._bytes + request.size
                # What is larger than the queue by itself may wait alone.
                if self._waiting and (operations > self._limits.queue_operations or size > self._limits.queue_bytes):
                    raise Backpressure("too many requests are waiting to be written", _RETRY_SECONDS)
                self._operations, self._bytes = operations, size
            elif len(self._waiting) >= self._limits.queue_operations:
                raise Backpressure("too many requests are waiting", _RETRY_SECONDS)
            self._waiting.append(request)
            self._changed.notify()

    def take(self, timeout: float) -> list[Request]:
        """The requests of the next transaction, in the order in which they came; waits for the first one."""
        end = Deadline.after(timeout)
        with self._changed:
            while not self._waiting and not self._closed and not end.expired:
                self._changed.wait(end.remaining())
            taken: list[Request] = []
            operations = size = patches = 0
            while self._waiting:
                first = self._waiting[0]
                if isinstance(first, Asked):
                    full = (
                        operations + len(first.operations) > self._limits.group_operations
                        or size + first.size > self._limits.group_bytes
                        or patches + first.patches > PATCHES
                    )
                    if full and operations:
                        break
                    operations += len(first.operations)
                    size += first.size
                    patches += first.patches
                    self._operations -= len(first.operations)
                    self._bytes -= first.size
                taken.append(self._waiting.popleft())
            return taken

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        with self._changed:
            return len(self._waiting)

    def away(self, why: str) -> None:
        """Nothing can be written, for a reason; empty: it can."""
        with self._changed:
            self._away = why

    def behind(self, why: str) -> None:
        """The pipeline is too far behind, for a reason; empty: it is not."""
        with self._changed:
            self._behind = why

    def close(self) -> None:
        """Accept nothing more; what is queued can be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def refuse_all(self, why: Exception) -> None:
        """Answer all that is queued."""
        with self._changed:
            waiting, self._waiting = list(self._waiting), deque()
            self._operations = self._bytes = 0
        for one in waiting:
            refuse(one, why)


def refuse(request: Request, why: Exception) -> None:
    """Answer a request with an error."""
    with suppress(InvalidStateError):  # whoever asked has gone
        request.future.set_exception(why)


def answer(request: Asked, outcomes: tuple[Outcome, ...], *, replayed: bool = False) -> None:
    """Answer a request."""
    with suppress(InvalidStateError):
        request.future.set_result(Answered(outcomes, replayed))
