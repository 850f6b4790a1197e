"""Contents of files, from one long-lived ``git cat-file``."""

from __future__ import annotations

import os
import select
import subprocess
import threading
from typing import Final

from connectors.git.commands import Git
from pipeline.deadline import Deadline
from pipeline.errors import SourceUnavailable, Transient

#: Of one answer. A document is two, and its extraction has what they leave of connectors.fetching.FETCH_SECONDS.
_SECONDS: Final = 20.0
_READ_BYTES: Final = 1 << 20
_LINE_BYTES: Final = 4096


class Blobs:
    """Reads blobs by their ids; used by one thread, but for :meth:`close`."""

    def __init__(self, git: Git) -> None:
        self._git = git
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._using = threading.Lock()

    def size(self, blob: str) -> int:
        """Bytes of a blob, without reading it.

        Raises:
            SourceUnavailable: git cannot be started.
            Transient: it is not there, or git does not answer.
        """
        with self._using:
            return self._asked("info", blob, Deadline.after(_SECONDS))

    def content(self, blob: str) -> bytes:
        """A whole blob.

        Raises:
            SourceUnavailable: git cannot be started.
            Transient: it is not there, or git does not answer.
        """
        with self._using:
            deadline = Deadline.after(_SECONDS)
            size = self._asked("contents", blob, deadline)
            return self._take(size + 1, deadline)[:-1]

    def close(self) -> None:
        """Let git go, once it has been stopped or is not asked anything."""
        with self._using:
            self._end()

    def _end(self) -> None:
        process, self._process, self._rest = self._process, None, b""
        if process is not None:
            self._git.end(process)

    def _asked(self, what: str, blob: str, deadline: Deadline) -> int:
        """The size that git says."""
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = self._git.opened("cat-file", "--batch-command")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{what} {blob}\n".encode())
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended(f"git cat-file has ended: {error}") from None
        words = self._line(deadline).split(b" ")
        if len(words) != 3 or words[1] != b"blob":
            raise self._ended(f"blob {blob} cannot be read from the copy of the repository")
        return int(words[2])

    def _line(self, deadline: Deadline) -> bytes:
        while b"\n" not in self._rest and len(self._rest) < _LINE_BYTES:
            self._more(deadline)
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _take(self, size: int, deadline: Deadline) -> bytes:
        parts, left = [self._rest[:size]], size - len(self._rest[:size])
        self._rest = self._rest[size:]
        while left > 0:
            self._more(deadline)
            parts.append(self._rest[:left])
            self._rest = self._rest[left:]
            left -= len(parts[-1])
        return b"".join(parts)

    def _more(self, deadline: Deadline) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        ready = poll.poll(deadline.remaining() * 1000)
        part = os.read(self._process.stdout.fileno(), _READ_BYTES) if ready else b""
        if not part:
            raise self._ended(
                "git cat-file has ended" if ready else f"git gave no whole answer within {_SECONDS:.0f} s"
            )
        self._rest += part

    def _ended(self, why: str) -> Transient:
        self._end()
        return SourceUnavailable("the source is closed") if self._git.stopped else Transient(why)
