"""The filesystem connector with the runner, over real folders: what is saved is what is published."""

from __future__ import annotations

import os
import shutil
import socket
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from connectors import filesystem
from connectors.filesystem import FilesystemSource, connector
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.errors import ConfigError, SourceUnavailable
from pipeline.ports import Fetched, Hint, Skipped, Source, without_pauses
from tests.support.sources import Documents, running, scanned, wait_until
from tests.unit.connectors.faults import Spy

LIMIT = 64 * 1024


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def opened(root: Path, **settings: Any) -> Source:
    return connector("files", {"path": str(root), **settings}, LIMIT)


@pytest.fixture
def source(root: Path) -> Iterator[Source]:
    one = opened(root)
    yield one
    one.close()


def paths(source: Source) -> list[str]:
    found = [one.path for one in without_pauses(source.scan())]
    source.close()
    return found


def test_ten_thousand_unchanged_files_publish_nothing_and_none_is_read(
    root: Path, tmp_path: Path, documents: Documents
) -> None:
    for folder in range(100):
        (root / str(folder)).mkdir()
        for number in range(100):
            (root / str(folder) / f"{number}.txt").write_text(f"{folder} {number}")
    scanned(opened(root), documents, tmp_path / "state")
    ends = (documents.broker.offsets(documents.names.documents(0)), documents.states())
    spy = Spy(opened(root))
    scanned(spy, documents, tmp_path / "state")
    assert spy.fetched == []
    assert (documents.broker.offsets(documents.names.documents(0)), documents.states()) == ends
    assert documents.states() == 10_000


def test_every_kind_of_edit_reaches_the_log(root: Path, documents: Documents) -> None:
    with running(opened(root), documents) as one:
        one.wait_scanned()
        (root / "a.txt").write_text("created")
        documents.wait_for({"a.txt": "created"})
        with (root / "a.txt").open("a") as file:
            file.write(", appended")
        documents.wait_for({"a.txt": "created, appended"})
        (root / "a.txt").rename(root / "b.txt")
        documents.wait_for({"b.txt": "created, appended"})
        shutil.copy(root / "b.txt", root / "c.txt")
        documents.wait_for({"b.txt": "created, appended", "c.txt": "created, appended"})
        (root / "b.txt").unlink()
        documents.wait_for({"c.txt": "created, appended"})
    now = documents.now()["c.txt"]
    assert now.digest == next(event.digest for event in documents.events() if getattr(event, "text", "") == now.text)


def test_folders_come_move_and_go_with_all_that_is_in_them(root: Path, tmp_path: Path, documents: Documents) -> None:
    outside = tmp_path / "outside"
    (outside / "deep" / "er").mkdir(parents=True)
    for name in ("1.txt", "deep/2.txt", "deep/er/3.txt"):
        (outside / name).write_text(name)
    contents = {"1.txt": "1.txt", "deep/2.txt": "deep/2.txt", "deep/er/3.txt": "deep/er/3.txt"}
    with running(opened(root), documents) as one:
        one.wait_scanned()
        outside.rename(root / "in")
        documents.wait_for({f"in/{path}": text for path, text in contents.items()})
        (root / "in").rename(root / "moved")
        documents.wait_for({f"moved/{path}": text for path, text in contents.items()})
        (root / "moved" / "deep" / "er" / "3.txt").write_text("edited in a moved folder")
        wait_until(lambda: documents.texts().get("moved/deep/er/3.txt") == "edited in a moved folder")
        shutil.rmtree(root / "moved" / "deep")
        documents.wait_for({"moved/1.txt": "1.txt"})
        (root / "moved").rename(outside)
        documents.wait_for({})


def test_files_made_at_once_in_a_new_folder_are_not_missed(root: Path, documents: Documents) -> None:
    """Given a folder whose watch is not there yet when files are made in it, then they are found."""
    with running(opened(root), documents) as one:
        one.wait_scanned()
        expected: dict[str, str | None] = {}
        for number in range(30):
            folder = root / f"d{number}" / "e" / "f"
            folder.mkdir(parents=True)
            (folder / "x.txt").write_text(str(number))
            expected[f"d{number}/e/f/x.txt"] = str(number)
        documents.wait_for(expected)


