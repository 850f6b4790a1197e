"""When a source that nobody tells of changes is to be listed again."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.ports import Hint


class Polling:
    """Used by one thread, but for the event.

    Args:
        seconds: from one listing to the next.
        closed: wakes who waits, for good.
    """

    def __init__(self, seconds: float, closed: threading.Event) -> None:
        self._seconds = seconds
        self._closed = closed
        self._next = 0.0

    @contextmanager
    def listing(self) -> Iterator[None]:
        """One that takes longer than the time between two asks for no other; the time runs from its end."""
        self._next = math.inf
        try:
            yield
        finally:
            self._ended()

    def hints(self, timeout: float) -> list[Hint]:
        """A scan whenever it is time for one; waits for that."""
        if self._closed.wait(max(0.0, min(timeout, self._next - time.monotonic()))):
            return []
        if time.monotonic() < self._next:
            return []
        self._ended()
        return [Hint(None)]

    def _ended(self) -> None:
        self._next = time.monotonic() + self._seconds
