"""Looks at documents that are due later: a file that is empty or gone for a moment, or too hot."""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, replace
from typing import Final

#: Beyond this many, a scan is cheaper and bounds the memory.
_LIMIT: Final = 10_000
#: An event time that lies further back than this before it was noticed is that of something else:
#: a file that was moved here keeps the time of its last edit.
_NOTICED_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Look:
    """A document to be looked at, and why."""

    path: str
    noticed: float
    """When something was noticed there, in seconds since 1970."""
    since: float
    """The same on the monotonic clock, of the first look in a row."""
    revision: str = ""
    """As the scan listed it; empty if it was not the scan."""
    tries: int = 0
    """Looks that have told nothing yet."""
    held: float = 0.0
    """Seconds for which it was held back because the document changes too fast."""
    backfill: bool = False
    number: int = 0
    """Of the call for hints that asked for it, or that was the last one before the scan did."""

    def event_time(self, claimed: float, scanned: float) -> float:
        """When the change happened, for measuring freshness: the source's word, where it can be so.

        Args:
            claimed: by the source, in seconds since 1970.
            scanned: when the last scan began. What only a later one finds can have happened since.
        """
        now = time.time()
        if self.backfill:
            return claimed if 0 < claimed <= now else self.noticed
        earliest = min(scanned, self.noticed) if self.revision else self.noticed - _NOTICED_SECONDS
        return claimed if earliest <= claimed <= now else self.noticed


class Looks:
    """Those that are due later, one per path."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, str]] = []
        self._looks: dict[str, tuple[float, Look]] = {}

    def add(self, look: Look, at: float) -> bool:
        """Look at ``at`` (monotonic), or never earlier than that; False if there are too many."""
        if len(self._looks) >= _LIMIT and look.path not in self._looks:
            return False
        waiting = self._looks.get(look.path)
        if waiting is not None and waiting[1].number < look.number:
            look = replace(look, number=waiting[1].number)
        self._looks[look.path] = (at, look)
        heapq.heappush(self._queue, (at, look.path))
        return True

    def take(self, path: str) -> Look | None:
        """The look that waits for this path, which then waits no more."""
        found = self._looks.pop(path, None)
        return None if found is None else found[1]

    def due(self, now: float) -> list[Look]:
        """Those whose time has come."""
        found = []
        while self._queue and self._queue[0][0] <= now:
            at, path = heapq.heappop(self._queue)
            waiting = self._looks.get(path)
            # A look that was taken or put off left its old place in the queue behind.
            if waiting is not None and waiting[0] == at:
                del self._looks[path]
                found.append(waiting[1])
        return found

    def oldest(self) -> int | None:
        """The lowest number of those that wait."""
        return min((look.number for _, look in self._looks.values()), default=None)

    def next(self) -> float | None:
        """When the next one is due."""
        return self._queue[0][0] if self._queue else None
