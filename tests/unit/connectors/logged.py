"""A source in memory with a log of its own, which outlives the process that reads it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from connectors.memory import MemorySource
from pipeline.errors import Transient
from pipeline.ports import Backlog, Fetched, Hint, Listed, Skipped


@dataclass
class Server:
    """What stays when a connector is killed: documents, and a log of what changed."""

    documents: MemorySource = field(default_factory=lambda: MemorySource("m"))
    log: dict[int, str | None] = field(default_factory=dict)
    """What is kept, by place; None: anything may have changed."""
    next: int = 0
    kept: int = 0
    """The first place that was not acknowledged."""
    slot: str = "slot"

    def put(self, path: str, text: str) -> None:
        self.documents.put(path, text)
        self.note(path)

    def remove(self, path: str) -> None:
        self.documents.remove(path)
        self.note(path)

    def note(self, path: str | None) -> None:
        self.log[self.next] = path
        self.next += 1

    def texts(self) -> dict[str, str | None]:
        return {path: one.text for path, one in self.documents._documents.items()}


class LoggedSource:
    """A :class:`pipeline.ports.LogSource`."""

    def __init__(self, server: Server, portion: int = 3) -> None:
        self.id = server.documents.id
        self.scans = 0
        self.unreadable: set[str] = set()
        self.acknowledged: list[int] = []
        self._server = server
        self._portion = portion
        self._next: int | None = None
        self._end = server.next

    def resume(self, position: str | None) -> bool:
        slot, _, place = (position or "").partition("@")
        complete = slot == self._server.slot and int(place) >= self._server.kept
        self._next = int(place) if complete else self._server.kept
        return complete

    def caught_up(self) -> bool:
        return self._next is not None and self._next >= self._end

    def position(self) -> str:
        return f"{self._server.slot}@{self._next}"

    def acknowledge(self, position: str) -> None:
        place = int(position.partition("@")[2])
        self.acknowledged.append(place)
        self._server.kept = max(self._server.kept, place)
        for one in [one for one in self._server.log if one < place]:
            del self._server.log[one]

    def backlog(self) -> Backlog | None:
        return Backlog(len(self._server.log), "records")

    def scan(self) -> Iterator[Listed]:
        self.scans += 1
        yield from self._server.documents.scan()

    def hints(self, timeout: float) -> list[Hint]:
        assert self._next is not None
        end = min(self._server.next, self._next + self._portion)
        if end == self._next:
            time.sleep(min(timeout, 0.005))
        found = [Hint(self._server.log[place]) for place in range(self._next, end)]
        self._next = end
        return found

    def fetch(self, path: str) -> Fetched | Skipped | None:
        if path in self.unreadable:
            raise Transient("locked")
        return self._server.documents.fetch(path)

    def close(self) -> None:
        pass
