"""How far the log of a source is published, where it has one of its own (:class:`pipeline.ports.LogSource`).

Each call for hints gets a number. A position may be acknowledged once no look is waiting that an
earlier number has asked for. It is noted in ``connector-state`` first, as a mark of the source, so that
a restart goes on there without a scan; while a scan is owed there is no such mark, whatever has been
acknowledged meanwhile. See docs/adr/0005-sources-with-a-log.md.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from connectors.state import State
from pipeline.ports import LogSource

#: The mark with the position up to which everything is published.
POSITION: Final = "position"

#: Between two notes.
_NOTE_SECONDS: Final = 5.0
#: Positions that wait for looks; beyond it the newest one is not told from the one before.
_LIMIT: Final = 1000


class Following:
    """One source's log, as far as it was hinted and published; one thread.

    Args:
        source: with the log.
        seconds: between two positions that are noted.
        clock: seconds since 1970.
    """

    def __init__(
        self, source: LogSource, seconds: float = _NOTE_SECONDS, clock: Callable[[], float] = time.time
    ) -> None:
        self.source = source
        self.number = 0
        """Of the last call for hints: what is looked at from now on may have been asked for by it."""
        self._clock = clock
        self._seconds = seconds
        self._waiting: deque[tuple[int, str]] = deque()
        self._noted = ""
        self._next = 0.0
        self._scanned = 0.0

    def stored(self, state: State) -> str | None:
        """The position that the state has, and with it when the last scan was."""
        mark = state.mark(POSITION)
        if mark is None:
            return None
        try:
            found = json.loads(mark)
            self._scanned, position = float(found["scanned"]), str(found["position"])
        except (ValueError, KeyError, TypeError):
            return None  # of a later version: a scan knows as much
        return position

    def until_scan(self, seconds: float) -> float:
        """What is left of the time between two scans; a restart does not begin it anew."""
        return min(max(0.0, self._scanned + seconds - self._clock()), seconds)

    @property
    def last_scan(self) -> float:
        """When the last scan began whose findings are published, in seconds since 1970; 0: none is known of."""
        return self._scanned

    def scanned(self, at: float) -> None:
        """A scan that began at ``at`` is published."""
        self._scanned = at

    def heard(self) -> None:
        """Hints were returned: take note of where they end."""
        self.number += 1
        position = self.source.position()
        if self._waiting and (self._waiting[-1][1] == position or len(self._waiting) >= _LIMIT):
            self._waiting.pop()
        self._waiting.append((self.number, position))

    def published(self, oldest: int | None, *, at_once: bool = False) -> str | None:
        """A position up to which everything is published; None: there is nothing new, or it is too early.

        Args:
            oldest: the lowest number among the looks that are waiting; None: there are none.
            at_once: not only every few seconds.
        """
        if not at_once and time.monotonic() < self._next:
            return None
        found = None
        while self._waiting and (oldest is None or self._waiting[0][0] < oldest):
            found = self._waiting.popleft()
        if found is None or found[1] == self._noted:
            return None
        # Put back: whoever asked may fail, and will ask again.
        self._waiting.appendleft(found)
        return found[1]

    def acknowledged(self, position: str, *, noted: bool) -> None:
        """It was acknowledged; unless it was noted, too, it is to be said once more."""
        self._noted = position if noted else ""
        self._next = time.monotonic() + self._seconds

    def mark(self, position: str) -> bytes:
        """The mark's value."""
        return json.dumps({"position": position, "scanned": self._scanned}).encode()
