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
#: Between scans where nothing can be watched.
POLL_SECONDS: Final = 2.0
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
        self._interrupt = threading.Event()
        self._polls = False
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

    def check(self, folder: str) -> None:
        """Make sure that a folder which has just appeared can be watched: beyond the kernel's limit
        the library leaves it out without a word. If so, the whole tree is scanned from time to time.
        """
        try:
            RustNotify([folder], False, False, 0, False, False).close()
        except (FileNotFoundError, PermissionError, NotADirectoryError):
            pass  # gone again, or passed over by the scan, too
        except (OSError, WatchfilesRustInternalError) as error:
            if not self._polls:
                self._poll(error)
                self._interrupt.set()

    def close(self) -> None:
        """Stop, and wake whoever waits."""
        self._stop.set()
        self._interrupt.set()
        with self._changed:
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        next_poll = 0.0
        while not self._stop.is_set():
            if self._notify is None:
                self._stop.wait(POLL_SECONDS)
            else:
                self._turn(self._notify)
            if self._polls and time.monotonic() >= next_poll:
                next_poll = time.monotonic() + POLL_SECONDS
                self.note_everything()
        if self._notify is not None:
            self._notify.close()

    def _turn(self, notify: RustNotify) -> None:
        # Without a time limit otherwise: at its end the library forgets what came at that moment.
        limit_ms = int(POLL_SECONDS * 1000) if self._polls else 0
        try:
            found = notify.watch(_DEBOUNCE_MS, _STEP_MS, limit_ms, self._interrupt)
        except WatchfilesRustInternalError as error:
            log.debug("watch starts anew", extra={"root": self._root, "error": str(error)})
            self._restart(notify)
            return
        self._interrupt.clear()
        if isinstance(found, set):
            self._note(path for _, path in found)

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

    def _restart(self, failed: RustNotify) -> None:
        """Everything counts as changed once the new watch is there: nothing falls between."""
        failed.close()
        try:
            self._notify = self._watched()
        except OSError:
            self._notify, self._polls = None, True  # the folder is away: a scan will say so
        self.note_everything()
        self._stop.wait(_RESTART_SECONDS)

    def _watched(self) -> RustNotify | None:
        try:
            return RustNotify([self._root], False, False, 0, True, False)
        except PermissionError:
            # A folder further down may not be read; told to pass over it, the library passes over
            # a reached limit as well.
            found = RustNotify([self._root], False, False, 0, True, True)
            self.check(self._root)
            return found
        except (FileNotFoundError, NotADirectoryError):
            raise
        except (OSError, WatchfilesRustInternalError) as error:
            self._poll(error)
            return None

    def _poll(self, error: Exception) -> None:
        self._polls = True
        log.warning(
            "this folder cannot be watched as a whole: it is scanned every few seconds as well, which is slower and "
            "costs more. Raise fs.inotify.max_user_watches (and max_user_instances), then start again",
            extra={"root": self._root, "seconds": POLL_SECONDS, "error": str(error)},
        )
