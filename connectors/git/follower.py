"""A thread that keeps the copy of a branch up to date, and notes what changed.

Fetching a large repository for the first time takes longer than a connector's loop may stand still, so
the loop never waits for it: it is told that it is not there yet.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Final

from connectors.git.commands import check_version
from connectors.git.commits import Changes
from connectors.git.places import Watched
from connectors.git.superproject import Superproject
from pipeline.deadline import Deadline
from pipeline.errors import SourceUnavailable, Transient, VectideError
from pipeline.ports import Hint

#: Between two looks at the files that tell of a change.
_LOOK_SECONDS: Final = 0.1
#: After a failure; doubled up to the second figure, and never more than the poll.
_RETRY_SECONDS: Final = (0.25, 30.0)
_CLOSE_SECONDS: Final = 10.0
#: More paths than this in hand: everything counts as changed, and memory stays bounded.
_PATHS: Final = 20_000


class Follower:
    """Follows a branch from the first call on.

    Args:
        project: used by this thread only, but for its files.
        poll_seconds: between two fetches without a sign.
        watched: what tells of a change.
        fresh_seconds: a scan waits so long for a fetch; then it says that it is under way.
    """

    def __init__(
        self,
        project: Superproject,
        poll_seconds: float,
        watched: Sequence[Watched],
        fresh_seconds: float,
    ) -> None:
        self._project = project
        self._poll_seconds = poll_seconds
        self._watched = watched
        self._fresh_seconds = fresh_seconds
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._asked = 0
        self._done = 0
        self._error: VectideError | None = None
        self._trouble = ""
        self._tip = ""
        self._paths: dict[str, float] = {}
        self._everything: float | None = None

    def begun(self) -> None:
        """Wait until there is a copy at all.

        Raises:
            SourceUnavailable: there is none.
        """
        if not self._tip:
            self.fresh()

    def fresh(self) -> None:
        """Wait until a fetch that begins after this call has succeeded.

        Raises:
            SourceUnavailable: it has failed, or takes long: call again.
            Fatal: there is no git that can be used.
        """
        with self._changed:
            self._start()
            # One that goes on since a call that gave up waiting is new enough.
            wanted = self._asked if self._asked > self._done else self._asked + 1
            self._asked = wanted
            self._changed.notify_all()
            deadline = Deadline.after(self._fresh_seconds)
            while self._done < wanted and not self._closed:
                if deadline.expired:
                    raise SourceUnavailable("the repository is being fetched, which takes a while")
                self._changed.wait(deadline.remaining())
            if self._closed:
                raise SourceUnavailable("the source is closed")
            if self._error is not None:
                raise self._error

    def taken(self, timeout: float) -> list[Hint]:
        """What changed since the last call.

        Raises:
            SourceUnavailable: the repository does not answer now; or a submodule does not, and nothing
                else has changed.
        """
        deadline = Deadline.after(timeout)
        with self._changed:
            self._start()
            while not (self._paths or self._everything or self._error or self._closed or deadline.expired):
                if self._trouble:
                    raise SourceUnavailable(self._trouble)
                self._changed.wait(deadline.remaining())
            if self._error is not None and not self._closed:
                raise self._error
            hints = [Hint(path, at) for path, at in self._paths.items()]
            if self._everything is not None:
                hints = [Hint(None, self._everything)]
            self._paths, self._everything = {}, None
            return hints

    def close(self) -> None:
        """End, and wake whoever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        self._project.stop()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_SECONDS)

    # ------------------------------------------------------------------------- the thread

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._asked += 1
            self._thread = threading.Thread(target=self._run, name="git", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        checked, trouble, pause = False, "", _RETRY_SECONDS[0]
        while True:
            with self._changed:
                if self._closed:
                    return
                number = self._asked
            # Before the fetch: what changes during it has another sign by then.
            signs = [one.sign() for one in self._watched]
            try:
                if not checked:
                    check_version()
                    checked = True
                self._note(self._project.update())
                error: VectideError | None = None
                trouble = self._project.trouble()
                pause = pause if trouble else _RETRY_SECONDS[0]
            except VectideError as failure:
                error = failure
            except Exception as failure:  # a bug must not end the following without a word
                error = Transient(f"{type(failure).__name__}: {failure}")
            if isinstance(error, Transient) and not isinstance(error, SourceUnavailable):
                error = SourceUnavailable(str(error))
            with self._changed:
                self._error, self._trouble = error, trouble
                self._done = max(self._done, number)
                self._changed.notify_all()
            failed = error is not None or bool(trouble)
            self._wait(signs, min(pause, self._poll_seconds) if failed else self._poll_seconds)
            pause = min(2 * pause if failed else pause, _RETRY_SECONDS[1])

    def _wait(self, signs: list[tuple[object, ...]], seconds: float) -> None:
        """Until it is time for another fetch."""
        due = Deadline.after(seconds)
        while not due.expired:
            with self._changed:
                if self._closed or self._asked > self._done:
                    return
                self._changed.wait(min(_LOOK_SECONDS, due.remaining()))
            if [one.sign() for one in self._watched] != signs:
                return

    def _note(self, tip: str) -> None:
        old = self._tip
        if old == tip:
            return
        changes = self._project.changes(old, tip) if old else Changes(())
        now = time.time()
        with self._changed:
            self._tip = tip
            for path in changes.paths:
                self._paths.pop(path, None)
                self._paths[path] = now
            if changes.everything or len(self._paths) > _PATHS:
                self._paths.clear()
                self._everything = self._everything or now
            self._changed.notify_all()
