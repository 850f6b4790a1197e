"""Places for the certification suite: one for each connector."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from connectors.certification import LIMIT_BYTES, Fault, Place
from connectors.memory import MemorySource
from connectors.registry import open_source
from pipeline.config import SourceConfig
from pipeline.errors import Poison, SourceUnavailable
from pipeline.ports import Fetched, Hint, Listed, Skipped, Source


class FolderPlace:
    """A folder on disk."""

    faults: tuple[Fault, ...] = ("down", "unauthorised") if os.geteuid() else ("down",)  # root may read everything

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "root"
        self.folder.mkdir()

    def _path(self, path: str) -> Path:
        away = self.folder.with_name("away")
        return (away if away.exists() else self.folder) / path

    def put(self, path: str, text: str) -> None:
        self._path(path).parent.mkdir(parents=True, exist_ok=True)
        self._path(path).write_text(text, encoding="utf-8")

    def remove(self, path: str) -> None:
        self._path(path).unlink()

    def rename(self, old: str, new: str) -> None:
        self._path(old).rename(self._path(new))

    def poison(self, path: str) -> None:
        self.put(path, "x" * (LIMIT_BYTES + 1))

    def break_(self, fault: Fault) -> None:
        if fault == "down":
            self.folder.rename(self.folder.with_name("away"))
        else:
            self.folder.chmod(0)

    def mend(self) -> None:
        if self.folder.exists():
            self.folder.chmod(0o700)
        else:
            self.folder.with_name("away").rename(self.folder)

    def source(self) -> Source:
        return open_source("place", SourceConfig.model_validate({"path": str(self.folder)}), LIMIT_BYTES)


class MemoryPlace:
    """A source in memory, and all that a place can be."""

    faults: tuple[Fault, ...] = ("down", "slow", "unauthorised", "garbled")
    secrets = ("hunter2",)

    def __init__(self, folder: Path) -> None:
        self.one = MemorySource("place")
        self.fault: Fault | None = None
        self.poisoned: set[str] = set()
        self.open: list[MemorySource] = []

    def put(self, path: str, text: str) -> None:
        self.one.put(path, text)
        self._tell()

    def remove(self, path: str) -> None:
        self.one.remove(path)
        self._tell()

    def rename(self, old: str, new: str) -> None:
        self.one.rename(old, new)
        self._tell()

    def poison(self, path: str) -> None:
        self.poisoned.add(path)
        self.put(path, "poison")

    def break_(self, fault: Fault) -> None:
        self.fault = fault

    def mend(self) -> None:
        self.fault = None

    def source(self) -> Source:
        made = MemorySource("place", self.one._documents, _revision=self.one._revision)
        self.open.append(made)
        return _Weathered(made, self)

    def _tell(self) -> None:
        for source in self.open:
            with source._changed:
                for path in list(self.one._hints):
                    source._note(path)
        self.one._hints.clear()


class _Weathered:
    """A source whose place can break."""

    def __init__(self, source: MemorySource, place: MemoryPlace) -> None:
        self._source = source
        self._place = place
        self._closed = threading.Event()
        self.id = source.id

    def _check(self) -> None:
        match self._place.fault:
            case "slow":
                self._closed.wait(0.05)
            case None:
                pass
            case fault:
                raise SourceUnavailable(f"the place is {fault}")

    def scan(self) -> Iterator[Listed]:
        self._check()
        for listed in self._source.scan():
            self._check()
            yield listed

    def hints(self, timeout: float) -> list[Hint]:
        end = time.monotonic() + timeout
        self._check()
        return self._source.hints(max(0.0, end - time.monotonic()))

    def fetch(self, path: str) -> Fetched | Skipped | None:
        self._check()
        if path in self._place.poisoned and path in self._source._documents:
            raise Poison("broken", "nobody can read it")
        return self._source.fetch(path)

    def close(self) -> None:
        self._closed.set()
        self._source.close()


PLACES: dict[str, Callable[[Path], Place]] = {"filesystem": FolderPlace, "memory": MemoryPlace}
