"""Watching where the kernel or a name makes it hard: slower, never deaf."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from watchfiles._rust_notify import RustNotify

from connectors import watching
from connectors.filesystem import connector
from connectors.watching import Watch
from tests.support.sources import Documents, running, wait_until


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """The kernel's edge: from now on so many watches can be had, then none."""

    def limit(number: int) -> None:
        left = [number]

        def notify(paths: list[str], *options: Any) -> RustNotify:
            left[0] -= 1
            if left[0] < 0:
                raise OSError("OS file watch limit reached.")
            return RustNotify(paths, *options)

        monkeypatch.setattr(watching, "RustNotify", notify)
        monkeypatch.setattr(watching, "POLL_SECONDS", 0.1)

    return limit


def test_without_any_watch_changes_are_found_by_scanning(
    tmp_path: Path, documents: Documents, limited: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    limited(0)
    (tmp_path / "a.txt").write_text("1")
    with caplog.at_level(logging.WARNING), running(connector("f", {"path": str(tmp_path)}, 1000), documents) as one:
        one.wait_scanned()
        (tmp_path / "a.txt").write_text("2")
        (tmp_path / "b.txt").write_text("new")
        documents.wait_for({"a.txt": "2", "b.txt": "new"})
    assert "max_user_watches" in caplog.text


def test_where_watches_run_out_for_a_new_folder_it_is_scanned_as_well(
    tmp_path: Path, documents: Documents, limited: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The library does not tell: the folder is tried apart."""
    limited(1)
    with caplog.at_level(logging.WARNING), running(connector("f", {"path": str(tmp_path)}, 1000), documents) as one:
        one.wait_scanned()
        (tmp_path / "new").mkdir()
        wait_until(lambda: "max_user_watches" in caplog.text)
        (tmp_path / "new" / "a.txt").write_text("1")
        documents.wait_for({"new/a.txt": "1"})
        (tmp_path / "b.txt").write_text("watched as before")
        documents.wait_for({"new/a.txt": "1", "b.txt": "watched as before"})


def test_more_paths_than_fit_count_as_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_PATHS", 10)
    watch = Watch(str(tmp_path))
    for number in range(50):
        (tmp_path / str(number)).touch()
    everything: list[float] = []
    wait_until(lambda: everything or everything.extend(filter(None, [watch.taken(0.1)[1]])))
    watch.close()


def test_a_missing_folder_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Watch(str(tmp_path / "absent"))


def test_no_thread_is_left_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    for _ in range(5):
        watch = Watch(str(tmp_path))
        watch.close()
        watch.close()
    assert threading.active_count() == before
