"""Files that are read again when they change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_LOOK_SECONDS: Final = 1.0


class Watch:
    """Whether files are still those that were read. Safe for several threads.

    Args:
        files: as they are now, they are about to be read.
    """

    def __init__(self, *files: Path) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._seen = self._looks()
        self._next = 0.0

    def refresh(self, read: Callable[[], None]) -> None:
        """Call ``read`` if they are others by now: once for each change, looked for every second at most."""
        with self._lock:
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + _LOOK_SECONDS
            seen = self._looks()
            if seen == self._seen:
                return
            self._seen = seen
            read()

    def _looks(self) -> tuple[tuple[int, ...], ...]:
        return tuple(_look(one) for one in self._files)


def _look(file: Path) -> tuple[int, ...]:
    """Another value once it is another file; empty: it is not there."""
    try:
        found = file.stat()  # of what a link leads to: a mounted secret is replaced as a whole
    except OSError:
        return ()
    # The last time is that of its mode as well: a file that may be read at last is another one.
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size, found.st_ctime_ns)
