"""What a running vectide process says over HTTP, and what the broker says of its groups."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any, Final

from kafka import KafkaAdminClient

from tests.support.deployment import Command, Deployment

#: On the path of a process that is to be hindered: see its sitecustomize.
HINDERED: Final = str(Path(__file__).parent / "hindered")
#: On a machine that others have as well.
SECONDS: Final = 240.0


def until(true: Callable[[], bool], what: Callable[[], str] = lambda: "it never came true") -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.5)  # some looks are dear


def until_said(command: Command, word: str) -> None:
    """Wait until a command has written this to standard error; one that ends before does not any more."""
    until(lambda: command.said(word) or command.process.poll() is not None, command.errors)
    assert command.said(word), command.errors()


class Probed:
    """A long-lived process on a port that is known before it says that it is ready.

    Args:
        made: where it runs.
        arguments: of ``vectide``.
        hindrances: variables of tests/support/hindered, without their prefix.
    """

    def __init__(self, made: Deployment, *arguments: str, **hindrances: object) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = {f"VECTIDE_TEST_{name.upper()}": str(value) for name, value in hindrances.items()}
        if hindrances:
            root = Path(__file__).parents[2]
            environment["PYTHONPATH"] = f"{HINDERED}:{root}"
        self.command: Command = made.begin(*arguments, VECTIDE_HTTP__PORT=str(self.port), **environment)

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; status 0 if nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def post(self, path: str, body: dict[str, Any], timeout: float = 60.0) -> tuple[int, Any]:
        """Status and decoded body."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.loads(answer.read())

    @contextmanager
    def searching(self, held: Path) -> Iterator[None]:
        """What is done within is done while a search is in work, which is answered afterwards.

        Args:
            held: its hindrance ``query``, which must not be there yet.
        """
        question, answers = "The words of number w1", Queue[Any]()

        def ask() -> None:
            try:
                answers.put(self.post("/search", {"query": question, "top": 1}))
            except OSError as error:
                answers.put(error)

        held.touch()
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        try:
            until(lambda: question in held.read_text() or not asking.is_alive(), self.command.errors)
            assert asking.is_alive(), f"{answers.get()!r}\n{self.command.errors()}"
            yield
        finally:
            held.unlink()
        found = answers.get(timeout=SECONDS)
        assert not isinstance(found, OSError), f"{found!r}\n{self.command.errors()}"
        status, answer = found
        assert (status, len(answer["hits"])) == (200, 1)

    def probes(self) -> tuple[int, int, int]:
        """What /livez, /readyz and /startupz answer."""
        live, ready, started = (self.get(path)[0] for path in ("/livez", "/readyz", "/startupz"))
        return live, ready, started

    def until_probes(self, live: int, ready: int, started: int) -> None:
        """Wait until they answer this; the process must not have ended."""

        def look() -> bool:
            assert self.command.process.poll() is None, self.command.errors()
            return self.probes() == (live, ready, started)

        until(look, lambda: f"{self.probes()}\n{self.get('/readyz')}\n{self.command.errors()}")

    def until_not_ready(self, part: str) -> None:
        """Wait until /readyz names a part that does not work; nothing asks for a restart meanwhile."""

        def look() -> bool:
            assert self.command.process.poll() is None, self.command.errors()
            status, reasons = self.get("/readyz")
            return status == 503 and part in reasons

        until(look, lambda: f"{self.get('/readyz')}\n{self.command.errors()}")
        assert (self.get("/livez")[0], self.get("/startupz")[0]) == (200, 200)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        _, text = self.get("/metrics")
        total = 0.0
        for line in text.splitlines():
            found = re.fullmatch(r"vectide_(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == name:
                given = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
                if labels.items() <= given.items():
                    total += float(found[3])
        return total


def members(bootstrap: str, group: str) -> int:
    """Members of a consumer group, as the broker knows them."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        described = admin.describe_groups([group])
        (one,) = described.values() if isinstance(described, dict) else described
        return len(one["members"] if isinstance(one, dict) else one.members)
    finally:
        admin.close()
