"""A clock for code that takes the time from its module's ``time``."""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """Stands where it is put; who has it says how waiting moves it, and when ``meanwhile`` happens."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.meanwhile: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        """In seconds."""
        return self.now
