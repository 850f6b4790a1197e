"""Submodules of a git source: followed where they are asked for, and never further than the settings say."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from connectors.certification.rig import Documents, running, wait_until
from connectors.git import superproject
from connectors.git.commands import Git
from connectors.git.mirror import Mirror
from connectors.git.settings import GitSettings
from connectors.registry import open_source
from pipeline.config import SourceConfig
from pipeline.errors import SourceUnavailable
from pipeline.ports import Expired, Fetched, Hint, Source, without_pauses
from tests.support.repositories import Repository, Served

Open = Callable[..., Source]


@pytest.fixture
def parent(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "handbook")


@pytest.fixture
def child(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "guides")
    made.put_many({"a.md": "alpha", "deep/b.md": "beta"})
    return made


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    made: list[Source] = []

    def open_(repository: Repository | str, **settings: object) -> Source:
        where = str(repository.folder) if isinstance(repository, Repository) else repository
        table = {"connector": "git", "repository": where, "submodules": True, "poll_seconds": 0.2, **settings}
        made.append(open_source("s", SourceConfig.model_validate(table), 1 << 16, tmp_path / "state"))
        return made[-1]

    yield open_
    for source in made:
        source.close()


def name(repository: Repository, path: str, url: str, commit: str) -> None:
    """Let a repository have a submodule, or another commit of it."""
    (repository.folder / path).mkdir(parents=True, exist_ok=True)
    repository.git("config", "--file", ".gitmodules", f"submodule.{path}.path", path)
    repository.git("config", "--file", ".gitmodules", f"submodule.{path}.url", url)
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
    repository.commit(f"submodule {path}")


def head(repository: Repository) -> str:
    return repository.git("rev-parse", "HEAD")


def listed(source: Source) -> list[str]:
    end = time.monotonic() + 90
    while True:
        try:
            return sorted(one.path for one in without_pauses(source.scan()))
        except SourceUnavailable as error:
            if "takes a while" not in str(error) or time.monotonic() > end:
                raise


def hinted(source: Source) -> list[str | None]:
    """The next hints, whatever else is wrong."""
    found: list[Hint] = []

    def some() -> list[Hint]:
        nonlocal found
        try:
            found = source.hints(0.2)
        except SourceUnavailable:
            found = []
        return found

    wait_until(some)
    return [one.path for one in found]


def trouble(source: Source) -> str:
    """What it is not ready for."""
    said = ""

    def some() -> str:
        nonlocal said
        try:
            source.hints(0.2)
        except SourceUnavailable as error:
            said = str(error)
        return said

    wait_until(some)
    return said


def text(source: Source, path: str) -> str | None:
    found = source.fetch(path)
    assert isinstance(found, Fetched), found
    return found.text


def test_documents_of_submodules_are_below_their_paths_at_the_commit_that_the_branch_names(
    parent: Repository, child: Repository, tmp_path: Path, opened: Open
) -> None:
    inner = Repository(tmp_path / "inner")
    inner.put("c.md", "gamma")
    name(child, "in", "./../inner", head(inner))
    commit = head(child)
    parent.put("readme.md", "hello")
    name(parent, "lib/guides", "../guides", commit)
    child.put("later.md", "not named yet")
    assert listed(opened(parent, submodules=False)) == ["readme.md"]
    source = opened(parent)
    below = ["lib/guides/a.md", "lib/guides/deep/b.md", "lib/guides/in/c.md"]
    assert listed(source) == [*below, "readme.md"]
    assert [text(source, path) for path in below] == ["alpha", "beta", "gamma"]
    found = source.fetch("lib/guides/in/c.md")
    assert isinstance(found, Fetched)
    assert found.metadata["commit"] == head(inner)
    assert source.fetch("lib/guides/later.md") is None
    # Another commit of the submodule is told by what differs, what is there before what is gone.
    child.rename("a.md", "renamed.md")
    name(parent, "lib/guides", "../guides", head(child))
    assert hinted(source) == ["lib/guides/later.md", "lib/guides/renamed.md", "lib/guides/a.md"]
    assert text(source, "lib/guides/renamed.md") == "alpha"
    # No submodule any more.
    parent.git("rm", "--quiet", "--cached", "lib/guides")
    parent.git("config", "--file", ".gitmodules", "--remove-section", "submodule.lib/guides")
    (parent.folder / "lib" / "guides").rmdir()
    parent.commit()
    assert hinted(source) == [None]
    assert listed(source) == ["readme.md"]
    assert source.fetch("lib/guides/renamed.md") is None


def test_only_submodules_that_are_admitted_are_fetched(parent: Repository, child: Repository, opened: Open) -> None:
    name(parent, "docs/one", "../../guides", head(child))
    name(parent, "two", "../guides", head(child))
    name(parent, "three", "/nowhere", head(child))
    parent.put("docs/x.md", "x")
    source = opened(parent, exclude=["three"])
    assert listed(source) == ["docs/x.md", "two/a.md", "two/deep/b.md"]
    assert trouble(source).startswith("submodule docs/one: it does not lie in ")
    source = opened(parent, folder="docs", exclude=["/one"])
    assert listed(source) == ["x.md"]
    assert source.hints(0.5) == []


def test_a_submodule_that_cannot_be_fetched_keeps_its_documents_and_is_told(
    parent: Repository, child: Repository, tmp_path: Path, documents: Documents, opened: Open
) -> None:
    """Given a submodule that is away, then what was published stays, the branch's own changes are published, and
    what it is not ready for is said; once it is back, all is as it should be.
    """
    parent.put_many({"readme.md": "hello", "draft.md": "to be removed"})
    name(parent, "guides", "../guides", head(child))
    texts = {"readme.md": "hello", "draft.md": "to be removed", "guides/a.md": "alpha", "guides/deep/b.md": "beta"}
    with running(opened(parent), documents, tmp_path / "known") as one:
        documents.wait_for(texts)
        child.put("a.md", "alpha 2")
        away = child.folder.rename(tmp_path / "away")
        name(parent, "guides", "../guides", Repository.git(_at(away), "rev-parse", "HEAD"))
        parent.put("readme.md", "hello 2")
        texts["readme.md"] = "hello 2"
        documents.wait_for(texts)
        wait_until(lambda: "submodule guides" in str(one.health.readyz().reasons))
        parent.remove("draft.md")
        del texts["draft.md"]
        documents.wait_for(texts)
    # A lost copy leaves nothing to be listed: nobody knows what is there.
    source = opened(parent, history=False)
    assert listed(source) == ["readme.md"]
    assert isinstance(source.fetch("guides/a.md"), Expired)
    assert "submodule guides: git fetch" in trouble(source)
    with running(source, documents, tmp_path / "known"):
        wait_until(lambda: documents.texts() == texts)
        away.rename(child.folder)
        documents.wait_for({**texts, "guides/a.md": "alpha 2"})


def _at(folder: Path) -> Repository:
    found = Repository.__new__(Repository)
    found.folder = folder
    return found


def test_a_folder_that_becomes_a_submodule_is_never_gone(
    parent: Repository, child: Repository, tmp_path: Path, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Given files that move into a submodule that cannot be fetched yet, then nothing says that they are gone."""
    parent.put_many({"guides/a.md": "alpha", "guides/deep/b.md": "beta", "x.md": "x"})
    source = opened(parent)
    assert len(listed(source)) == 3
    parent.git("rm", "-r", "--quiet", "guides")
    away = child.folder.rename(tmp_path / "away")
    with caplog.at_level(logging.WARNING):
        name(parent, "guides", "../guides", Repository.git(_at(away), "rev-parse", "HEAD"))
        assert hinted(source) == [None]
    assert [record.message for record in caplog.records] == ["submodule cannot be fetched; its documents stay"], (
        "once, however often it is tried"
    )
    assert isinstance(source.fetch("guides/a.md"), Expired)
    away.rename(child.folder)
    assert hinted(source) == [None]
    assert listed(source) == ["guides/a.md", "guides/deep/b.md", "x.md"]
    assert text(source, "guides/deep/b.md") == "beta"


