"""A source's hints, which can be away alone: a queue or a stream of its own is, while documents can be listed and read.

Without hints only scans find what changed. So nobody waits for hints while a scan is due, or a look at a document (one
that is gone is deleted at its second look); and a scan that is under way waits for them for a while only, for mostly
everything is away, and would have to begin anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from pipeline.errors import SourceUnavailable
from pipeline.ports import Hint, Source

#: A scan waits so long for hints, then asks for them again so often.
_SCAN_WAITS_SECONDS: Final = 30.0
_SCAN_ASKS_SECONDS: Final = 10.0


class Unheard(Exception):
    """There are no hints now, and something better to do than to wait for them; the text says why there are none."""


class Hearing:
    """The hints of one source; one thread.

    Args:
        source: whose.
        due: whether a scan, or a look at a document, is due at a time on the monotonic clock.
    """

    def __init__(self, source: Source, due: Callable[[float], bool]) -> None:
        self.scanning = False
        """A scan is under way."""
        self._source = source
        self._due = due
        self._since: float | None = None
        self._next = 0.0
        self._why = ""

    def hints(self, timeout: float) -> list[Hint]:
        """As the source.

        Raises:
            Unheard: there are none; go on without.
            SourceUnavailable: there are none; ask again.
        """
        if self._since is not None and self.scanning and time.monotonic() < self._next:
            raise Unheard(self._why)
        try:
            found = self._source.hints(timeout)
        except SourceUnavailable as error:
            now = time.monotonic()
            self._since = now if self._since is None else self._since
            if self._due(now) if not self.scanning else now - self._since >= _SCAN_WAITS_SECONDS:
                self._next, self._why = now + _SCAN_ASKS_SECONDS, str(error)
                raise Unheard(self._why) from error
            raise
        self._since, self._next = None, 0.0
        return found
