"""A source that is busy and lists nothing: the runner goes on living, and hears what it must."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from connectors.filesystem import connector as filesystem
from connectors.mapping import Mapped, rules_of
from connectors.memory import MemorySource
from connectors.registry import open_source
from connectors.s3.settings import S3Settings
from connectors.s3.source import S3Source
from pipeline.config import SourceConfig
from pipeline.errors import SourceUnavailable
from pipeline.ports import Listed, Source
from pipeline.verification.sources import compare_sources
from tests.support.object_store import KEY_ID, SECRET, object_store
from tests.support.repositories import Repository
from tests.support.sources import Documents, running, wait_until
from tests.unit.connectors.faults import Spy


class Busy(Spy):
    """Passes over what is no document, until it is let go."""

    def __init__(self, source: MemorySource) -> None:
        super().__init__(source)
        self.release = threading.Event()

    def scan(self) -> Iterator[Listed | None]:  # type: ignore[override]
        while not self.release.is_set():
            time.sleep(0.001)
            yield None
        yield from super().scan()


def test_a_scan_that_finds_nothing_for_long_shows_that_it_lives(documents: Documents) -> None:
    """Given a bucket of which everything is excluded, then the loop beats, what changes is published, and no pause
    counts as a document.
    """
    source = MemorySource("m")
    busy = Busy(source)
    with running(busy, documents) as one:
        source.put("live", "x")
        documents.wait_for({"live": "x"})
        beats = one.health._beats
        before = beats["connect.m"]
        wait_until(lambda: beats["connect.m"] > before)
        assert not one.runner.scanned.is_set()
        busy.release.set()
        one.wait_scanned()
    assert one.metrics.registry.get_sample_value("vectide_source_documents", {"source": "m"}) == 1


def test_a_scan_that_finds_nothing_ends_with_its_process(documents: Documents) -> None:
    busy = Busy(MemorySource("m"))
    with running(busy, documents) as one:
        wait_until(lambda: "connect.m" in one.health._beats)
        one.stop.set()
        assert one.wait_ended() is None
    assert not busy.release.is_set()


def s3(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr("connectors.s3.bucket._PAGE", 2)
    server = object_store()
    bucket = server.bucket()
    server.put_many(bucket, {f"images/{number}": "x" for number in range(10)})
    table = {"bucket": bucket, "endpoint_url": server.url, "access_key_id": KEY_ID, "secret_access_key": SECRET}
    return S3Source("s", S3Settings.model_validate({**table, "exclude": ["images/"]}), 1000)


def git(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    repository = Repository(folder / "handbook")
    for number in range(5):
        repository.write(f"images/{number}", "x")
    repository.commit()
    table = {"connector": "git", "repository": str(repository.folder), "exclude": ["images/"]}
    return open_source("s", SourceConfig.model_validate(table), 1000, folder / "state")


def files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    for number in range(5):
        (folder / f"{number}.log").write_text("x")
    return filesystem("s", {"path": str(folder), "exclude": ["*.log"]}, 1000)


def folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    for number in range(5):
        (folder / str(number)).mkdir()
    return filesystem("s", {"path": str(folder)}, 1000)


def mapped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    return Mapped(files(folder, monkeypatch), rules_of("s", {"tenant": "acme"}))


@pytest.mark.parametrize("made", [s3, git, files, folders, mapped])
def test_a_source_pauses_where_it_passes_things_over(
    made: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a place of five pages, files or folders without a document, then there are as many pauses."""
    source: Source = made(tmp_path, monkeypatch)  # type: ignore[operator]
    end = time.monotonic() + 90
    while True:
        try:
            found = list(source.scan())
            break
        except SourceUnavailable as error:  # the first fetch on a busy machine
            if "takes a while" not in str(error) or time.monotonic() > end:
                raise
    source.close()
    assert len(found) >= 5
    assert set(found) == {None}


def test_a_listing_is_asked_for_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all pauses come at the end."""
    source, server = s3(tmp_path, monkeypatch), object_store()
    scan = source.scan()
    before = server.requests()
    assert list(islice(scan, 2)) == [None, None]
    assert server.requests() - before == 2
    source.close()


def test_a_verification_can_be_stopped_where_a_source_lists_nothing(documents: Documents) -> None:
    """Its stop is what its progress raises."""
    busy = Busy(MemorySource("m"))

    def stopped(what: str, done: int, whole: int) -> None:
        if what == "m":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        compare_sources(
            documents.broker,
            documents.names.documents(0),
            [busy],  # type: ignore[list-item]
            publish=None,  # type: ignore[arg-type]
            on_progress=stopped,
            wait=lambda _: None,
        )
