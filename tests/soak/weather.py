"""When it stormed, and how old an answer may therefore be."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal

#: Seconds from a change on disk until no search may say otherwise any more.
CALM_TARGET = 10.0
#: The same for a change that a storm overlaps: outages of up to 15 s one upon the other, a session
#: timeout, and the 40 s that a killed Kafka may need to end a transaction.
STORM_TARGET = 120.0
#: From a time in which the machine let nothing run until what has piled up is done.
_WORKED_OFF_SECONDS = 15.0
_EXAMPLES = 50

Kind = Literal["calm", "starved", "storm"]


class Weather:
    """Storms are from their first fault until the quiet point behind them."""

    def __init__(self) -> None:
        self._storms: list[tuple[float, float]] = []
        self._settled = 0.0
        self._starved: list[tuple[float, float]] = []

    def storm(self) -> None:
        """From now on."""
        self._storms.append((time.monotonic(), float("inf")))

    def calm(self) -> None:
        """From now on, until the next storm."""
        if self._storms:
            self._storms[-1] = (self._storms[-1][0], time.monotonic())

    def starved(self, since: float, until: float) -> None:
        """The machine did not let anything run; what has piled up is worked off for a while."""
        if self._starved and self._starved[-1][1] >= since:
            since, _ = self._starved.pop()
        self._starved.append((since, until + _WORKED_OFF_SECONDS))

    def starved_since(self, since: float) -> float:
        """How many seconds of those until now, what was worked off included: deadlines are put off by so many."""
        now = time.monotonic()
        return sum(max(0.0, min(end, now) - max(start, since)) for start, end in self._starved)

    def settled(self, at: float) -> None:
        """A quiet point has been reached: what was changed before ``at`` was seen to be in the store."""
        self._settled = at

    def starved_between(self, since: float, until: float) -> bool:
        """Whether the machine was taken at any time between."""
        return _met(self._starved, since, until)

    def between(self, since: float, until: float) -> Kind:
        """The worst at any time between."""
        if _met(self._storms, since, until):
            return "storm"
        return "starved" if _met(self._starved, since, until) else "calm"

    def target(self, since: float, until: float) -> float:
        """Seconds that a change at ``since`` had, seen at ``until``."""
        if since < self._settled <= until:
            return 0.0
        kind = self.between(since, until)
        return CALM_TARGET if kind == "calm" else STORM_TARGET + self.starved_since(since)


def _met(times: list[tuple[float, float]], since: float, until: float) -> bool:
    # Changes are not followed for longer than the last few of these.
    return any(start <= until and end >= since for start, end in times[-20:])


class Events:
    """What happened, one JSON line each; and what must not have happened."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self.violations: Counter[str] = Counter()
        self.examples: list[str] = []

    def note(self, what: str, **details: Any) -> None:
        """Write it down."""
        line = {"at": round(time.monotonic() - self._started, 3), "what": what, **details}
        with self._lock:
            if not self._file.closed:
                self._file.write(json.dumps(line, default=str) + "\n")

    def violation(self, kind: str, text: str, **details: Any) -> None:
        """What must not be."""
        with self._lock:
            self.violations[kind] += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(f"{kind}: {text}")
                print(f"VIOLATION {kind}: {text}", flush=True)
        self.note("violation", kind=kind, text=text, **details)

    def close(self) -> None:
        """The file."""
        with self._lock:
            self._file.close()
