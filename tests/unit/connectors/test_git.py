"""The git connector on repositories that git made, ordinary and hostile."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from connectors.fetching import FETCH_SECONDS
from connectors.git import blobs
from connectors.git.commands import Access, Git
from connectors.git.settings import GitSettings, settings_of
from connectors.registry import open_source, source_of
from pipeline.config import SourceConfig
from pipeline.errors import ConfigError, Poison, SourceUnavailable, Transient
from pipeline.observe.health import BEAT_LIMIT_SECONDS
from pipeline.ports import Fetched, Skipped, Source, without_pauses
from tests.support import files
from tests.support.repositories import Repository, Served

ROOT = Path(__file__).parents[3]
LIMIT = 64 * 1024
Open = Callable[..., Source]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "handbook")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    made: list[Source] = []

    def open_(repository: Repository | str, **settings: object) -> Source:
        where = str(repository.folder) if isinstance(repository, Repository) else repository
        config = SourceConfig.model_validate({"connector": "git", "repository": where, **settings})
        made.append(open_source("s", config, LIMIT, tmp_path / "state"))
        return made[-1]

    yield open_
    for source in made:
        source.close()


def listed(source: Source) -> dict[str, str]:
    """All documents; a first fetch may take a while on a busy machine."""
    end = time.monotonic() + 90
    while True:
        try:
            return {one.path: one.revision for one in without_pauses(source.scan())}
        except SourceUnavailable as error:
            if "takes a while" not in str(error) or time.monotonic() > end:
                raise


def fetched(source: Source, path: str) -> Fetched:
    found = source.fetch(path)
    assert isinstance(found, Fetched), found
    return found


def hinted(source: Source) -> list[str | None]:
    end, found = time.monotonic() + 90, []
    while not found and time.monotonic() < end:
        found = source.hints(1.0)
    return [hint.path for hint in found]


def test_what_is_a_document_and_what_is_not(repository: Repository, opened: Open) -> None:
    repository.write("README.md", "# Handbook\n\nText.\n")
    repository.write(".hidden/x.txt", "x")
    repository.write("image.png", b"\x89PNG")
    repository.write("blob.dat", bytes(range(256)))
    repository.write("large.txt", "x" * (LIMIT + 1))
    repository.write("model.safe", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    repository.write("new\nline\x1b.txt", "a path that a terminal obeys")
    repository.write("draft~", "an editor's")
    os.symlink("/etc/passwd", repository.folder / "passwd.txt")
    repository.write(os.fsdecode(b"latin-\xe9.txt"), "a name that is not UTF-8")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},vendored")
    repository.commit()
    source = opened(repository)
    names = ["README.md", "blob.dat", "image.png", "large.txt", os.fsdecode(b"latin-\xe9.txt"), "model.safe",
             "new\nline\x1b.txt"]  # fmt: skip
    assert sorted(listed(source), key=os.fsencode) == sorted(names, key=os.fsencode)
    assert fetched(source, "README.md").metadata["title"] == "Handbook"
    large = fetched(source, "large.txt")
    assert (large.text, large.size) == (None, LIMIT + 1)
    assert "over the limit" in large.omitted
    assert [getattr(source.fetch(path), "reason", None) for path in ("blob.dat", "image.png", "model.safe")] == [
        "binary", "binary", "special",
    ]  # fmt: skip
    assert isinstance(source.fetch("blob.dat"), Skipped)
    for path in ("passwd.txt", "vendored", ".hidden/x.txt", "../state/list.db", ".git/HEAD"):
        assert source.fetch(path) is None
    assert fetched(source, "new\nline\x1b.txt").text == "a path that a terminal obeys"


def test_a_pdf_is_read_as_the_filesystem_reads_it(repository: Repository, opened: Open) -> None:
    """Given documents larger than a text may be, then their text is published, and a scanned one says why not."""
    repository.write("a.pdf", files.pdf([["The first page."], ["The second one."]], title="Pages"))
    repository.write("scan.pdf", files.scanned_pdf())
    repository.commit()
    source = opened(repository)
    found = fetched(source, "a.pdf")
    assert "The second one." in (found.text or "")
    assert found.metadata["title"] == "Pages"
    assert found.metadata["source_media_type"] == "application/pdf"
    assert found.metadata["commit"]
    assert found.revision == listed(source)["a.pdf"]
    for _ in range(2):
        with pytest.raises(Poison, match="OCR"):
            source.fetch("scan.pdf")


def test_to_get_a_document_and_to_read_it_have_one_deadline(
    repository: Repository, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two answers of git that take 20 seconds each leave a quarter of a minute, and not another one, to read it."""
    assert FETCH_SECONDS < BEAT_LIMIT_SECONDS
    repository.write("a.pdf", files.pdf([["The first page."]]))
    repository.commit("a")
    source = opened(repository)
    assert listed(source)
    monkeypatch.setattr("connectors.git.source.FETCH_SECONDS", 0.0)
    with pytest.raises(Transient, match="not enough time"):
        source.fetch("a.pdf")


