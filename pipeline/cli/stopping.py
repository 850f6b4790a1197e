"""How a process is told to stop: from its first import to its last thread.

A process that is number 1 of its container has no default action for SIGTERM: without a handler of
ours it would not be told at all, and be killed at the end of its grace period.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, NoReturn

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_asked = threading.Event()


def end_at_once(code: int = 0) -> None:
    """From now on SIGTERM ends the process with ``code``: a long-lived command that is still being imported
    has begun nothing. :func:`until_stopped` takes over from there.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(code))


@contextmanager
def until_stopped() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set. A second SIGTERM changes nothing, a second Ctrl-C
    interrupts at once.
    """
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        _asked.set()
        stop.set()

    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, old in before.items():
            # Whoever asks twice must not cut off what comes now: the end of the process.
            signal.signal(number, signal.SIG_IGN if _asked.is_set() else old)


def asked() -> bool:
    """Whether this process was told to stop; what fails may set the event of :func:`until_stopped`, too."""
    return _asked.is_set()


def leave(code: int) -> NoReturn:
    """End the process, as one that was asked to stop at once: everything that matters is closed by now.

    A thread that did not end in time, such as a model in the middle of a forward pass, would be waited
    for without end, or be cut off in the interpreter's own end, which aborts the process.
    """
    if _asked.is_set():
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        os._exit(code)
    sys.exit(code)
