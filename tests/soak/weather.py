"""When it stormed, and how old an answer may therefore be."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

#: Seconds from a change on disk until no search may say otherwise any more.
CALM_TARGET = 10.0
#: The same for a change that a storm overlaps: outages of up to 15 s one upon the other, a session
#: timeout, and the 40 s that a killed Kafka may need to end a transaction.
STORM_TARGET = 120.0
_EXAMPLES = 50


class Weather:
    """Storms are from their first fault until the quiet point behind them."""

    def __init__(self) -> None:
        self._storms: list[tuple[float, float]] = []
        self._settled = 0.0

    def storm(self) -> None:
        """From now on."""
        self._storms.append((time.monotonic(), float("inf")))

    def calm(self) -> None:
        """From now on, until the next storm."""
        if self._storms:
            self._storms[-1] = (self._storms[-1][0], time.monotonic())

    def settled(self, at: float) -> None:
        """A quiet point has been reached: what was changed before ``at`` was seen to be in the store."""
        self._settled = at

    def stormy(self, since: float, until: float) -> bool:
        """Whether it stormed at any time between."""
        return any(start <= until and end >= since for start, end in self._storms[-3:])

    def target(self, since: float, until: float) -> float:
        """Seconds that a change at ``since`` had, seen at ``until``."""
        if since < self._settled <= until:
            return 0.0
        return STORM_TARGET if self.stormy(since, until) else CALM_TARGET


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