def test_metadata_are_of_the_commit_that_last_changed_the_document(repository: Repository, opened: Open) -> None:
    repository.write("a.txt", "1")
    repository.write("b.txt", "1")
    first = repository.commit(at=1_700_000_000)
    repository.write("b.txt", "2")
    second = repository.commit(at=1_700_000_100)
    source = opened(repository)
    before = listed(source)
    expected = {"commit": first, "author": "An Author", "authored_at": "2023-11-14T22:13:20Z"}
    assert expected.items() <= fetched(source, "a.txt").metadata.items()
    assert fetched(source, "a.txt").event_time == 1_700_000_000
    assert fetched(source, "b.txt").metadata["commit"] == second
    # Changed and changed back: the text is the same, its last commit is another.
    repository.put("a.txt", "other")
    third = repository.put("a.txt", "1")
    after = listed(source)
    assert fetched(source, "a.txt").metadata["commit"] == third
    assert (after["b.txt"], after["a.txt"] != before["a.txt"]) == (before["b.txt"], True)


def test_a_commit_can_say_anything_of_its_author(repository: Repository, opened: Open) -> None:
    """Given odd commits as the newest and behind others, then the branch is followed."""
    odd: dict[bytes, tuple[str, float]] = {
        b"A <a@b> 99999999999999999999999 +0000": ("A", float(2**63 - 1)),
        b"A <a@b> 9223372036854775808 +0000": ("A", float(2**63 - 1)),
        b"A <a@b> " + b"9" * 5000 + b" +0000": ("A", float(2**63 - 1)),
        b"A B <a@b> 000000000000000000000000001 +0000": ("A B", 1.0),
        b"A B <a@b>": ("A B", 0.0),
        b"A  B <a@b> -5 +0000": ("A  B", 0.0),
        b"A\xff <a@b> x": ("A\ufffd", 0.0),
        b"<> 5 +0000": ("", 5.0),
        b"no mail": ("", 0.0),
        b"": ("", 0.0),
    }
    source = opened(repository)
    listed(source)
    for number, author in enumerate(odd):
        repository.write(f"{number}.txt", "text")
        commit = repository.commit_by(author)
        assert f"{number}.txt" in listed(source)
        assert fetched(source, f"{number}.txt").metadata["commit"] == commit
    found = [fetched(source, f"{number}.txt") for number in range(len(odd))]
    assert [(one.metadata["author"], one.event_time) for one in found] == list(odd.values())
    source.close()
    from_scratch = opened(f"file://{repository.folder}")
    listed(from_scratch)
    assert [fetched(from_scratch, one.path).metadata for one in found] == [one.metadata for one in found]


def test_merges_are_followed_and_a_list_made_anew_says_the_same(
    repository: Repository, opened: Open, tmp_path: Path
) -> None:
    repository.put("base.txt", "base")
    source = opened(repository)
    listed(source)
    repository.git("checkout", "--quiet", "-b", "side")
    repository.put("side.txt", "side")
    repository.git("checkout", "--quiet", "main")
    repository.put("main.txt", "main")
    repository.git("merge", "--quiet", "--no-ff", "--no-commit", "side")
    repository.write("evil.txt", "only in the merge")
    merge = repository.commit("merge")
    step_by_step = listed(source)
    assert fetched(source, "evil.txt").metadata["commit"] == merge
    anew = open_source(
        "s", SourceConfig.model_validate({"connector": "git", "repository": str(repository.folder)}), LIMIT, None
    )
    assert listed(anew) == step_by_step
    assert set(step_by_step) == {"base.txt", "side.txt", "main.txt", "evil.txt"}
    anew.close()


