"""Which files of a folder are documents: names, patterns, .gitignore, links."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from connectors import tree
from connectors.filesystem import connector
from pipeline.ports import Fetched, without_pauses
from tests.support.sources import Documents, running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def made(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)


def listed(root: Path, **settings: Any) -> set[str]:
    """The paths of a scan; that a fetch agrees about each file there is is checked as well."""
    source = connector("f", {"path": str(root), **settings}, 1 << 20)
    try:
        found = {one.path for one in without_pauses(source.scan())}
        for folder, _, names in os.walk(root, followlinks=False):
            for name in names:
                path = os.path.relpath(os.path.join(folder, name), root)
                assert isinstance(source.fetch(path), Fetched) == (path in found), path
        return found
    finally:
        source.close()


def test_our_own_state_and_a_repository_are_never_documents(root: Path) -> None:
    made(root, "a.txt", ".git/config", ".vectide/log.db", "sub/.git/HEAD", "sub/.vectide/x", "sub/b.txt", ".hg/x")
    assert listed(root) == {"a.txt", "sub/b.txt"}
    assert listed(root, hidden=True) == {"a.txt", "sub/b.txt"}


def test_hidden_names_are_left_out_unless_asked_for(root: Path) -> None:
    made(root, "a.txt", ".b.txt", ".config/c.txt", "sub/.d/e/f.txt")
    assert listed(root) == {"a.txt"}
    assert listed(root, hidden=True) == {"a.txt", ".b.txt", ".config/c.txt", "sub/.d/e/f.txt"}


def test_what_editors_leave_is_never_a_document(root: Path) -> None:
    made(root, "a.md", "a.md~", "#a.md#", ".#a.md", ".a.md.swp", "a.md.tmp", "film.part", "x.crdownload")
    assert listed(root, hidden=True) == {"a.md"}


def test_include_and_exclude_are_patterns_of_gits(root: Path) -> None:
    made(
        root, "a.md", "b.txt", "docs/c.md", "docs/old/d.md", "node_modules/e.md", "sub/node_modules/f.md", "build/g.md"
    )
    assert listed(root, include=["*.md"]) == {
        "a.md", "docs/c.md", "docs/old/d.md", "node_modules/e.md", "sub/node_modules/f.md", "build/g.md"
    }  # fmt: skip
    assert listed(root, include=["*.md"], exclude=["node_modules/", "/build", "docs/old"]) == {"a.md", "docs/c.md"}
    assert listed(root, exclude=["*", "!*.txt"]) == {"b.txt"}
    assert listed(root, include=["/docs/**", "!/docs/old/**"]) == {"docs/c.md"}


def test_gitignore_is_respected_as_git_does(root: Path) -> None:
    """Nested files, negation and anchors: compared with git itself, where it is installed."""
    made(
        root, "a.log", "keep.log", "b.txt", "target/x.txt", "sub/a.log", "sub/c.tmp2", "sub/keep.tmp2", "sub/target",
        "sub/deep/d.txt", "sub/deep/only.txt", "other/b.txt", "lib/vendor/v.txt", "lib/v.txt",
    )  # fmt: skip
    (root / ".gitignore").write_text("*.log\n!keep.log\ntarget/\n/b.txt\nlib/vendor\n# a comment\n\n")
    (root / "sub" / ".gitignore").write_text("*.tmp2\n!keep.tmp2\n!a.log\ndeep/*\n!deep/only.txt\n")
    (root / "lib" / ".gitignore").write_text("!vendor\n")
    expected = {
        "keep.log", "sub/a.log", "sub/keep.tmp2", "sub/target", "sub/deep/only.txt", "other/b.txt", "lib/v.txt",
        "lib/vendor/v.txt",
    }  # fmt: skip
    try:
        subprocess.run(["git", "init", "-q", root], check=True, capture_output=True)
        answer = subprocess.run(
            ["git", "-C", root, "ls-files", "--others", "--exclude-standard"],
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        pass
    else:
        assert {line for line in answer.stdout.splitlines() if not line.endswith(".gitignore")} == expected
    assert listed(root, gitignore=True) == expected
    assert "a.log" in listed(root)


def test_an_edit_of_gitignore_takes_effect_at_once(root: Path, documents: Documents) -> None:
    made(root, "a.txt", "secret.txt")
    with running(connector("f", {"path": str(root), "gitignore": True}, 1000), documents) as one:
        one.wait_scanned()
        (root / ".gitignore").write_text("secret.txt\n")
        documents.wait_for({"a.txt": "a.txt"})
        (root / ".gitignore").unlink()
        documents.wait_for({"a.txt": "a.txt", "secret.txt": "secret.txt"})


def test_patterns_added_to_the_configuration_delete_what_they_match(
    root: Path, tmp_path: Path, documents: Documents
) -> None:
    made(root, "a.txt", "b.log")
    for settings, expected in ({}, {"a.txt": "a.txt", "b.log": "b.log"}), ({"exclude": ["*.log"]}, {"a.txt": "a.txt"}):
        with running(connector("f", {"path": str(root), **settings}, 1000), documents, tmp_path / "state") as one:
            one.wait_scanned()
        assert documents.texts() == expected


def test_links_are_not_followed_unless_asked_for(root: Path, tmp_path: Path) -> None:
    """What lies outside of the folder must not get in by a link by default."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("x")
    made(root, "a.txt")
    (root / "link.txt").symlink_to("a.txt")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "broken.txt").symlink_to("nowhere")
    assert listed(root) == {"a.txt"}
    source = connector("f", {"path": str(root)}, 1000)
    assert source.fetch("out/secret.txt") is None
    assert listed(root, follow_symlinks=True) == {"a.txt", "link.txt", "out/secret.txt"}


