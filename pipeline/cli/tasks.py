"""What takes longer than a look runs in a thread and is asked after: no HTTP request waits for it.

So a command that is killed leaves nothing but an answer that nobody reads.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from pipeline.errors import Refused, Transient, VectideError, as_error, exit_code

log = logging.getLogger(__name__)

_END_SECONDS: Final = 10.0


class Task:
    """Something that takes its time, in a thread.

    Args:
        name: for people.
        work: what to do; it says how far it is (:meth:`at`) and asks whether to stop (:meth:`stopped`).
        key: of equal tasks.
    """

    def __init__(self, name: str, work: Callable[[Task], dict[str, Any]], key: str = "") -> None:
        self.name = name
        self.key = key
        self.id = uuid.uuid4().hex
        self._work = work
        self._stop = threading.Event()
        self._phase: tuple[str, int, int] = ("starting", 0, 0)
        self._found: dict[str, Any] | None = None
        self._failure: VectideError | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """It has not ended."""
        return self._thread.is_alive()

    def at(self, phase: str, done: int, whole: int) -> None:
        """It is at this phase, so far of so much (0 of 0: unknown)."""
        self._phase = phase, done, whole

    def stopped(self) -> bool:
        """It is to end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask it to end, and wait some seconds."""
        self._stop.set()
        self._thread.join(_END_SECONDS)

    def as_json(self) -> dict[str, Any]:
        """Where it is, or what has come of it."""
        phase, done, whole = self._phase
        failure = self._failure
        return {
            "id": self.id,
            "name": self.name,
            "running": self.running,
            "phase": phase,
            "done": done,
            "whole": whole,
            "found": self._found,
            "error": None if failure is None else str(failure),
            "code": None if failure is None else exit_code(failure),
        }

    def _run(self) -> None:
        try:
            self._found = self._work(self)
        except VectideError as error:
            self._failure = error
        except Exception as error:
            log.exception("task failed", extra={"task": self.name})
            self._failure = Refused(f"{type(error).__name__}: {error}", "this is a bug of vectide: please report it")


class Tasks:
    """One task at a time; the last one's answer is kept until the next begins."""

    def __init__(self) -> None:
        self._task: Task | None = None
        self._lock = threading.Lock()

    def begin(self, name: str, work: Callable[[Task], dict[str, Any]], key: str = "") -> dict[str, Any]:
        """Start a task, or go on waiting for the very same one: its asker may have been killed.

        Raises:
            Transient: another one is running.
        """
        with self._lock:
            running = self._task
            if running is not None and running.running:
                if key and running.key == key:
                    return running.as_json()
                raise Transient(f"a {running.name} is running in this process; it will be over soon")
            self._task = Task(name, work, key)
            return self._task.as_json()

    def polled(self) -> dict[str, Any] | None:
        """The last one, if there was any."""
        return None if self._task is None else self._task.as_json()

    def asked_after(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """``id``: the task as it is now.

        Raises:
            Transient: it is not there any more.
        """
        task = self._task
        if task is None or task.id != given.get("id"):
            # The process was started again, or somebody else asked for something.
            raise Transient("that task is not there any more; ask for it again")
        return task.as_json()

    def close(self) -> None:
        """Give up what still runs."""
        if self._task is not None:
            self._task.stop()


def raised(task: Mapping[str, Any]) -> dict[str, Any]:
    """What an ended task has found.

    Raises:
        VectideError: of the kind that it failed with.
    """
    if task["error"] is not None:
        raise as_error(int(task["code"]), str(task["error"]))
    found: dict[str, Any] = task["found"]
    return found
