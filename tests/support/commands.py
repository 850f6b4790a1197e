"""Commands of vectide inside this process, as their entry point runs them: quicker than one process each."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from pipeline.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def shown(self) -> str:
        """On both streams."""
        return self.out + self.err


def run(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Done:
    """Run a short command in a folder.

    Args:
        folder: its current folder.
        arguments: of ``vectide``.
        environment: besides this process's.
    """
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with _as_it_was(folder, environment or {}), redirect_stdout(out), redirect_stderr(err):
        sys.argv = ["vectide", *arguments]
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code
    return Done(code if isinstance(code, int) else 1, out.getvalue(), err.getvalue())


@contextmanager
def _as_it_was(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """What an entry point changes for good in its own process is put back."""
    root, before = logging.getLogger(), os.getcwd()
    asked = signal.getsignal(signal.SIGTERM)
    levels = {name: logging.getLogger(name).level for name in ("", "pipeline", "connectors", "kafka", "waitress.queue")}
    kept = (list(root.handlers), sys.argv, sys.excepthook, threading.excepthook, dict(os.environ), os.umask(0o022))
    os.umask(kept[5])
    os.chdir(folder)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.chdir(before)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, asked)
        root.handlers[:], sys.argv, sys.excepthook, threading.excepthook = kept[0], kept[1], kept[2], kept[3]
        os.environ.clear()
        os.environ.update(kept[4])
        os.umask(kept[5])
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
