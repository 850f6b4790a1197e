"""Broken connectors: each has one fault, and the certification must name it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from connectors.certification import Place
from pipeline.errors import Fatal, SourceUnavailable, Transient
from pipeline.identity import content_hash
from pipeline.ports import Fetched, Hint, Listed, Skipped, Source, without_pauses
from tests.contract.places import MemoryPlace

log = logging.getLogger(__name__)


class Broken:
    """Passes everything on: a connector without a fault, for others to spoil."""

    def __init__(self, source: Source, place: MemoryPlace) -> None:
        self.source = source
        self.place = place
        self.id = source.id

    def scan(self) -> Iterator[Listed]:
        yield from without_pauses(self.source.scan())

    def hints(self, timeout: float) -> list[Hint]:
        return self.source.hints(timeout)

    def fetch(self, path: str) -> Fetched | Skipped | None:
        return self.source.fetch(path)

    def close(self) -> None:
        self.source.close()


def placed(broken: type[Broken]) -> Callable[[Path], Place]:
    class BrokenPlace(MemoryPlace):
        def source(self) -> Source:
            return broken(super().source(), self)

    return BrokenPlace


def changed(found: Fetched | Skipped | None, **changes: Any) -> Fetched | Skipped | None:
    return replace(found, **changes) if isinstance(found, Fetched) else found


class ListsTwice(Broken):
    def scan(self) -> Iterator[Listed]:
        for listed in without_pauses(super().scan()):
            yield listed
            yield listed


class ListsItsFolder(Broken):
    def scan(self) -> Iterator[Listed]:
        yield Listed("", "0")
        yield from super().scan()


class HasOneRevision(Broken):
    def scan(self) -> Iterator[Listed]:
        return (replace(listed, revision="1") for listed in without_pauses(super().scan()))

    def fetch(self, path: str) -> Fetched | Skipped | None:
        return changed(super().fetch(path), revision="1")


class HasAnotherRevisionEachTime(Broken):
    def scan(self) -> Iterator[Listed]:
        return (replace(listed, revision=str(time.time_ns())) for listed in without_pauses(super().scan()))


class FetchesAnotherRevision(Broken):
    def fetch(self, path: str) -> Fetched | Skipped | None:
        return changed(super().fetch(path), revision="another")


class StripsTexts(Broken):
    def fetch(self, path: str) -> Fetched | Skipped | None:
        found = super().fetch(path)
        assert isinstance(found, Fetched)
        return replace(found, text=(found.text or "").strip())


class CountsInMetadata(Broken):
    reads = 0

    def fetch(self, path: str) -> Fetched | Skipped | None:
        CountsInMetadata.reads += 1
        return changed(super().fetch(path), metadata={"reads": CountsInMetadata.reads})


class HasPathsInMetadata(Broken):
    def fetch(self, path: str) -> Fetched | Skipped | None:
        return changed(super().fetch(path), metadata={"path": path})


class HasPathsInDigests(Broken):
    def fetch(self, path: str) -> Fetched | Skipped | None:
        found = super().fetch(path)
        return changed(found, digest=content_hash(path + found.text)) if isinstance(found, Fetched) else found


class NestsMetadata(Broken):
    def fetch(self, path: str) -> Fetched | Skipped | None:
        return changed(super().fetch(path), metadata={"author": {"name": "x"}})


class FindsEverything(Broken):
    def fetch(self, path: str) -> Fetched | Skipped | None:
        return super().fetch(path) or Fetched(path, "0", "", content_hash(""), "text/plain", {}, time.time())


class RemembersWhatIsGone(Broken):
    seen: dict[str, Fetched | Skipped]

    def scan(self) -> Iterator[Listed]:
        self.seen = {}
        for listed in without_pauses(super().scan()):
            self.seen[listed.path] = self.source.fetch(listed.path)  # type: ignore[assignment]
            yield listed

    def fetch(self, path: str) -> Fetched | Skipped | None:
        return super().fetch(path) or next(iter(self.place.__dict__.setdefault("kept", self.seen).values()), None)


class HintsNoDeletes(Broken):
    def hints(self, timeout: float) -> list[Hint]:
        return [hint for hint in super().hints(timeout) if hint.path and self.source.fetch(hint.path)]


class HintsOfAnotherTime(Broken):
    def hints(self, timeout: float) -> list[Hint]:
        return [replace(hint, at=1000.0) for hint in super().hints(timeout)]


class BeginsToWatchAfterTheScan(Broken):
    def scan(self) -> Iterator[Listed]:
        yield from super().scan()
        self.source.hints(0.0)


class HintsForNothing(Broken):
    def hints(self, timeout: float) -> list[Hint]:
        return super().hints(min(timeout, 0.01)) or [Hint("quiet")]


class IsNotWokenByClose(Broken):
    def hints(self, timeout: float) -> list[Hint]:
        threading.Event().wait(min(timeout, 8.0))
        return []


class DependsOnTheProcess(Broken):
    def scan(self) -> Iterator[Listed]:
        return (
            replace(listed, revision=f"{listed.revision} of {id(self)}") for listed in without_pauses(super().scan())
        )


class SkipsATextFile(Broken):
    def fetch(self, path: str) -> Fetched | Skipped | None:
        return Skipped(path, "1", "binary") if path == "a.txt" else super().fetch(path)


class HintsNothing(Broken):
    def hints(self, timeout: float) -> list[Hint]:
        super().hints(timeout)
        return []


class KeepsACursorOfItsOwn(Broken):
    """It lists what it has not listed before, whoever has published that."""

    def scan(self) -> Iterator[Listed]:
        cursor: set[tuple[str, str]] = self.place.__dict__.setdefault("cursor", set())
        for listed in without_pauses(super().scan()):
            if (listed.path, listed.revision) not in cursor:
                cursor.add((listed.path, listed.revision))
                yield listed

    def hints(self, timeout: float) -> list[Hint]:
        super().hints(timeout)
        return []


class ReadsFromALaggingReplica(Broken):
    texts: dict[str, list[Fetched]]

    def fetch(self, path: str) -> Fetched | Skipped | None:
        found = super().fetch(path)
        if isinstance(found, Fetched):
            kept = self.place.__dict__.setdefault("versions", {}).setdefault(path, [])
            kept.append(found)
            if len(kept) % 3 == 0:
                return kept[-3]
        return found


class LogsWhatItDoes(Broken):
    def fetch(self, path: str) -> Fetched | Skipped | None:
        log.info("fetching a document")
        return super().fetch(path)


class LogsItsSettings(Broken):
    def scan(self) -> Iterator[Listed]:
        log.debug("connecting", extra={"url": f"https://me:{self.place.secrets[0]}@host"})
        yield from super().scan()


class ShowsItsPasswordInErrors(Broken):
    def hints(self, timeout: float) -> list[Hint]:
        try:
            return super().hints(timeout)
        except SourceUnavailable as error:
            raise SourceUnavailable(f"{error}: password {self.place.secrets[0]} refused") from None


class ShowsItsPasswordInItsRepr(Broken):
    def __repr__(self) -> str:
        return f"Broken({self.place.secrets!r})"


class LosesWhatItCannotRead(Broken):
    def fetch(self, path: str) -> Fetched | Skipped | None:
        return None if path in self.place.poisoned else super().fetch(path)


class IsPoisonedAsAWhole(Broken):
    def fetch(self, path: str) -> Fetched | Skipped | None:
        if path in self.place.poisoned:
            raise SourceUnavailable("one document cannot be read")
        return super().fetch(path)


class TriesThePoisonForEver(Broken):
    def fetch(self, path: str) -> Fetched | Skipped | None:
        if path in self.place.poisoned:
            raise Transient("not now")
        return super().fetch(path)


class KeepsTheFirstText(Broken):
    def fetch(self, path: str) -> Fetched | Skipped | None:
        found = super().fetch(path)
        return self.place.__dict__.setdefault("first", {}).setdefault(path, found) if found else None


class TakesAnOutageForAnEmptyPlace(Broken):
    def scan(self) -> Iterator[Listed]:
        if self.place.fault is None:
            yield from super().scan()

    def hints(self, timeout: float) -> list[Hint]:
        if self.place.fault is None:
            return super().hints(timeout)
        return [Hint(path) for path in self.place.one._documents]

    def fetch(self, path: str) -> Fetched | Skipped | None:
        return super().fetch(path) if self.place.fault is None else None


class SaysThatItWaitsAndDeletes(TakesAnOutageForAnEmptyPlace):
    until = 0.0

    def hints(self, timeout: float) -> list[Hint]:
        self.until = self.until or (time.monotonic() + 0.3 if self.place.fault is not None else 0.0)
        if time.monotonic() < self.until:
            raise SourceUnavailable("away for a moment")
        return super().hints(timeout)


class EndsWithAnOutage(Broken):
    def _check(self) -> None:
        if self.place.fault is not None:
            raise Fatal("the source is away")

    def scan(self) -> Iterator[Listed]:
        self._check()
        yield from super().scan()

    def hints(self, timeout: float) -> list[Hint]:
        self._check()
        return super().hints(timeout)

    def fetch(self, path: str) -> Fetched | Skipped | None:
        self._check()
        return super().fetch(path)


class PublishesTheErrorPage(Broken):
    def scan(self) -> Iterator[Listed]:
        fault, self.place.fault = self.place.fault, None
        yield from list(super().scan())
        self.place.fault = fault

    def hints(self, timeout: float) -> list[Hint]:
        if self.place.fault is None:
            return super().hints(timeout)
        return [Hint(path) for path in self.place.one._documents]

    def fetch(self, path: str) -> Fetched | Skipped | None:
        if self.place.fault is None:
            return super().fetch(path)
        page = "<h1>502 Bad Gateway</h1>"
        return Fetched(path, "502", page, content_hash(page), "text/html", {}, time.time(), len(page))


class WaitsWithoutALimit(Broken):
    def scan(self) -> Iterator[Listed]:
        end = time.monotonic() + 8.0
        while self.place.fault is not None and time.monotonic() < end:
            time.sleep(0.05)
        yield from super().scan()


class TriesAgainAtOnce(Broken):
    """Ten thousand times; the certification counts what came of them."""

    def hints(self, timeout: float) -> list[Hint]:
        for _ in range(10_000):
            try:
                return super().hints(timeout)
            except SourceUnavailable as error:
                away = error
        raise away


class GivesUpOnSlowAnswers(Broken):
    def scan(self) -> Iterator[Listed]:
        if self.place.fault == "slow":
            raise Fatal("timed out")
        yield from super().scan()


class KeepsEverything(Broken):
    kept: list[bytes]

    def fetch(self, path: str) -> Fetched | Skipped | None:
        found = super().fetch(path)
        if isinstance(found, Fetched) and found.text is not None:
            kept: list[bytes] = self.__dict__.setdefault("kept", [])
            kept.append(found.text.encode() * 24)
        return found
