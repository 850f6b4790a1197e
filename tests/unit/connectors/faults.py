"""A broker that fails where a test says, around the real one; and a source that counts and fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from connectors.certification.interruptions import FaultyBroker, Killed
from connectors.memory import MemorySource
from pipeline.ports import Fetched, Hint, Listed, Skipped, without_pauses

__all__ = ["FaultyBroker", "Killed", "Spy", "reopened"]


class Spy:
    """A source that passes everything on, counts what is fetched, and fails where told."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.id: str = source.id
        self.fetched: list[str] = []
        self.fetch_errors: dict[str, list[Exception]] = {}
        self.scan_errors: list[Exception] = []
        self.hide: set[str] = set()
        """Paths that a scan does not list, though they are there."""

    def scan(self) -> Iterator[Listed]:
        for number, listed in enumerate(without_pauses(self._source.scan())):
            if self.scan_errors and number == 1:
                raise self.scan_errors.pop(0)
            if listed.path not in self.hide:
                yield listed
        if self.scan_errors:
            raise self.scan_errors.pop(0)

    def hints(self, timeout: float) -> list[Hint]:
        return self._source.hints(timeout)

    def fetch(self, path: str) -> Fetched | Skipped | None:
        self.fetched.append(path)
        errors = self.fetch_errors.get(path)
        if errors:
            raise errors.pop(0)
        return self._source.fetch(path)

    def close(self) -> None:
        self._source.close()


def reopened(source: MemorySource) -> MemorySource:
    """The same documents, as a new process finds them."""
    return MemorySource(source.id, source._documents, _revision=source._revision)
