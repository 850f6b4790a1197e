"""Nothing outside of a source's folder is read: not by a path, not by a link, not by one that comes in between."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.filesystem import FilesystemSource, connector
from pipeline.errors import Transient
from pipeline.ports import Fetched, without_pauses

SECRET = "what lies outside"
OUTSIDE = (False, "inside")
"""Settings with which nothing outside is read."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder, and a secret beside it."""
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "sub" / "b.txt").write_text("b")
    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "b.txt").write_text(SECRET)
    return folder


def opened(root: Path, **settings: Any) -> FilesystemSource:
    source = connector("f", {"path": str(root), **settings}, 1 << 20)
    assert isinstance(source, FilesystemSource)
    return source


def read(source: FilesystemSource) -> dict[str, str | None]:
    """All that a scan leads to."""
    fetched = [source.fetch(one.path) for one in without_pauses(source.scan())]
    return {one.path: one.text for one in fetched if isinstance(one, Fetched)}


@pytest.mark.parametrize("follow", [False, "inside", True])
@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt", "sub/../../secret.txt", "sub/../a.txt", "./a.txt", "sub/./b.txt", "sub//b.txt", "..", ".", "",
        "/", "//", "a.txt/", "sub/", "a.txt/..", "\x00", "a.txt\x00", "../secret.txt\x00", "%2e%2e/secret.txt",
        "..\\secret.txt", "sub/../../outside/b.txt",
    ],
)  # fmt: skip
def test_a_path_that_no_scan_lists_is_no_document(root: Path, path: str, follow: Any) -> None:
    """Paths come from the log as well: from what was published under this source's name."""
    source = opened(root, follow_symlinks=follow)
    assert source.fetch(path) is None
    source.close()


