"""Reads documents in a process of its own, so that a hostile one costs itself and nothing else.

The process is started when it is first needed, kept for the documents that follow, and started anew when it
has died of one. What a document leads to does not depend on the machine's load (its limit is processor time) nor
on the documents before it (one that broke a process which had read others is tried in a fresh one).
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Annotated, Final

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from connectors.extraction.documents import DocumentFormat
from connectors.extraction.formats import Extracted
from connectors.extraction.wire import (
    LENGTH_BYTES,
    OUT_OF_MEMORY,
    Answered,
    Asked,
    decode_answered,
    encode,
    framed,
)
from pipeline.deadline import Deadline
from pipeline.errors import Poison, SourceUnavailable, Transient

#: Of one document on the clock, all attempts together. It must stay below the 60 seconds after which a loop
#: counts as stuck (pipeline.observe.health), and a document's processor time below it.
_DEADLINE_SECONDS: Final = 55.0
_END_SECONDS: Final = 5.0
#: An answer's metadata, and what surrounds a text.
_AROUND_BYTES: Final = 4 * 1024 * 1024
_READ_BYTES: Final = 1 << 20
#: All that the process gets to know: settings and secrets of the pipeline are in the environment, too.
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
_MIB: Final = 1024 * 1024
#: Nothing in a document can do that: the kernel, when the machine has no memory left, or a person.
_KILLED: Final = (-signal.SIGKILL, -signal.SIGTERM)


class ExtractionLimits(BaseModel):
    """``[sources.<id>.extraction]``: what a document that is no text may cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file_limit_bytes: Annotated[int, Field(gt=0)] = Field(
        64 * _MIB, description="a larger PDF, Office file, book ... is published without its text"
    )
    seconds: Annotated[int, Field(gt=0, le=50)] = Field(20, description="of processor time for one document")
    memory_bytes: Annotated[int, Field(ge=256 * _MIB)] = Field(
        1024 * _MIB, description="of the process that reads documents"
    )


