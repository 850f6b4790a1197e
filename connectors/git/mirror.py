"""A bare copy of one branch in the connector's own folder, with a list of what its newest commit holds.

The list is a SQLite file: what is there, as which blob, and which commit has last changed it. It is a
cache, and so is the copy: lost, or of another repository, they are made again.

1. Lock the folder, and fetch the branch. A git that outlives a killed process holds the lock until it ends.
2. If the branch is elsewhere than the list says, bring the list up to it, in one transaction: by what the
   new commits have changed; from scratch if the old commit is not one of its ancestors (a force-push).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from connectors.cache import Tables, opened, transaction
from connectors.git.commands import Git
from connectors.git.commits import FORMAT, Changes, Commit, File, commit_of
from pipeline.errors import SourceUnavailable

_REF: Final = "refs/vectide/tip"
_LIST: Final = "list.db"
#: A command that only looks into our own copy.
_LOCAL_SECONDS: Final = 120.0
_LOCK_SECONDS: Final = 60.0
_LOCK_POLL_SECONDS: Final = 0.05
_PAGE: Final = 500
#: Regular files; links are 12, submodules 16.
_FILE_MODE: Final = b"100"
#: More changed paths than this at once: a scan is cheaper.
_MANY: Final = 5_000

_TABLES: Final = Tables(
    1,
    ("origin", "files", "commits"),
    """