def test_an_absolute_path_is_not_below_the_root(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joined to a folder, a path with a slash before it is that path."""
    at_the_top = next(name for name in os.listdir("/") if os.path.isfile(f"/{name}") or os.path.islink(f"/{name}"))
    for path in (str(tmp_path / "secret.txt"), f"/{at_the_top}", f"//{at_the_top}"):
        for follow in (False, "inside", True):
            source = opened(root, follow_symlinks=follow)
            assert source.fetch(path) is None
            source.close()


LINKS: dict[str, Callable[[Path], object]] = {
    "absolute file": lambda root: (root / "link.txt").symlink_to(root.parent / "secret.txt"),
    "relative file": lambda root: (root / "link.txt").symlink_to("../secret.txt"),
    "folder": lambda root: (root / "link").symlink_to("../outside"),
    "folder further down": lambda root: (root / "sub" / "link").symlink_to("../../outside"),
    "by way of a link inside": lambda root: [
        (root / "one").symlink_to("sub/two"),
        (root / "sub" / "two").symlink_to("../../outside"),
    ],
    "out and in again": lambda root: (root / "link").symlink_to("../outside/../outside"),
    "the parent": lambda root: (root / "link").symlink_to(".."),
    "a folder whose name begins like the root's": lambda root: [
        (root.parent / "root-2").mkdir(),
        (root.parent / "root-2" / "b.txt").write_text(SECRET),
        (root / "link").symlink_to("../root-2"),
    ],
}


@pytest.mark.parametrize("follow", OUTSIDE)
@pytest.mark.parametrize("link", LINKS.values(), ids=list(LINKS))
def test_a_link_out_of_the_folder_leads_nowhere(root: Path, link: Callable[[Path], object], follow: Any) -> None:
    link(root)
    source = opened(root, follow_symlinks=follow)
    listed = {one.path for one in without_pauses(source.scan())}
    assert listed == {"a.txt", "sub/b.txt"}, "names from outside are not listed either"
    assert read(source) == {"a.txt": "a", "sub/b.txt": "b"}
    for folder in ("link", "sub/link", "one"):
        assert not source._tree.is_folder(folder), "nor by a hint"
    for path in ("link.txt", "link/b.txt", "sub/link/b.txt", "one/b.txt", "link/secret.txt", "link/outside/b.txt"):
        assert not isinstance(source.fetch(path), Fetched)
    source.close()


def test_of_what_lies_outside_not_even_size_and_time_are_noted(root: Path) -> None:
    """Given a link of a name that is never read, then it is not there, and not something skipped."""
    (root / "picture.png").symlink_to("../secret.txt")
    source = opened(root, follow_symlinks="inside")
    assert source.fetch("picture.png") is None
    source.close()


def test_links_inside_the_folder_are_followed_if_that_is_asked_for(root: Path) -> None:
    (root / "link.txt").symlink_to("sub/b.txt")
    (root / "link").symlink_to("sub")
    (root / "out").symlink_to("../outside")
    inside = {"a.txt": "a", "sub/b.txt": "b", "link.txt": "b", "link/b.txt": "b"}
    for follow, wanted in ((False, {"a.txt": "a", "sub/b.txt": "b"}), ("inside", inside)):
        source = opened(root, follow_symlinks=follow)
        assert read(source) == wanted
        source.close()
    source = opened(root, follow_symlinks=True)
    assert read(source) == {**inside, "out/b.txt": SECRET}, "whoever asks for all links gets all"
    source.close()


def test_a_root_that_is_a_link_is_the_folder_that_it_leads_to(root: Path, tmp_path: Path) -> None:
    (tmp_path / "named").symlink_to("root")
    (root / "link.txt").symlink_to("sub/b.txt")
    source = opened(tmp_path / "named", follow_symlinks="inside")
    assert read(source) == {"a.txt": "a", "sub/b.txt": "b", "link.txt": "b"}
    source.close()


@pytest.mark.parametrize("follow", OUTSIDE)
@pytest.mark.parametrize("swap", ["folder", "file"])
def test_a_link_that_comes_between_the_look_and_the_reading_is_not_followed(root: Path, follow: Any, swap: str) -> None:
    """Given a file that was looked at, when its folder (or it) becomes a link before it is opened, then it is gone."""
    source = opened(root, follow_symlinks=follow)
    look = source._tree.status

    def looked(path: str) -> os.stat_result | None:
        found = look(path)
        if swap == "folder":
            (root / "sub").rename(root.parent / "moved")
            (root / "sub").symlink_to("../outside")
        else:
            (root / "sub" / "b.txt").unlink()
            (root / "sub" / "b.txt").symlink_to("../../secret.txt")
        return found

    source._tree.status = looked  # type: ignore[method-assign]
    assert source.fetch("sub/b.txt") is None
    source.close()


@pytest.mark.parametrize("follow", OUTSIDE)
def test_however_often_a_folder_is_exchanged_nothing_of_the_other_is_read(root: Path, follow: Any) -> None:
    """Given somebody who exchanges a folder for a link and back without end, then all that is read is the folder's."""
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            os.rename(root / "sub", root / "kept")
            os.symlink("../outside", root / "sub")
            os.unlink(root / "sub")
            os.rename(root / "kept", root / "sub")

    source = opened(root, follow_symlinks=follow)
    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        found = [_read_once(source) for _ in range(1500)]
    finally:
        stop.set()
        thread.join()
        source.close()
    assert set(found) <= {"b", None}
    assert _read_once(source) == "b"


def _read_once(source: FilesystemSource) -> str | None:
    try:
        fetched = source.fetch("sub/b.txt")
    except Transient:  # nobody can tell now: it is tried again
        return None
    return fetched.text if isinstance(fetched, Fetched) else None


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_stands_in_place_of_a_gitignore_is_not_read(
    root: Path, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A link would bring in rules from outside, a pipe would wait for a writer for ever."""
    (tmp_path / "rules").write_text("*\n")
    if kind == "link":
        (root / ".gitignore").symlink_to("../rules")
    elif kind == "pipe":
        os.mkfifo(root / ".gitignore")
    else:
        (root / ".gitignore").mkdir()
    source = opened(root, gitignore=True)
    assert read(source) == {"a.txt": "a", "sub/b.txt": "b"}
    assert caplog.records == []
    source.close()
