"""The process that reads documents: ``python -P -m connectors.extraction.worker MEMORY_BYTES``.

Whatever a document does to a reader happens here, within limits that the kernel keeps: memory and files of the
whole process, processor time of each document. It is started without the environment of its parent, which
holds secrets, and with no file open but its pipes.

It ends when its parent is gone, and when it has grown over half of its memory: a document's fate must
not depend on those before it.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import resource
import signal
import sys
import time
from contextlib import suppress
from typing import Final

import msgspec

from connectors.extraction.documents import BY_NAME
from connectors.extraction.wire import LENGTH_BYTES, OUT_OF_MEMORY, Answered, Asked, decode_asked, encode, framed
from pipeline.errors import Poison

_FILES: Final = 64
_DETAIL: Final = 300
#: An error's text must be the same each time, or a document would seem to change.
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{4,}")


def main() -> None:
    """Answer until standard input ends."""
    memory = int(sys.argv[1])
    asking, answering = _pipes()
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, _FILES)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    try:
        _send(answering, Answered())
        while (asked := _frame(asking)) is not None:
            answer = _answer(decode_asked(asked), _frame(asking) or b"", memory)
            _send(answering, answer)
            if answer.last:
                return
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except BrokenPipeError:
        os._exit(0)


def _pipes() -> tuple[int, int]:
    """Standard input and output, out of reach of whatever prints."""
    asking, answering = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
    return asking, answering


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    within = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with suppress(ValueError, OSError):  # a system that has no such limit
        resource.setrlimit(what, (within, within))


def _answer(asked: Asked, data: bytes, memory: int) -> Answered:
    # Over the soft limit the kernel sends SIGXCPU, which ends the process; the hard one stays for the next document.
    used = time.process_time()
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + asked.seconds), hard))
    answer = _read(asked, data)
    return msgspec.structs.replace(answer, last=_address_space() > memory // 2)


def _address_space() -> int:
    """Bytes, what the limit counts; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _read(asked: Asked, data: bytes) -> Answered:
    format_ = BY_NAME[asked.format]
    try:
        reader = importlib.import_module(f"connectors.extraction.documents.{format_.module}")
        found = reader.read(data, asked.limit)
    except Poison as poison:
        return Answered(reason=poison.reason, detail=_shown(poison.detail))
    except MemoryError:
        raise
    except RecursionError:
        return Answered(reason="malformed_document", detail=f"{format_.name}: it nests too deep")
    except Exception as error:  # whatever a library says of a file is about that file
        return Answered(reason="extraction_failed", detail=_shown(f"{format_.name}: {type(error).__name__}: {error}"))
    return Answered(found.text, found.media_type, dict(found.metadata), dict(found.found))


def _shown(detail: str) -> str:
    return _ADDRESS.sub("0x...", detail)[:_DETAIL].encode("utf-8", "replace").decode()


def _frame(source: int) -> bytes | None:
    """The next frame; None at the end."""
    length = _exactly(source, LENGTH_BYTES)
    return None if length is None else _exactly(source, int.from_bytes(length, "big"))


def _exactly(source: int, size: int) -> bytes | None:
    parts = []
    while size:
        part = os.read(source, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _send(target: int, answer: Answered) -> None:
    data = memoryview(framed(encode(answer)))
    while data:
        data = data[os.write(target, data) :]


if __name__ == "__main__":
    main()
