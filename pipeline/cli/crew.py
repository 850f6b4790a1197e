"""Threads of one process that live and end together."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pipeline.deadline import Deadline

Run = Callable[[threading.Event], None]


class Crew:
    """Named threads; the first one that fails stops all, and its error is raised by :meth:`wait`.

    Args:
        stop: set it to end all of them.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def start(self, name: str, run: Run) -> None:
        """Start a thread that runs until ``stop`` is set."""
        thread = threading.Thread(target=self._run, args=(run,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self, seconds: float) -> bool:
        """True once ``stop`` is set.

        Raises:
            VectideError: what a thread failed with.
        """
        stopped = self.stop.wait(seconds)
        self.raise_failure()
        return stopped

    def raise_failure(self) -> None:
        """Raise what a thread failed with, if one did."""
        if self._failure is not None:
            raise self._failure

    def end(self, deadline: Deadline) -> bool:
        """Stop all and wait for them; False if one did not end in time."""
        self.stop.set()
        for thread in self._threads:
            thread.join(min(deadline.remaining(), threading.TIMEOUT_MAX))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, run: Run) -> None:
        try:
            run(self.stop)
        except BaseException as error:
            self._failure = self._failure or error
            self.stop.set()