def test_a_push_is_hinted_by_its_documents_and_what_is_there_comes_first(repository: Repository, opened: Open) -> None:
    repository.write("z-old.txt", "moved")
    repository.write("kept.txt", "kept")
    repository.commit()
    source = opened(repository)
    listed(source)
    repository.rename("z-old.txt", "a-new.txt")
    assert hinted(source) == ["a-new.txt", "z-old.txt"]
    assert (fetched(source, "a-new.txt").text, source.fetch("z-old.txt")) == ("moved", None)


def test_a_force_push_and_a_rebase_leave_what_the_branch_has(repository: Repository, opened: Open) -> None:
    repository.put("a.txt", "1")
    repository.put("undone.txt", "x")
    source = opened(repository)
    listed(source)
    repository.git("reset", "--quiet", "--hard", "HEAD~1")
    repository.git("commit", "--quiet", "--amend", "--message=rewritten")
    other = repository.put("b.txt", "2")
    assert hinted(source) == [None]
    assert set(listed(source)) == {"a.txt", "b.txt"}
    assert fetched(source, "b.txt").metadata["commit"] == other
    rewritten = repository.git("rev-parse", "HEAD~1")
    assert fetched(source, "a.txt").metadata["commit"] == rewritten


def test_without_history_only_the_newest_commit_is_fetched(
    repository: Repository, opened: Open, tmp_path: Path
) -> None:
    for number in range(3):
        repository.put("docs/a.txt", str(number))
    repository.put("outside.txt", "x")
    source = opened(f"file://{repository.folder}", history=False, folder="docs")
    assert set(listed(source)) == {"a.txt"}
    assert "commit" not in fetched(source, "a.txt").metadata
    copy = Git(tmp_path / "state" / "git-s", Access(""))
    assert copy.output("rev-list", "--count", "refs/vectide/tip", seconds=60).strip() == b"1"
    repository.put("docs/a.txt", "3")
    listed(source)
    assert fetched(source, "a.txt").text == "3"


def test_another_branch_or_repository_in_the_same_folder_begins_anew(repository: Repository, opened: Open) -> None:
    repository.put("main.txt", "x")
    repository.git("checkout", "--quiet", "-b", "other")
    repository.put("other.txt", "x")
    first = opened(repository, branch="main")
    assert set(listed(first)) == {"main.txt"}
    first.close()
    assert set(listed(opened(repository, branch="other"))) == {"main.txt", "other.txt"}


def test_a_copy_that_another_branch_has_taken_over_deletes_nothing(repository: Repository, opened: Open) -> None:
    """Given a source that runs, when a process with another branch uses its folder, then it waits for its own."""
    repository.put("a.txt", "of main")
    repository.git("checkout", "--quiet", "-b", "other")
    repository.remove("a.txt")
    live = opened(repository, branch="main", poll_seconds=3600)
    before = listed(live)
    assert listed(opened(repository, branch="other", poll_seconds=3600)) == {}
    with pytest.raises(SourceUnavailable, match="another source's"):
        live.fetch("a.txt")
    assert fetched(live, "a.txt").text == "of main"  # without a scan: its copy is made again
    assert listed(live) == before