CREATE TABLE origin (repository TEXT, branch TEXT, folder TEXT, history INTEGER, tip TEXT, at INTEGER);
CREATE TABLE files (path BLOB PRIMARY KEY, blob TEXT NOT NULL, commit_ INTEGER) WITHOUT ROWID;
CREATE TABLE commits (number INTEGER PRIMARY KEY, id TEXT UNIQUE, at INTEGER, author TEXT);
""",
)
_SELECT: Final = (
    "SELECT path, blob, commits.id, coalesce(commits.at, (SELECT at FROM origin)), author "
    "FROM files LEFT JOIN commits ON number = commit_"
)
_RAW: Final = ("-z", "--raw", "--no-renames", "--no-abbrev")


class Mirror:
    """The copy of one branch: updated by one thread, read by any, beside other processes.

    Args:
        git: runs in the folder.
        folder: ours alone.
        repository: what is fetched from.
        branch: empty: the one that the repository says.
        below: only what lies in this folder of the repository; empty: everything.
        history: know the commit that has last changed each file.
        seconds: of one fetch.
        files_limit: more than this, links and submodules too, are not listed.
    """

    def __init__(
        self,
        git: Git,
        folder: Path,
        repository: str,
        branch: str,
        below: str,
        seconds: float,
        *,
        history: bool,
        files_limit: int,
    ) -> None:
        self._git = git
        self._folder = folder
        self._origin = (repository, branch, below, int(history))
        self._repository = repository
        self._branch = branch
        self._below = below
        self._history = history
        self._seconds = seconds
        self._files_limit = files_limit
        self.taken = 0
        """Files of others that count for the limit, too."""
        self._reading = threading.Lock()
        self._reader: tuple[int, sqlite3.Connection] | None = None

    def update(self, wanted: str = "", fetched: Callable[[str], object] = str) -> str:
        """Fetch, and bring the list up to date; the newest commit.

        Args:
            wanted: a commit, instead of the branch's newest.
            fetched: is told the commit before the list is of it.

        Raises:
            SourceUnavailable: the repository does not answer, refuses, has no such branch or folder, or too many files.
        """
        with self._locked() as descriptor, closing(self._file()) as file:
            if wanted:
                self._fetch_commit(descriptor, wanted)
            else:
                self._fetch(descriptor, f"refs/heads/{self._branch}" if self._branch else "HEAD")
            commit = self._tip()
            fetched(commit)
            (known,) = file.execute("SELECT tip FROM origin").fetchone()
            if known != commit:
                self._list(file, known, commit)
                self._tidy(descriptor)
            return commit

    def changes(self, old: str, new: str) -> Changes:
        """What changed from one newest commit to another.

        Raises:
            SourceUnavailable: the copy cannot be read.
        """
        if self._history and not self._is_ancestor(old, new):
            return Changes((), everything=True)
        paths: dict[str, None] = {}
        try:
            for path in self._differing(old, new):
                paths[_text(path)] = None
                if len(paths) > _MANY:
                    return Changes((), everything=True)
        except SourceUnavailable:  # the old commit was collected
            return Changes((), everything=True)
        with self._read() as file:
            there = [path for path in paths if _file_at(file, path) is not None]
        gone = paths.keys() - set(there)
        return Changes((*there, *(path for path in paths if path in gone)))

    def _differing(self, old: str, new: str) -> Iterator[bytes]:
        for _, _, path in self._entries("diff-tree", "-r", *_RAW, old, new):
            yield path
        if self._history:  # what was changed and changed back has another last commit
            for _, path in self._log(f"{old}..{new}"):
                yield path

    def files(self) -> Iterator[File]:
        """Everything that the newest commit holds, in order; a page at a time, while it may be changed.

        Raises:
            SourceUnavailable: the list is not there, not whole, or of another repository or branch.
        """
        after = b""
        while True:
            with self._read() as file:
                rows = file.execute(
                    f"{_SELECT} WHERE path > ? ORDER BY path LIMIT {_PAGE}",
                    (after,),
                ).fetchall()
            yield from (_of(row) for row in rows)
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def file(self, path: str) -> File | None:
        """One of them.

        Raises:
            SourceUnavailable: the list is not there, not whole, or of another repository or branch.
        """
        with self._read() as file:
            return _file_at(file, path)

    def listed(self) -> str:
        """The commit that the list is of; empty if there is none."""
        try:
            with self._read() as file:
                (tip,) = file.execute("SELECT tip FROM origin").fetchone()
        except SourceUnavailable:
            return ""
        return str(tip)

    def count(self) -> int:
        """How many files it has; reads all of it.

        Raises:
            SourceUnavailable: the list is not there, not whole, or of another repository or branch.
        """
        with self._read() as file:
            (count,) = file.execute("SELECT count(*) FROM files").fetchone()
        return int(count)

    def close(self) -> None:
        """Let go of the list."""
        with self._reading:
            self._end_reading()

    # ---------------------------------------------------------------------- the copy

    @contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SourceUnavailable(f"the copy of the repository cannot be written: {error}") from None
        try:
            end = time.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise SourceUnavailable(f"another process fetches into {self._folder}") from None
                    time.sleep(_LOCK_POLL_SECONDS)
            self._prepare()
            yield descriptor
        finally:
            os.close(descriptor)

    def _prepare(self) -> None:
        """A repository of ours, for this origin; what a killed git left behind is removed."""
        directory = self._git.directory
        with closing(self._file()) as file:
            row = file.execute("SELECT repository, branch, folder, history FROM origin").fetchone()
            if row != self._origin or not (directory / "HEAD").exists():
                shutil.rmtree(directory, ignore_errors=True)
                (self._folder / "trust.gitconfig").write_text("[safe]\n\tdirectory = *\n")
                self._git.output("init", "--bare", "--quiet", "--template=", str(directory), seconds=_LOCAL_SECONDS)
                with transaction(file):
                    for table in ("origin", "files", "commits"):
                        file.execute(f"DELETE FROM {table}")  # noqa: S608 - a constant
                    file.execute("INSERT INTO origin VALUES (?, ?, ?, ?, '', 0)", self._origin)
        for lock in directory.rglob("*.lock"):
            with contextlib.suppress(OSError):
                lock.unlink()

    def _fetch(self, descriptor: int, wanted: str, ref: str = _REF) -> None:
        # What was a branch can be a folder of branches now.
        how = ["--prune"] if ref != _REF else [] if self._history else ["--depth=1"]
        self._git.output(
            "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", *how, "--force",
            "--", self._repository, f"+{wanted}:{ref}", seconds=self._seconds, keep_open=[descriptor],
        )  # fmt: skip

    def _fetch_commit(self, descriptor: int, wanted: str) -> None:
        with contextlib.suppress(SourceUnavailable):
            if self._tip() == wanted:
                return
        try:
            self._fetch(descriptor, wanted)
        except SourceUnavailable:
            # Servers may refuse what no branch names by itself.
            self._fetch(descriptor, "refs/heads/*", "refs/vectide/heads/*")
            try:
                self._git.output("update-ref", _REF, wanted, seconds=_LOCAL_SECONDS)
            except SourceUnavailable:
                raise SourceUnavailable(f"commit {wanted} cannot be fetched, and no branch has it") from None

    def _tip(self) -> str:
        found = self._git.output("rev-parse", "--verify", f"{_REF}^{{commit}}", seconds=_LOCAL_SECONDS)
        return found.decode().strip()

    # ---------------------------------------------------------------------- the list

    def _list(self, file: sqlite3.Connection, known: str, commit: str) -> None:
        tip = self._commit(commit)
        with transaction(file):
            if not known or not self._advanced(file, known, commit):
                self._begin(file, commit)
            (count,) = file.execute("SELECT count(*) FROM files").fetchone()
            self._check_count(count)
            # What no commit has touched, as after a graft: the newest one has, as far as anybody knows.
            if self._history:
                file.execute("UPDATE files SET commit_ = ? WHERE commit_ IS NULL", (_number(file, tip),))
            file.execute("UPDATE origin SET tip = ?, at = ?", (commit, tip.at))

    def _begin(self, file: sqlite3.Connection, commit: str) -> None:
        """From the tree; then newest first, for the first commit that names a path has last changed it."""
        file.execute("DELETE FROM files")
        file.execute("DELETE FROM commits")
        left = 0
        for path, blob in self._tree(commit):
            file.execute("INSERT INTO files VALUES (?, ?, NULL)", (path, blob))
            left += 1
        if self._history and left:
            with closing(self._log(commit)) as log:
                for change, path in log:
                    left -= file.execute(
                        "UPDATE files SET commit_ = ? WHERE path = ? AND commit_ IS NULL", (_number(file, change), path)
                    ).rowcount
                    if not left:
                        break

    def _advanced(self, file: sqlite3.Connection, old: str, new: str) -> bool:
        """By what lies between two commits; False if the second does not follow the first."""
        if self._history and not self._is_ancestor(old, new):
            return False
        file.execute("SAVEPOINT advance")
        try:
            for count, (mode, blob, path) in enumerate(self._entries("diff-tree", "-r", *_RAW, old, new), 1):
                self._check_count(count)
                if mode.startswith(_FILE_MODE):
                    file.execute("INSERT OR REPLACE INTO files VALUES (?, ?, NULL)", (path, blob))
                else:
                    file.execute("DELETE FROM files WHERE path = ?", (path,))
            dated: set[bytes] = set()
            for change, path in self._log(f"{old}..{new}") if self._history else ():
                if path not in dated:
                    dated.add(path)
                    file.execute("UPDATE files SET commit_ = ? WHERE path = ?", (_number(file, change), path))
        except SourceUnavailable:
            # Nothing keeps the old commit for ever: it can have been collected. Or too much differs.
            file.execute("ROLLBACK TO advance")
            return False
        finally:
            file.execute("RELEASE advance")
        return True

    # ----------------------------------------------------------------- what git says

    def _tree(self, commit: str) -> Iterator[tuple[bytes, str]]:
        """Path and blob of every file."""
        listing = self._git.tokens("ls-tree", "-r", "-z", f"{commit}:{self._below}", seconds=_LOCAL_SECONDS)
        with closing(listing) as tokens:
            for count, token in enumerate(tokens, 1):
                self._check_count(count)
                described, _, path = token.partition(b"\t")
                mode, _, blob = described.split(b" ")
                if mode.startswith(_FILE_MODE):
                    yield path, blob.decode()

    def _check_count(self, count: int) -> None:
        """A tree that names another many times, and so on, is a handful of objects and any number of files."""
        if count + self.taken > self._files_limit:
            raise SourceUnavailable(
                f"the newest commit holds more than {self._files_limit} files: set folder, or raise files_limit"
            )

    def _entries(self, *arguments: str) -> Iterator[tuple[bytes, str, bytes]]:
        """Mode, blob and path of everything that differs, as it is by then."""
        described = b""
        for token in self._git.tokens(*arguments, *self._within(), seconds=_LOCAL_SECONDS):
            if described:
                parts = described.split(b" ")
                yield parts[1], parts[3].decode(), self._inside(token)
                described = b""
            else:
                described = token

    def _log(self, range_: str) -> Generator[tuple[Commit, bytes]]:
        """Every path that a commit has changed, newest commit first; of a merge, what it changed by itself."""
        commit, follows = Commit("", 0, ""), False
        arguments = ("log", "-c", "-r", *_RAW, FORMAT, range_, *self._within())
        with closing(self._git.tokens(*arguments, seconds=_LOCAL_SECONDS)) as tokens:
            for token in tokens:
                line = token.lstrip(b"\n")
                if follows:
                    yield commit, self._inside(token)
                    follows = False
                elif line.startswith(b":"):
                    follows = True
                elif line.startswith(b"commit "):
                    commit = commit_of(line)

    def _within(self) -> list[str]:
        return ["--", self._below] if self._below else ["--"]

    def _inside(self, path: bytes) -> bytes:
        """The path below our folder: `--relative` leaves those of merges as they are."""
        return path[len(_bytes(self._below)) + 1 :] if self._below else path

    def _commit(self, id: str) -> Commit:
        return commit_of(self._git.output("show", "--no-patch", FORMAT, id, seconds=_LOCAL_SECONDS).strip())

    def _is_ancestor(self, old: str, new: str) -> bool:
        try:
            self._git.output("merge-base", "--is-ancestor", old, new, seconds=_LOCAL_SECONDS)
        except SourceUnavailable:
            return False
        return True

    def _tidy(self, descriptor: int) -> None:
        """Pack what many fetches have left; it can wait for the next time."""
        with contextlib.suppress(SourceUnavailable):
            self._git.output("gc", "--auto", "--quiet", seconds=self._seconds, keep_open=[descriptor])

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        """The list as it is at one moment, and only if it is ours and whole; opened again if it was made anew."""
        with self._reading:
            try:
                with transaction(self._opened_reader(), "DEFERRED") as file:
                    row = file.execute("SELECT repository, branch, folder, history, tip FROM origin").fetchone()
                    # Lost, or of another process with other settings, it says nothing of what is gone.
                    if row is None or row[:-1] != self._origin or not row[-1]:
                        raise SourceUnavailable(f"the copy in {self._folder} is not made yet, or another source's")
                    yield file
            except (OSError, sqlite3.Error) as error:
                self._end_reading()
                raise SourceUnavailable(f"the list of the repository's files in {self._folder}: {error}") from None

    def _opened_reader(self) -> sqlite3.Connection:
        try:
            number = os.stat(self._folder / _LIST).st_ino
        except OSError:
            number = 0
        if self._reader is None or self._reader[0] != number:
            self._end_reading()
            file = self._file()
            self._reader = (os.stat(self._folder / _LIST).st_ino, file)
        return self._reader[1]

    def _end_reading(self) -> None:
        if self._reader is not None:
            self._reader[1].close()
        self._reader = None

    def _file(self) -> sqlite3.Connection:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return opened(self._folder / _LIST, _TABLES)
        except (OSError, sqlite3.Error) as error:
            raise SourceUnavailable(f"the list of the repository's files in {self._folder}: {error}") from None


def _file_at(file: sqlite3.Connection, path: str) -> File | None:
    row = file.execute(f"{_SELECT} WHERE path = ?", (_bytes(path),)).fetchone()
    return None if row is None else _of(row)


def _of(row: tuple[bytes, str, str | None, int, str | None]) -> File:
    path, blob, commit, at, author = row
    return File(_text(path), blob, commit or "", at, author or "")


def _number(file: sqlite3.Connection, commit: Commit) -> int:
    file.execute("INSERT OR IGNORE INTO commits (id, at, author) VALUES (?, ?, ?)", commit)
    (number,) = file.execute("SELECT number FROM commits WHERE id = ?", (commit.id,)).fetchone()
    return int(number)


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