def test_a_full_folder_that_is_moved_in_is_left_to_a_scan(
    root: Path, tmp_path: Path, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing for hints has no pauses: a million files would take longer than a loop may stand still."""
    monkeypatch.setattr(filesystem, "_LISTED", 20)
    made = tmp_path / "made"
    made.mkdir()
    for number in range(30):
        (made / f"{number}.txt").write_text(f"text {number}")
    source = opened(root)
    assert list(without_pauses(source.scan())) == []
    made.rename(root / "full")
    wait_until(lambda: source.hints(0.1) == [Hint(None, ANY)])
    source.close()
    with running(opened(root), documents) as one:
        one.wait_scanned()
        (root / "full").rename(root / "moved")
        documents.wait_for({f"moved/{number}.txt": f"text {number}" for number in range(30)})


def test_a_folder_replaced_by_a_file_and_back(root: Path, documents: Documents) -> None:
    (root / "x").mkdir()
    (root / "x" / "y.txt").write_text("inside")
    with running(opened(root), documents) as one:
        one.wait_scanned()
        shutil.rmtree(root / "x")
        (root / "x").write_text("a file now")
        documents.wait_for({"x": "a file now"})
        (root / "x").unlink()
        (root / "x").mkdir()
        (root / "x" / "y.txt").write_text("inside again")
        documents.wait_for({"x/y.txt": "inside again"})


@pytest.mark.parametrize("style", ["rename over", "backup and rewrite", "truncate and write", "tilde backup kept"])
def test_editors_save_without_a_gap(root: Path, documents: Documents, style: str) -> None:
    """Given an editor's way of saving, then the document is changed, never deleted nor emptied, and
    nothing of the editor's own files stays.
    """
    file = root / "doc.md"
    file.write_text("# one\n")
    with running(opened(root), documents) as one:
        one.wait_scanned()
        for number in range(5):
            text = f"# save {number}\n"
            match style:
                case "rename over":
                    (root / ".doc.md.swp").write_text("x")
                    (root / "doc.md.tmp").write_text(text)
                    (root / "doc.md.tmp").replace(file)
                case "backup and rewrite":
                    (root / "4913").write_text("")  # vim asks whether it may write here
                    (root / "4913").unlink()
                    file.rename(root / "doc.md~")
                    file.write_text(text)
                    (root / "doc.md~").unlink()
                case "truncate and write":
                    with file.open("w") as writing:
                        writing.flush()
                        time.sleep(0.01)
                        writing.write(text)
                case "tilde backup kept":
                    shutil.copy(file, root / "doc.md~")
                    file.write_text(text)
            documents.wait_for({"doc.md": text})
    assert one.published("deleted") == 0
    assert all(getattr(event, "text", None) for event in documents.events())


def test_a_file_written_in_parts_is_published_again_until_it_is_whole(root: Path, documents: Documents) -> None:
    with running(opened(root), documents) as one:
        one.wait_scanned()
        with (root / "log.txt").open("w") as file:
            for number in range(100):
                file.write(f"line {number}\n")
                file.flush()
                time.sleep(0.002)
        documents.wait_for({"log.txt": "".join(f"line {number}\n" for number in range(100))})
    assert one.published("changed") < 60


def test_an_empty_file_is_published_as_an_empty_document_in_the_end(root: Path, documents: Documents) -> None:
    (root / "old.txt").touch()
    with running(opened(root), documents) as one:
        one.wait_scanned()
        documents.wait_for({"old.txt": ""})
        (root / "new.txt").touch()
        documents.wait_for({"old.txt": "", "new.txt": ""})


def test_what_was_edited_renamed_and_deleted_while_it_was_down(
    root: Path, tmp_path: Path, documents: Documents
) -> None:
    for name in ("kept", "edited", "renamed", "deleted"):
        (root / f"{name}.txt").write_text(name)
    scanned(opened(root), documents, tmp_path / "state")
    (root / "edited.txt").write_text("EDITED")
    (root / "renamed.txt").rename(root / "new name.txt")
    (root / "deleted.txt").unlink()
    os.utime(root / "kept.txt")
    scanned(opened(root), documents, tmp_path / "state")
    assert documents.texts() == {"kept.txt": "kept", "edited.txt": "EDITED", "new name.txt": "renamed"}
    assert len(documents.events()) == 4 + 1 + 2 + 1


def test_an_edit_of_the_same_size_with_its_time_put_back_is_seen(
    root: Path, tmp_path: Path, documents: Documents
) -> None:
    file = root / "a.txt"
    file.write_text("one")
    status = file.stat()
    scanned(opened(root), documents, tmp_path / "state")
    file.write_text("two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    scanned(opened(root), documents, tmp_path / "state")
    assert documents.texts() == {"a.txt": "two"}


def test_a_root_that_cannot_be_watched_is_refused_by_name(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/f\xffoo"
    os.mkdir(folder)
    source = connector("s", {"path": os.fsdecode(folder)}, LIMIT)
    with pytest.raises(ConfigError, match=r"f\\xffoo: a name in its path is not UTF-8"):
        list(source.scan())
    source.close()


def test_names_that_are_not_utf8_are_documents(root: Path, documents: Documents) -> None:
    """Names are bytes. The watch of the library fails at one; it must not fail for good."""
    odd = os.fsencode(root) + b"/caf\xe9 \xff.txt"
    with running(opened(root), documents) as one:
        one.wait_scanned()
        Path(os.fsdecode(odd)).write_text("1")
        documents.wait_for({"caf\udce9 \udcff.txt": "1"})
        Path(os.fsdecode(odd)).write_text("2")
        documents.wait_for({"caf\udce9 \udcff.txt": "2"})
        (root / "other.txt").write_text("still watched")
        documents.wait_for({"caf\udce9 \udcff.txt": "2", "other.txt": "still watched"})
        os.unlink(odd)
        documents.wait_for({"other.txt": "still watched"})


def test_a_file_of_one_gigabyte_is_published_without_its_text_and_never_read(root: Path, source: Source) -> None:
    with (root / "huge.txt").open("wb") as file:
        file.truncate(1_000_000_000)
    list(source.scan())
    tracemalloc.start()
    try:
        found = source.fetch("huge.txt")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(found, Fetched)
    assert (found.text, found.size) == (None, 1_000_000_000)
    assert found.omitted == "1.0 GB, over the limit of 65.5 kB"
    assert peak < 4_000_000


def test_a_file_that_outgrows_the_limit_and_shrinks_again(root: Path, documents: Documents) -> None:
    """Given a small document that is replaced by a huge one, then readers can tell."""
    file = root / "a.txt"
    file.write_text("small")
    with running(opened(root), documents) as one:
        one.wait_scanned()
        file.write_text("x" * (LIMIT + 1))
        documents.wait_for({"a.txt": None})
        assert "over the limit of 65.5 kB" in documents.now()["a.txt"].omitted
        file.write_text("x" * LIMIT)
        documents.wait_for({"a.txt": "x" * LIMIT})


def test_a_higher_limit_reads_what_was_left_out(root: Path, tmp_path: Path, documents: Documents) -> None:
    (root / "a.txt").write_text("x" * (LIMIT + 1))
    scanned(opened(root), documents, tmp_path / "state")
    assert documents.texts() == {"a.txt": None}
    scanned(connector("files", {"path": str(root)}, 2 * LIMIT), documents, tmp_path / "state")
    assert documents.texts() == {"a.txt": "x" * (LIMIT + 1)}


def test_a_text_that_becomes_binary_is_deleted_and_counted(root: Path, documents: Documents) -> None:
    (root / "a.txt").write_text("text")
    (root / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with running(opened(root), documents) as one:
        one.wait_scanned()
        assert one.skipped("binary") == 1
        (root / "a.txt").write_bytes(bytes(range(256)) * 10)
        documents.wait_for({})
        assert one.skipped("binary") == 2


def test_special_files_are_never_opened(root: Path, documents: Documents) -> None:
    """Given a pipe that nobody writes to (opening it would hang) and a socket, then they are skipped."""
    os.mkfifo(root / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "s.txt"))
        (root / "a.txt").write_text("x")
        one = scanned(opened(root), documents)
    assert documents.texts() == {"a.txt": "x"}
    assert one.skipped("special") == 2


def test_a_file_that_vanishes_between_listing_and_reading(root: Path, documents: Documents) -> None:
    class Vanishing(Spy):
        def fetch(self, path: str) -> Fetched | Skipped | None:
            (root / path).unlink(missing_ok=True)
            return super().fetch(path)

    (root / "a.txt").write_text("x")
    scanned(Vanishing(opened(root)), documents)
    assert documents.events() == []


def test_a_root_that_vanishes_deletes_nothing_and_is_watched_again_when_it_is_back(
    root: Path, tmp_path: Path, documents: Documents
) -> None:
    (root / "a.txt").write_text("1")
    with running(opened(root), documents, tmp_path / "state") as one:
        one.wait_scanned()
        root.rename(tmp_path / "away")
        wait_until(lambda: "source.files" in one.health.readyz().reasons)
        time.sleep(0.3)
        assert documents.texts() == {"a.txt": "1"}
        (tmp_path / "away").rename(root)
        wait_until(lambda: one.health.readyz().ok)
        (root / "a.txt").write_text("2")
        documents.wait_for({"a.txt": "2"})
        shutil.rmtree(root)
        wait_until(lambda: not one.health.readyz().ok)
        root.mkdir()
        (root / "b.txt").write_text("another folder in its place")
        documents.wait_for({"b.txt": "another folder in its place"})
        (root / "b.txt").write_text("watched too")
        documents.wait_for({"b.txt": "watched too"})


def test_a_root_that_is_missing_at_the_start_is_waited_for(root: Path, tmp_path: Path, documents: Documents) -> None:
    (root / "a.txt").write_text("1")
    scanned(opened(root), documents, tmp_path / "state")
    root.rename(tmp_path / "away")
    with running(opened(root), documents, tmp_path / "state") as one:
        wait_until(lambda: "source.files" in one.health.readyz().reasons)
        assert documents.texts() == {"a.txt": "1"}
        (tmp_path / "away").rename(root)
        one.wait_scanned()
    assert documents.texts() == {"a.txt": "1"}


def test_another_file_system_in_the_place_of_the_root_is_not_it(
    root: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a share that is unmounted under us, then its empty mount point says nothing."""
    (root / "a.txt").write_text("1")
    assert len(list(without_pauses(source.scan()))) == 1
    (root / "a.txt").unlink()
    assert isinstance(source, FilesystemSource)
    assert source._tree._device is not None
    source._tree._device += 1
    with pytest.raises(SourceUnavailable, match="mounted"):
        list(source.scan())
    with pytest.raises(SourceUnavailable, match="mounted"):
        source.fetch("a.txt")


def test_our_own_state_inside_the_folder_is_not_indexed_whatever_it_is_called(root: Path) -> None:
    """To index it would change it, and so on for ever."""
    (root / "a.txt").write_text("x")
    broker = EmbeddedBroker(root / "my state" / "log")
    (root / "my state" / "store").mkdir()
    (root / "my state" / "store" / "config.json").write_text("{}")
    own = Documents(broker)
    with running(opened(root), own, root / "my state" / "connectors") as one:
        one.wait_scanned()
        (root / "b.txt").write_text("y")
        own.wait_for({"a.txt": "x", "b.txt": "y"})
    broker.close()
    assert one.skipped("binary") == 0


def test_a_cache_that_lies_in_the_folder_does_not_keep_itself_busy(root: Path, documents: Documents) -> None:
    """Given files of the cache that change whenever something is noted, then they are noted once."""
    spy = Spy(opened(root))
    with running(spy, documents, root / "cache") as one:
        one.wait_scanned()
        (root / "a.txt").write_text("x")
        documents.wait_for({"a.txt": "x"})
        time.sleep(0.5)
        looks = len(spy.fetched)
        time.sleep(0.5)
    assert len(spy.fetched) - looks < 5
