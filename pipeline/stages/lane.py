"""A thread that takes turns until it is stopped, and keeps the error that ended it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from pipeline.deadline import Deadline
from pipeline.errors import Backpressure, Transient

log = logging.getLogger(__name__)

#: Of a drain budget, for taking up more of what was offered; the rest is for what is in work then.
TAKING_SHARE: Final = 0.75


class Lane:
    """One of a stage's threads.

    Args:
        name: the thread's name.
        turn: called again and again; must return within a fraction of a second when there is
            nothing to do. Whatever it raises ends the lane and is raised by the worker.
    """

    def __init__(self, name: str, turn: Callable[[], None]) -> None:
        self._turn = turn
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start taking turns."""
        self._thread.start()

    def raise_failure(self) -> None:
        """Raise what ended the lane, if anything did."""
        if self._failure is not None:
            raise self._failure

    @property
    def ended(self) -> bool:
        """True once no further turn will be taken."""
        return not self._thread.is_alive()

    def ask_to_stop(self) -> None:
        """Take no further turn; an outage that the present one waits out is then no failure."""
        self._stop.set()

    def stop(self, deadline: Deadline) -> bool:
        """Take no further turn; False if the present one did not end in time."""
        self.ask_to_stop()
        if self._thread.ident is not None:
            self._thread.join(min(deadline.remaining(), threading.TIMEOUT_MAX))
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._turn()
        except (Transient, Backpressure) as error:
            if self._stop.is_set():
                log.info("gave up what is read again", extra={"error": str(error)})
            else:
                self._failure = error
        except BaseException as error:
            self._failure = error