def test_until_a_submodule_is_fetched_its_parent_says_what_was(
    parent: Repository, child: Repository, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent.put("guides/a.md", "alpha of old")
    source = opened(parent)
    assert text(source, "guides/a.md") == "alpha of old"
    parent.git("rm", "-r", "--quiet", "guides")
    fetch, during = Mirror._fetch, []

    def looking(mirror: Mirror, descriptor: int, wanted: str, *ref: str) -> None:
        if len(wanted) == 40:
            during.append(text(source, "guides/a.md"))
        fetch(mirror, descriptor, wanted, *ref)

    monkeypatch.setattr(Mirror, "_fetch", looking)
    name(parent, "guides", "../guides", head(child))
    assert hinted(source) == [None]
    assert during == ["alpha of old"]
    assert text(source, "guides/a.md") == "alpha"


def test_submodules_have_bounds(
    parent: Repository, child: Repository, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    name(parent, "guides", "../guides", head(child))
    with pytest.raises(SourceUnavailable, match="more than 1 files"):
        listed(opened(parent, files_limit=1))
    parent.put_many({"one.md": "1", "two.md": "2"})
    with pytest.raises(SourceUnavailable, match="more than 3 files"):
        listed(opened(parent, files_limit=3))
    # Each commit names the one before: a repository inside itself.
    for _ in range(4):
        name(child, "self", "../guides", head(child))
    name(parent, "guides", "../guides", head(child))
    assert "guides/self/self/self/self/a.md" in listed(opened(parent))
    monkeypatch.setattr(superproject, "_DEPTH", 3)
    with pytest.raises(SourceUnavailable, match="3 below each other"):
        listed(opened(parent))
    monkeypatch.setattr(superproject, "_MODULES", 2)
    monkeypatch.setattr(superproject, "_DEPTH", 8)
    with pytest.raises(SourceUnavailable, match="more than 2 submodules"):
        listed(opened(parent))


def test_a_list_of_submodules_that_git_cannot_read_deletes_nothing(
    parent: Repository, child: Repository, opened: Open
) -> None:
    """As after a merge that was committed with its conflict: nobody knows which folders are submodules."""
    name(parent, "guides", "../guides", head(child))
    parent.put("readme.md", "hello")
    source = opened(parent)
    assert len(listed(source)) == 3
    good = (parent.folder / ".gitmodules").read_text()
    parent.put(".gitmodules", f"<<<<<<< ours\n{good}")
    with pytest.raises(SourceUnavailable, match="bad config"):
        listed(opened(parent))
    assert text(source, "guides/a.md") == "alpha"
    parent.put(".gitmodules", good)
    parent.put("readme.md", "hello 2")
    assert hinted(source) == ["readme.md"]


def test_a_commit_that_a_server_does_not_give_is_looked_for_in_its_branches(
    parent: Repository, child: Repository, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = head(child)
    child.put("a.md", "alpha 2")
    name(parent, "guides", "../guides", commit)
    fetch = Mirror._fetch

    def refusing(mirror: Mirror, descriptor: int, wanted: str, *ref: str) -> None:
        if len(wanted) == 40:
            raise SourceUnavailable("Server does not allow request for unadvertised object")
        fetch(mirror, descriptor, wanted, *ref)

    monkeypatch.setattr(Mirror, "_fetch", refusing)
    child.git("branch", "old")
    source = opened(parent)
    assert text(source, "guides/a.md") == "alpha"
    # What was a branch is a folder of branches now.
    child.git("branch", "-D", "old")
    child.git("branch", "old/new")
    name(parent, "guides", "../guides", child.put("b.md", "beta"))
    assert hinted(source) == ["guides/a.md", "guides/b.md"]
    name(parent, "guides", "../guides", "1" * 40)
    assert trouble(source) == f"submodule guides: commit {'1' * 40} cannot be fetched, and no branch has it"
    assert text(source, "guides/a.md") == "alpha 2"


@contextmanager
def copied(parent: Repository, folder: Path) -> Iterator[superproject.Superproject]:
    """Of a parent, what its thread does, a step at a time."""
    settings = GitSettings(repository=str(parent.folder), submodules=True)
    made = superproject.Superproject(settings, folder, lambda path: True)
    yield made
    made.stop()
    made.close()


def test_a_submodule_that_takes_long_to_fail_is_left_alone_for_longer(
    parent: Repository,
    child: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Everything else waits for each attempt. Another commit is tried at once."""
    name(parent, "guides", "../guides", head(child))
    fetch, tried = Mirror._fetch, []

    def failing(mirror: Mirror, descriptor: int, wanted: str, *ref: str) -> None:
        if len(wanted) == 40 or ref:
            tried.append(wanted)
            raise SourceUnavailable(f"no answer after {len(tried)} ms")
        fetch(mirror, descriptor, wanted, *ref)

    monkeypatch.setattr(Mirror, "_fetch", failing)
    with copied(parent, tmp_path / "copy") as project:
        for rest, attempts in ((0.0, 1), (0.0, 2), (1e9, 3), (1e9, 3), (1e9, 3)):
            monkeypatch.setattr(superproject, "_REST", rest)
            project.update()
            assert project.trouble().startswith("submodule guides: no answer")
            assert len(tried) == 2 * attempts, "by itself, and among the branches"
        name(parent, "guides", "../guides", "1" * 40)
        project.update()
        assert len(tried) == 8
    told = [record.message for record in caplog.records]
    assert told == ["submodule cannot be fetched; its documents stay"], "once, whatever figures git says"


def test_what_lies_below_a_submodule_that_cannot_be_fetched_holds_nothing_up(
    parent: Repository, child: Repository, tmp_path: Path, opened: Open
) -> None:
    """Given a submodule that never was fetched, in one that cannot be fetched any more, then all the rest is listed."""
    name(child, "in", "../inner", "1" * 40)
    parent.put("readme.md", "hello")
    name(parent, "guides", "../guides", head(child))
    source, there = opened(parent), ["guides/a.md", "guides/deep/b.md", "readme.md"]
    assert listed(source) == there
    assert trouble(source).startswith("submodule guides/in: ")
    child.folder.rename(tmp_path / "away")
    name(parent, "guides", "../guides", "2" * 40)
    wait_until(lambda: trouble(source).startswith("submodule guides: "))
    assert listed(source) == there
    assert isinstance(source.fetch("guides/in/c.md"), Expired)
    assert text(source, "guides/a.md") == "alpha"


def test_whoever_still_reads_a_submodule_that_is_none_any_more_is_told_to_ask_again(
    parent: Repository, child: Repository, tmp_path: Path
) -> None:
    name(parent, "guides", "../guides", head(child))
    with copied(parent, tmp_path / "copy") as project:
        project.update()
        copy, file = project._copies["guides"], project.file("guides/a.md")
        assert file is not None
        assert project.content(file) == b"alpha"
        parent.git("rm", "--quiet", "--cached", "guides")
        parent.commit()
        project.update()
        with pytest.raises(SourceUnavailable):
            copy.blobs.content(file.blob)
        assert copy.blobs._process is None
        project.update()
        assert not copy.folder.exists()
        with pytest.raises(SourceUnavailable, match="is gone"):
            Git(copy.folder, copy.access).output("version", seconds=9)


def test_a_password_goes_to_the_repository_s_own_host_only(tmp_path: Path, opened: Open) -> None:
    """Given two servers that both ask for a password, then the second one is told none."""
    parent, child = Repository(tmp_path / "served" / "handbook"), Repository(tmp_path / "served" / "guides")
    child.put("a.md", "alpha")
    with closing(Served(tmp_path / "served")) as one, closing(Served(tmp_path / "served")) as other:
        name(parent, "own", "../guides", head(child))
        name(parent, "other", f"{other.url}/guides", head(child))
        source = opened(
            f"{one.url}/handbook",
            username=Served.USER,
            password=Served.PASSWORD,
            submodule_hosts=[other.url.removeprefix("http://")],
        )
        assert listed(source) == ["own/a.md"]
        assert "submodule other: git fetch: could not read Username" in trouble(source)
