"""Deletes that are applied but for the sweep of their chunks, which a rename may still reuse."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from typing import Final

from pipeline.stages.window import Taken

#: Beyond it the oldest are swept early, which costs only vectors that a later rename could have reused.
_MOST: Final = 10_000
#: Swept in one request.
_SWEEP: Final = 256


class HeldDeletes:
    """In the order in which their sweeps are due. Used by one thread, but for :attr:`records`."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str, list[Taken]]] = []
        self._docs: Counter[str] = Counter()
        self._sequence = 0
        self.records = 0
        """How many records they came in."""

    def __contains__(self, doc: object) -> bool:
        return doc in self._docs

    def add(self, doc: str, taken: list[Taken], seconds: float) -> None:
        """Hold a deleted document's records until its sweep is due."""
        self._sequence += 1
        heapq.heappush(self._heap, (time.monotonic() + seconds, self._sequence, doc, taken))
        self._docs[doc] += 1
        self.records += len(taken)

    def seconds(self, most: float) -> float:
        """Until the next sweep is due, at most ``most``."""
        return min(most, max(0.0, self._heap[0][0] - time.monotonic())) if self._heap else most

    def due(self, *, early: bool) -> list[tuple[str, list[Taken]]]:
        """Take out some whose sweep is due; ``early``: some of all."""
        now = time.monotonic()
        found: list[tuple[str, list[Taken]]] = []
        while self._heap and len(found) < _SWEEP and (early or self._heap[0][0] <= now or len(self._heap) > _MOST):
            _, _, doc, taken = heapq.heappop(self._heap)
            self._docs[doc] -= 1
            if not self._docs[doc]:
                del self._docs[doc]
            self.records -= len(taken)
            found.append((doc, taken))
        return found