@pytest.mark.parametrize("loss", ["removed", "broken", "begun anew"])
def test_a_list_that_is_lost_meanwhile_deletes_nothing(
    repository: Repository, opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    monkeypatch.setattr("connectors.git.mirror._PAGE", 1)
    for name in ("a.txt", "b.txt", "c.txt"):
        repository.write(name, name)
    repository.commit()
    source = opened(repository, poll_seconds=3600)
    before = listed(source)
    scan = without_pauses(source.scan())
    assert next(iter(scan)).path == "a.txt"
    file = tmp_path / "state" / "git-s" / "list.db"
    if loss == "removed":
        file.unlink()
    elif loss == "broken":
        file.unlink()
        file.write_bytes(b"broken" * 1000)
    else:  # as between the two transactions that empty and fill it
        with closing(sqlite3.connect(file)) as list_, list_:
            list_.execute("DELETE FROM files")
            list_.execute("UPDATE origin SET tip = ''")
    with pytest.raises(SourceUnavailable, match="not made yet"):
        list(scan)
    with pytest.raises(SourceUnavailable, match="not made yet"):
        source.fetch("b.txt")
    assert fetched(source, "b.txt").text == "b.txt"
    assert listed(source) == before


@pytest.mark.parametrize("first", [True, False], ids=["from scratch", "step by step"])
def test_a_tree_bomb_is_counted_while_it_is_listed(
    repository: Repository, opened: Open, tmp_path: Path, *, first: bool
) -> None:
    """Given 100,000 files of six objects, then the source is not ready, nothing is gone, and a revert heals it."""
    repository.put("a.txt", "1")
    source = opened(repository, files_limit=1000, poll_seconds=3600)
    if not first:
        listed(source)
    inner, kind = repository.git("hash-object", "-w", "--stdin", given=b"x"), "100644 blob"
    for _ in range(5):
        inner = repository.git("mktree", given=b"".join(f"{kind} {inner}\t{digit}.d\n".encode() for digit in range(10)))
        kind = "040000 tree"
    bomb = repository.git("commit-tree", "-p", "HEAD", "-m", "bomb", inner)
    repository.git("update-ref", "HEAD", bomb)
    for _ in range(2):
        with pytest.raises(SourceUnavailable, match="more than 1000 files: set folder, or raise files_limit"):
            listed(source)
    assert sum(file.stat().st_size for file in (tmp_path / "state" / "git-s").glob("list.db*")) < 1_000_000
    if not first:
        assert fetched(source, "a.txt").text == "1"
    repository.git("update-ref", "HEAD", "HEAD~1")
    assert set(listed(source)) == {"a.txt"}


def test_files_beyond_the_limit_that_come_one_by_one_are_counted(repository: Repository, opened: Open) -> None:
    repository.put("a.txt", "1")
    source = opened(repository, files_limit=2, poll_seconds=3600)
    listed(source)
    repository.put("b.txt", "2")
    assert set(listed(source)) == {"a.txt", "b.txt"}
    repository.put("c.txt", "3")
    with pytest.raises(SourceUnavailable, match="more than 2 files"):
        listed(source)


def test_a_copy_for_once_is_waited_for(repository: Repository, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given that no loop stands still for it, then there is no other call that could go on with the fetch."""
    monkeypatch.setattr("connectors.git.source._FRESH_SECONDS", 0.0)
    repository.put("a.txt", "1")
    with pytest.raises(SourceUnavailable, match="takes a while"):
        list(opened(repository).scan())
    config = SourceConfig.model_validate({"connector": "git", "repository": str(repository.folder)})
    with closing(open_source("s", config, LIMIT)) as once:
        assert [one.path for one in without_pauses(once.scan())] == ["a.txt"]


def test_a_branch_that_is_gone_deletes_nothing(repository: Repository, opened: Open) -> None:
    repository.git("branch", "release")
    source = opened(repository, branch="release")
    listed(source)
    repository.git("branch", "--delete", "--force", "release")
    with pytest.raises(SourceUnavailable, match="couldn't find remote ref refs/heads/release"):
        listed(source)


def test_locks_that_a_killed_git_left_do_not_matter(repository: Repository, opened: Open, tmp_path: Path) -> None:
    repository.put("a.txt", "1")
    first = opened(repository)
    listed(first)
    first.close()
    copy = tmp_path / "state" / "git-s" / "repository.git"
    (copy / "refs" / "vectide" / "tip.lock").touch()
    (copy / "packed-refs.lock").touch()
    (tmp_path / "state" / "git-s" / "list.db").write_bytes(b"broken")
    repository.put("b.txt", "2")
    assert set(listed(opened(repository))) == {"a.txt", "b.txt"}


def test_a_hook_file_asks_for_a_fetch(repository: Repository, opened: Open, tmp_path: Path) -> None:
    source = opened(f"file://localhost{repository.folder}", hook_file=str(tmp_path / "pushed"), poll_seconds=3600)
    listed(source)
    repository.put("a.txt", "1")
    assert source.hints(0.5) == []
    (tmp_path / "pushed").touch()
    assert hinted(source) == ["a.txt"]


def test_nothing_that_a_repository_brings_is_run(repository: Repository, opened: Open, tmp_path: Path) -> None:
    """Hooks, configuration and attributes of a hostile repository, on this side and on the other."""
    sign = tmp_path / "run"
    repository.write(".gitattributes", "* filter=evil diff=evil\n")
    repository.write(".gitmodules", f'[submodule "x"]\n\tpath = x\n\turl = ext::sh -c touch% {sign}\n')
    repository.put("a.txt", "1")
    for name in ("post-checkout", "reference-transaction", "pre-receive", "post-upload-pack", "fsmonitor"):
        hook = repository.folder / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {sign}\n")
        hook.chmod(0o755)
    for key, value in (
        ("core.fsmonitor", f"touch {sign}"), ("filter.evil.smudge", f"touch {sign}"), ("core.pager", f"touch {sign}"),
        ("diff.evil.textconv", f"touch {sign}"), ("uploadpack.packObjectsHook", f"touch {sign}; exec"),
        ("core.sshCommand", f"touch {sign}"), ("core.alternateRefsCommand", f"touch {sign}"),
    ):  # fmt: skip
        with (repository.folder / ".git" / "config").open("a") as file:
            section, _, name = key.rpartition(".")
            outer, _, inner = section.partition(".")
            head = f'[{outer} "{inner}"]' if inner else f"[{outer}]"
            file.write(f'{head}\n\t{name} = "{value}"\n')
    source = opened(repository)
    assert "a.txt" in listed(source)
    assert fetched(source, "a.txt").text == "1"
    assert not sign.exists()


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"repository": "ext::sh -c touch% /tmp/x"}, "transports that run commands"),
        ({"repository": "--upload-pack=touch /tmp/x"}, "transports that run commands"),
        ({"repository": "ftp://host/x"}, "a URL of file, git"),
        ({"repository": "/srv/x", "branch": "--force"}, "name of a branch"),
        ({"repository": "/srv/x", "branch": "a:refs/heads/b"}, "name of a branch"),
        ({"repository": "/srv/x", "folder": "../up"}, "inside the repository"),
        ({"repository": "/srv/x", "password": "hunter2"}, "for http and https"),
        ({"repository": "https://h/x", "password": "hunter2", "password_file": "/x"}, "exclude each other"),
        ({"repository": "https://h/x", "password_file": "/absent"}, "password_file"),
    ],
)
def test_a_setting_that_is_wrong_is_named_and_no_secret_shown(settings: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_source("s", SourceConfig.model_validate({"connector": "git", **settings}), LIMIT)
    assert expected in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_uris_say_the_same_as_settings() -> None:
    assert settings_of("git+file:///srv/team%20one/handbook") == {"repository": "/srv/team one/handbook"}
    found = source_of("git+https://me:hunter2@host/team/handbook.git#branch=main&folder=docs")
    assert found.connector == "git"
    access = GitSettings.model_validate(found.settings).access()
    assert (access.repository, access.username, access.password) == ("https://host/team/handbook.git", "me", "hunter2")
    assert found.settings["branch"] == "main"
    assert "hunter2" not in f"{found!r} {access!r} {GitSettings.model_validate(found.settings)!r}"
    assert settings_of("git://host/x")["repository"] == "git://host/x"
    assert settings_of("git+ssh://git@host/x")["repository"] == "ssh://git@host/x"
    for uri in ("git+ftp://host/x", "git+https://host/x#commit=1"):
        with pytest.raises(ConfigError):
            source_of(uri)


def test_a_password_goes_to_its_server_only_and_into_no_argument(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every git that is started notes its arguments; the server asks for the password and gets it."""
    Repository(tmp_path / "served" / "handbook").put("a.txt", "1")
    server = Served(tmp_path / "served")
    real = subprocess.run(["which", "git"], capture_output=True, check=True, text=True).stdout.strip()
    shim = tmp_path / "bin" / "git"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {tmp_path}/arguments\nexec {real} "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
    secret = tmp_path / "secret"
    secret.write_text(Served.PASSWORD + "\n")
    try:
        url = f"{server.url}/handbook/.git"
        assert set(listed(opened(url, username=Served.USER, password_file=str(secret)))) == {"a.txt"}
        with pytest.raises(SourceUnavailable) as caught:
            listed(opened(url, username=Served.USER, password="a wrong one"))
        assert "Authentication failed" in str(caught.value)
        assert "a wrong one" not in str(caught.value)
    finally:
        server.close()
    arguments = (tmp_path / "arguments").read_text()
    assert "fetch" in arguments
    assert Served.PASSWORD not in arguments
    assert "a wrong one" not in arguments


def test_a_git_that_hangs_is_ended_with_what_it_has_started(tmp_path: Path) -> None:
    shim = tmp_path / "bin" / "git"
    shim.parent.mkdir()
    shim.write_text(f"#!{sys.executable}\nimport subprocess\nsubprocess.run(['sleep', '1000'])\n")
    shim.chmod(0o755)
    git = Git(tmp_path, Access("/x"))
    os.environ["PATH"], path = f"{shim.parent}:{os.environ['PATH']}", os.environ["PATH"]
    try:
        with pytest.raises(SourceUnavailable, match="gave no answer"):
            git.output("fetch", seconds=0.5)
    finally:
        os.environ["PATH"] = path
    assert not git._running


def test_a_blob_that_trickles_is_given_up_before_the_loop_counts_as_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 2 * blobs._SECONDS < BEAT_LIMIT_SECONDS  # its size, and its content
    shim = tmp_path / "bin" / "git"
    shim.parent.mkdir()
    trickle = "for _ in range(200):\n    print(end='x', flush=True)\n    time.sleep(0.05)\n"
    shim.write_text(f"#!{sys.executable}\nimport time\nprint('id blob 200')\n{trickle}print(flush=True)\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(blobs, "_SECONDS", 1.0)
    reading = blobs.Blobs(Git(tmp_path, Access("/x")))
    with pytest.raises(Transient, match="no whole answer within 1 s"):
        reading.content("id")
    reading.close()


def test_the_project_s_own_history(opened: Open) -> None:
    """Hundreds of real commits, merges and renames, listed as git itself lists them."""
    asked = ["git", "-C", str(ROOT), "rev-parse", "--is-shallow-repository"]
    shallow = subprocess.run(asked, capture_output=True, text=True, check=False)
    if shallow.stdout.strip() != "false":
        pytest.skip("this is no repository with its whole history")
    source = opened(str(ROOT), folder="docs", include=["*.md"])
    found = listed(source)
    command = ["git", "-C", str(ROOT), "ls-tree", "-r", "--name-only", "HEAD:docs"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    assert set(found) == {name for name in names if name.endswith(".md")}
    command = ["git", "-C", str(ROOT), "log", "-c", "--name-only", "--format=commit %H"]
    said = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    commits = {}
    for block in said.removeprefix("commit ").split("\ncommit "):
        commit, *paths = block.split("\n")
        for path in paths:
            commits.setdefault(path, commit)
    assert {path: fetched(source, path).metadata["commit"] for path in found} == {
        path: commits[f"docs/{path}"] for path in found
    }


def test_hints_are_of_documents_that_the_rules_admit(repository: Repository, opened: Open) -> None:
    source = opened(repository, exclude=["drafts/"])
    listed(source)
    repository.write("drafts/x.txt", "x")
    repository.write("y.txt", "y")
    repository.commit()
    assert hinted(source) == ["y.txt"]


def test_every_setting_is_documented_with_its_default() -> None:
    text = (ROOT / "docs" / "connectors.md").read_text().split("\n## git\n")[1].split("\n## ")[0]
    rows = [row for row in text.splitlines() if row.startswith("| `")]
    for name, field in GitSettings.model_fields.items():
        (row,) = [row for row in rows if f"`{name}`" in row.split("|")[1]]
        if isinstance(field.default, bool | float) and name != "hidden":
            assert f"`{str(field.default).lower().removesuffix('.0')}`" in row
