"""The contract of sources: every connector passes it, over a place of its own.

To certify a connector, write a ``Place`` for it and add it to ``PLACES``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from connectors.memory import MemorySource
from connectors.registry import open_source
from pipeline.config import SourceConfig
from pipeline.identity import content_hash
from pipeline.ports import Fetched, Hint, Source
from tests.contract.postgres_place import PostgresPlace

LIMIT = 64 * 1024
PATHS = ["a.txt", "sub/b.md", "sub/deeper/ünïcödé 漢字 🌊.txt", "with space/c%d:e.txt"]


class Place(Protocol):
    """Where documents live, seen from the other side."""

    def put(self, path: str, text: str) -> None: ...

    def remove(self, path: str) -> None: ...

    def rename(self, old: str, new: str) -> None: ...

    def source(self) -> Source: ...


class FolderPlace:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "root"
        self.folder.mkdir()

    def put(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text, encoding="utf-8")

    def remove(self, path: str) -> None:
        (self.folder / path).unlink()

    def rename(self, old: str, new: str) -> None:
        (self.folder / old).rename(self.folder / new)

    def source(self) -> Source:
        return open_source("place", SourceConfig.model_validate({"path": str(self.folder)}), LIMIT)


class MemoryPlace:
    def __init__(self, folder: Path) -> None:
        self.one = MemorySource("place")

    def put(self, path: str, text: str) -> None:
        self.one.put(path, text)

    def remove(self, path: str) -> None:
        self.one.remove(path)

    def rename(self, old: str, new: str) -> None:
        self.one.rename(old, new)

    def source(self) -> Source:
        return self.one


PLACES: dict[str, Callable[[Path], Place]] = {
    "filesystem": FolderPlace,
    "memory": MemoryPlace,
    "postgres": PostgresPlace,
}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    one = PLACES[request.param](tmp_path)
    yield one
    if isinstance(one, PostgresPlace):
        one.close()


@pytest.fixture
def source(place: Place) -> Iterator[Source]:
    one = place.source()
    yield one
    one.close()


def listing(source: Source) -> dict[str, str]:
    return {one.path: one.revision for one in source.scan()}


def fetched(source: Source, path: str) -> Fetched:
    found = source.fetch(path)
    assert isinstance(found, Fetched)
    return found


def hints_until(source: Source, enough: Callable[[list[Hint]], bool]) -> list[Hint]:
    found: list[Hint] = []
    end = time.monotonic() + 20
    while not enough(found):
        assert time.monotonic() < end, found
        found += source.hints(0.5)
    return found


def covers(hints: list[Hint], path: str) -> bool:
    """A hint names the document, something above it, or everything."""
    return any(hint.path is None or hint.path == path or path.startswith(hint.path + "/") for hint in hints)


def test_a_scan_lists_every_document_once(place: Place, source: Source) -> None:
    for path in PATHS:
        place.put(path, path)
    listed = [one.path for one in source.scan()]
    assert sorted(listed) == sorted(PATHS)


def test_an_empty_place_lists_nothing(source: Source) -> None:
    assert list(source.scan()) == []


def test_what_did_not_change_keeps_its_revision_and_what_did_has_another(place: Place, source: Source) -> None:
    place.put("still", "one")
    place.put("edited", "one")
    before = listing(source)
    place.put("edited", "two")
    after = listing(source)
    assert after["still"] == before["still"]
    assert after["edited"] != before["edited"]


@pytest.mark.parametrize("path", PATHS)
def test_a_fetched_document_is_the_listed_one(place: Place, source: Source, path: str) -> None:
    """Given a document, when it is fetched, then revision, text, digest and size belong together."""
    place.put(path, f"text of {path}\n")
    found = fetched(source, path)
    assert found.path == path
    assert found.revision == listing(source)[path]
    assert found.text == f"text of {path}\n"
    assert found.digest == content_hash(found.text)
    assert found.size == len(found.text.encode())
    assert found.media_type
    assert abs(found.event_time - time.time()) < 60
    assert not found.omitted


def test_fetching_twice_gives_the_same(place: Place, source: Source) -> None:
    place.put("same.md", "# A title\n\nand a text\n")
    assert source.fetch("same.md") == source.fetch("same.md")


def test_a_copy_has_the_digest_and_the_metadata_of_its_original(place: Place, source: Source) -> None:
    """A rename and a copy must embed nothing: nothing of the path may be in text or digest."""
    place.put("one/original.txt", "the same text")
    place.put("two/copy.txt", "the same text")
    original, copy = fetched(source, "one/original.txt"), fetched(source, "two/copy.txt")
    assert (original.digest, original.text) == (copy.digest, copy.text)
    assert "original" not in repr(original.metadata)


def test_metadata_are_scalars_and_lists_of_text(place: Place, source: Source) -> None:
    place.put("m.md", "# T\n\nx\n")
    for name, value in fetched(source, "m.md").metadata.items():
        assert isinstance(name, str)
        assert isinstance(value, str | int | float | bool) or all(isinstance(item, str) for item in value)


@pytest.mark.parametrize(
    "path", ["absent", "sub/absent", "", ".", "..", "../root/a.txt", "/etc/passwd", "a\0b", "a//b"]
)
def test_what_is_not_listed_cannot_be_fetched(place: Place, source: Source, path: str) -> None:
    place.put("a.txt", "x")
    place.put("a/b", "x")
    assert source.fetch(path) is None


def test_a_removed_document_is_gone(place: Place, source: Source) -> None:
    place.put("gone", "x")
    place.remove("gone")
    assert source.fetch("gone") is None
    assert listing(source) == {}


def test_every_change_is_hinted(place: Place, source: Source) -> None:
    """Given a source that was scanned, when a document is created, edited, renamed and removed, then
    each is hinted, with a time.
    """
    list(source.scan())
    for change, paths in (
        (lambda: place.put("d.txt", "1"), ["d.txt"]),
        (lambda: place.put("d.txt", "2"), ["d.txt"]),
        (lambda: place.rename("d.txt", "e.txt"), ["d.txt", "e.txt"]),
        (lambda: place.remove("e.txt"), ["e.txt"]),
    ):
        before = time.time()
        change()
        found = hints_until(source, lambda hints, paths=paths: all(covers(hints, path) for path in paths))
        assert all(hint.at is None or before - 1 <= hint.at <= time.time() for hint in found)


def test_a_change_during_the_scan_is_hinted(place: Place, source: Source) -> None:
    """Nothing falls between the first scan and watching."""
    for number in range(20):
        place.put(f"{number}.txt", "x")
    scan = source.scan()
    next(scan)
    place.put("0.txt", "changed behind the scan's back")
    place.put("new.txt", "x")
    list(scan)
    hints_until(source, lambda hints: covers(hints, "0.txt") and covers(hints, "new.txt"))


def test_quiet_places_give_no_hints(place: Place, source: Source) -> None:
    place.put("quiet", "x")
    list(source.scan())
    while source.hints(0.3):  # what the put itself caused
        pass
    assert source.hints(0.05) == []


def test_close_wakes_a_waiting_thread_and_may_be_repeated(source: Source) -> None:
    list(source.scan())
    woken = threading.Event()

    def wait() -> None:
        source.hints(60.0)
        woken.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    time.sleep(0.1)
    source.close()
    assert woken.wait(20)
    source.close()


def test_two_sources_over_one_place_agree(place: Place, source: Source) -> None:
    """What a restart sees is what was there before it."""
    for path in PATHS:
        place.put(path, path)
    other = place.source()
    try:
        assert list(other.scan()) == list(source.scan())
        assert [other.fetch(path) for path in PATHS] == [source.fetch(path) for path in PATHS]
    finally:
        other.close()
