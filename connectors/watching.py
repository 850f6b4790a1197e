"""Watching a folder tree: a thread that notes which paths something happened to.

A watch of the kernel can fail: its limit is reached, or a name is not UTF-8, which the watching
library cannot tell apart from an error. Then the whole tree counts as changed, and where no watch
can be had it does so every few seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import Final

from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

from pipeline.deadline import Deadline

log = logging.getLogger(__name__)

#: The library looks for changes every step and returns when one passed without any: a change is
#: seen after 2.4 ms (median; 1.8 with a step of 1, for 2.6 % instead of 1.0 % of a core when idle).
_STEP_MS: Final = 2
#: Longest time for which a burst is gathered.
_DEBOUNCE_MS: Final = 20
_POLL_SECONDS: Final = 2.0
#: Errors of the watch that follow each other within this time wait for it.
_RESTART_SECONDS: Final = 0.25
#: More paths than this in hand: the whole tree counts as changed, and memory stays bounded.
_PATHS: Final = 20_000
_CLOSE_SECONDS: Final = 5.0


class Watch:
    """Notes changes below a folder from the moment it is made.

    Args:
        root: an existing folder, as an absolute path without symbolic links.

    Raises:
        OSError: it does not exist or cannot be read.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._changed = threading.Condition()
        self._paths: dict[str, float] = {}
        self._everything: float | None = None
        self._stop = threading.Event()
        self._notify = self._watched()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def taken(self, timeout: float) -> tuple[dict[str, float], float | None]:
        """Absolute paths with the time at which something was first noticed there, and the time at
        which everything may have changed, if so; waits up to ``timeout`` seconds for the first.
        """
        deadline = Deadline.after(timeout)
        with self._changed:
            while not self._paths and self._everything is None and not self._stop.is_set():
                if deadline.expired:
                    break
                self._changed.wait(deadline.remaining())
            paths, everything = self._paths, self._everything
            self._paths, self._everything = {}, None
            return paths, everything

    def close(self) -> None:
        """Stop, and wake whoever waits."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._notify is None:
                if not self._stop.wait(_POLL_SECONDS):
                    self.note_everything()
                continue
            try:
                found = self._notify.watch(_DEBOUNCE_MS, _STEP_MS, 0, self._stop)
            except WatchfilesRustInternalError as error:
                log.debug("watch starts anew", extra={"root": self._root, "error": str(error)})
                self._restart()
                continue
            if isinstance(found, set):
                self._note(path for _, path in found)
        if self._notify is not None:
            self._notify.close()

    def _note(self, paths: Iterable[str]) -> None:
        now = time.time()
        with self._changed:
            for path in paths:
                self._paths.setdefault(path, now)
            if len(self._paths) > _PATHS:
                self._paths.clear()
                self._everything = self._everything or now
            self._changed.notify_all()

    def note_everything(self) -> None:
        """From now on everything may have changed."""
        with self._changed:
            self._everything = self._everything or time.time()
            self._changed.notify_all()

    def _restart(self) -> None:
        """Everything counts as changed once the new watch is there: nothing falls between."""
        assert self._notify is not None  # it has just failed
        self._notify.close()
        try:
            self._notify = self._watched()
        except OSError:
            self._notify = None  # the folder is away: the scan will say so
        self.note_everything()
        self._stop.wait(_RESTART_SECONDS)

    def _watched(self) -> RustNotify | None:
        try:
            return RustNotify([self._root], False, False, 0, True, True)
        except (FileNotFoundError, PermissionError, NotADirectoryError):
            raise
        except (OSError, WatchfilesRustInternalError) as error:
            log.warning(
                "cannot watch this folder: it is scanned every few seconds instead, which is slower and costs more. "
                "Raise fs.inotify.max_user_watches (and max_user_instances) to watch it",
                extra={"root": self._root, "seconds": _POLL_SECONDS, "error": str(error)},
            )
            return None