@pytest.mark.parametrize("follow", [False, True])
def test_loops_of_links_end(root: Path, follow: bool) -> None:
    made(root, "a/b/c.txt")
    (root / "a" / "b" / "up").symlink_to("..")
    (root / "a" / "self").symlink_to("self")
    (root / "a" / "b" / "root").symlink_to(root)
    (root / "a" / "b" / "here").symlink_to(".")
    assert listed(root, follow_symlinks=follow) == {"a/b/c.txt"}


def test_a_change_under_two_names_reaches_both(root: Path, documents: Documents) -> None:
    """Given a link to a folder inside the root: the kernel names one of the two, whichever it likes."""
    made(root, "real/a.txt")
    (root / "link").symlink_to("real")
    (root / "file.txt").symlink_to("real/a.txt")
    with running(connector("f", {"path": str(root), "follow_symlinks": True}, 1000), documents) as one:
        one.wait_scanned()
        (root / "real" / "a.txt").write_text("2")
        documents.wait_for(dict.fromkeys(["real/a.txt", "link/a.txt", "file.txt"], "2"))
        (root / "real" / "b.txt").write_text("3")
        documents.wait_for(
            dict.fromkeys(["real/a.txt", "link/a.txt", "file.txt"], "2")
            | dict.fromkeys(["real/b.txt", "link/b.txt"], "3")
        )
        (root / "link").unlink()
        documents.wait_for({"real/a.txt": "2", "file.txt": "2", "real/b.txt": "3"})


def test_a_change_behind_a_link_that_is_not_followed_reaches_the_real_name(root: Path, documents: Documents) -> None:
    made(root, "z/a.txt")
    (root / "a link").symlink_to("z")
    (root / "zz link").symlink_to("z")
    with running(connector("f", {"path": str(root)}, 1000), documents) as one:
        one.wait_scanned()
        (root / "z" / "a.txt").write_text("2")
        documents.wait_for({"z/a.txt": "2"})


def test_a_root_that_is_itself_a_link(root: Path, tmp_path: Path, documents: Documents) -> None:
    made(root, "a.txt")
    (tmp_path / "link").symlink_to(root)
    with running(connector("f", {"path": str(tmp_path / "link")}, 1000), documents) as one:
        one.wait_scanned()
        (root / "a.txt").write_text("2")
        documents.wait_for({"a.txt": "2"})


def test_names_with_anything_in_them(root: Path) -> None:
    names = [
        "with space.txt",
        "new\nline.txt",
        "tab\t.txt",
        "-dash.txt",
        "quote'\".txt",
        "back\\slash.txt",
        "*[x]?.txt",
        "漢字🌊.txt",
        "%41:.txt",
    ]
    made(root, *names)
    assert listed(root, gitignore=True, exclude=["none"]) == set(names)


def test_a_deep_tree(root: Path) -> None:
    path = "/".join(["d"] * 100) + "/x.txt"
    made(root, path)
    assert listed(root) == {path}


def test_a_folder_of_many_files_is_listed_with_pauses(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "_PAUSE_ENTRIES", 10)
    made(root, *(f"{number}.txt" for number in range(95)), "sub/a.txt")
    source = connector("f", {"path": str(root)}, 1 << 20)
    found = [None if one is None else one.path for one in source.scan()]
    source.close()
    assert found[:10] == [None] * 10  # the folder, and nine times ten names
    assert found[10:105] == sorted(f"{number}.txt" for number in range(95))