class _Died(Exception):
    """The process has ended."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Reader:
    """One connector's process for documents. Used by one thread, but for :meth:`close`.

    Args:
        limits: of one document.
        text_limit: most bytes of a document's text in UTF-8.
    """

    def __init__(self, limits: ExtractionLimits, text_limit: int) -> None:
        self._limits = limits
        self._text_limit = text_limit
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        """Held while a document is read: nobody else closes its pipes."""
        self._process: subprocess.Popen[bytes] | None = None
        self._served = 0
        self._closed = False

    def read(self, data: bytes, format_: DocumentFormat, deadline: Deadline | None = None) -> Extracted:
        """A document's text.

        Args:
            data: the file.
            format_: of it.
            deadline: if there is less time than for any document.

        Raises:
            Poison: it cannot be read: broken, hostile, encrypted, without text, over a limit.
            Transient: the machine had no time or memory for it; it may succeed later.
            SourceUnavailable: this reader is closed.
        """
        most = Deadline.after(_DEADLINE_SECONDS)
        with self._turn:
            return self._read(data, format_, most if deadline is None else min(deadline, most, key=lambda one: one.at))

    def close(self) -> None:
        """End the process, whatever it is doing; from any thread, more than once."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
        # Who waits for it sees its end.
        if self._turn.acquire(timeout=_END_SECONDS):
            try:
                self._end()
            finally:
                self._turn.release()

    def _read(self, data: bytes, format_: DocumentFormat, deadline: Deadline) -> Extracted:
        while True:
            fresh = self._served == 0
            try:
                answer = self._ask(data, format_, deadline)
            except _Died as died:
                # Of processor time each document has its own; memory and a damaged heap are shared; one that somebody
                # killed is not to blame. In no variable: an error's frames hold the file, and would hold the error.
                if fresh or died.code in (-signal.SIGXCPU, *_KILLED):
                    raise self._cause(died.code, format_) from None
                continue
            if answer.reason:
                raise Poison(answer.reason, answer.detail)
            return Extracted(answer.text, answer.media_type, answer.metadata, answer.found)

    def _ask(self, data: bytes, format_: DocumentFormat, deadline: Deadline) -> Answered:
        process = self._started(deadline)
        asked = Asked(format_.name, self._text_limit, self._limits.seconds)
        request = b"".join([framed(encode(asked)), len(data).to_bytes(LENGTH_BYTES, "big"), data])
        self._served += 1
        try:
            answer = self._exchange(process, request, deadline)
        except BaseException:
            self._end()
            raise
        if answer.last:
            self._end()
        return answer

    def _started(self, deadline: Deadline) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise SourceUnavailable("the reader of documents is closed")
            if self._process is not None:
                return self._process
            try:
                process = self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "connectors.extraction.worker", str(self._limits.memory_bytes)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                    start_new_session=True,  # an interrupt at the terminal is for the connector to decide about
                )
            except OSError as error:
                raise Transient(f"the process that reads documents cannot be started: {error}") from None
            self._served = 0
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None  # both are asked for
            os.set_blocking(pipe.fileno(), False)
        try:
            self._exchange(process, b"", deadline)
        except _Died as died:
            self._end()
            raise Transient(f"the process that reads documents ended with {died.code} at its start") from None
        except BaseException:
            self._end()
            raise
        return process

    def _exchange(self, process: subprocess.Popen[bytes], request: bytes, deadline: Deadline) -> Answered:
        """Write and read at the same time, as far as the process takes and gives."""
        assert process.stdin is not None
        assert process.stdout is not None
        left, answer, most = memoryview(request), bytearray(), 2 * self._text_limit + _AROUND_BYTES
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if left:
                selector.register(process.stdin, selectors.EVENT_WRITE)
            while len(answer) < LENGTH_BYTES or len(answer) < LENGTH_BYTES + _length(answer):
                if deadline.expired:
                    raise Transient(
                        "there was not enough time to read it: the machine is too busy, or its source too slow"
                    )
                for key, _ in selector.select(deadline.remaining()):
                    if key.fileobj is process.stdout:
                        part = process.stdout.read(_READ_BYTES)
                        if part is None:
                            continue
                        answer += part
                        if not part or len(answer) > most:
                            raise _Died(self._code(process))
                    else:
                        try:
                            left = left[os.write(process.stdin.fileno(), left[:_READ_BYTES]) :]
                        except BlockingIOError:
                            continue
                        except BrokenPipeError:
                            left = left[:0]  # what it says, or its end, is to be read
                        if not left:
                            selector.unregister(process.stdin)
        try:
            return decode_answered(bytes(answer[LENGTH_BYTES:]))
        except msgspec.MsgspecError as error:
            raise Poison("reader_failed", f"its reader gave an answer that cannot be read: {error}") from None

    def _code(self, process: subprocess.Popen[bytes]) -> int:
        with self._lock:
            if self._closed:
                raise SourceUnavailable("the reader of documents is closed")
        try:
            return process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return 0  # it has closed its pipe, or floods it: ended by us

    def _cause(self, code: int, format_: DocumentFormat) -> Poison | Transient:
        if code == -signal.SIGXCPU:
            return Poison("too_slow", f"it takes more than {self._limits.seconds} s of processor time to read")
        if code == OUT_OF_MEMORY:
            most = self._limits.memory_bytes // _MIB
            return Poison("too_much_memory", f"it takes more than {most} MiB of memory to read")
        if code in _KILLED:
            return Transient("the process that was reading it was killed: the machine has too little memory")
        name = signal.Signals(-code).name if code < 0 else str(code)
        # A library that is not Python aborts when it gets no memory.
        return Poison("reader_failed", f"its reader ({format_.name}) ended with {name}, for its memory or a defect")

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        self._served = 0
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)


def _length(answer: bytearray) -> int:
    return int.from_bytes(answer[:LENGTH_BYTES], "big")
