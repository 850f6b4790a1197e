"""One broker for all the workers of a test run: each is some 10 s of processor to start, and idles at 5 %."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.support.kafka import KafkaServer

#: Names the run's folder to its workers, which inherit it.
_VARIABLE = "VECTIDE_TEST_KAFKA"
_STOP_SECONDS = 30.0


class SharedKafka(NamedTuple):
    """It is everybody's: who wants to hurt a broker starts one of its own (`tests.support.kafka`)."""

    port: int

    @property
    def bootstrap(self) -> str:
        """host:port"""
        return f"127.0.0.1:{self.port}"


def begin() -> None:
    """At the start of a run, once: nothing is started yet."""
    os.environ[_VARIABLE] = tempfile.mkdtemp(prefix="vectide-kafka-")


def shared() -> SharedKafka:
    """The broker of this run, or of this process if it belongs to none; who asks first starts it. Raises Missing."""
    if _VARIABLE not in os.environ:
        begin()
        atexit.register(end)
    folder = Path(os.environ[_VARIABLE])
    noted = folder / "running"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # bounded: a broker that does not start ends its starter
        if not noted.exists():
            server = KafkaServer(folder)
            server.start()
            noted.write_text(f"{server.port} {server.leave()}")
    return SharedKafka(int(noted.read_text().split()[0]))


def end() -> None:
    """At the end of a run, once: stops it if it was started."""
    folder = Path(os.environ.pop(_VARIABLE))
    noted = folder / "running"
    if noted.exists():
        with suppress(psutil.NoSuchProcess):
            broker = psutil.Process(int(noted.read_text().split()[1]))
            broker.terminate()
            for one in psutil.wait_procs([broker], _STOP_SECONDS)[1]:
                one.kill()
    shutil.rmtree(folder, ignore_errors=True)
