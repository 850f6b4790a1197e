"""A branch and, where they are asked for, its submodules: each a copy of its own, at the commit that its parent names.

1. The branch is fetched. Before its list is of the new commit, each submodule that ``.gitmodules`` and the tree name is
   fetched and listed, and in it those below.
2. What cannot be fetched keeps the list that it had; of documents below it that are in no list, nobody can say.
3. Copies of what is a submodule no more are dropped only now: nothing is absent on the way.

See docs/adr/0006-submodules.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from connectors.git.addresses import access_to, resolved
from connectors.git.blobs import Blobs
from connectors.git.commands import Access, Git
from connectors.git.commits import Changes, File
from connectors.git.mirror import Mirror
from connectors.git.modules import Module, modules_of
from connectors.git.settings import GitSettings
from pipeline.errors import SourceUnavailable

log = logging.getLogger(__name__)

#: Of a branch, those below each other counted one by one. Each is a repository on the disk.
_MODULES: Final = 100
#: Below each other; a repository can name an older commit of itself.
_DEPTH: Final = 8
#: Copies whose contents are read by a process of their own at a time.
_READERS: Final = 4
#: What could not be fetched is left alone for so many times as long as that took, and for so long at most: a server
#: that says nothing costs minutes, and everything else waits for them.
_REST: Final = 4.0
_REST_SECONDS: Final = 600.0
#: Folders of copies, below the one of the branch's.
_FOLDER: Final = "modules"


class Unfetched(Exception):
    """The path lies below a submodule that could not be fetched: nobody can say what is there."""


class _TooMany(SourceUnavailable):
    """Of submodules: none of them is at fault."""


@dataclass(frozen=True)
class _Copy:
    folder: Path
    access: Access
    git: Git
    mirror: Mirror
    blobs: Blobs


@dataclass
class _Round:
    """One update."""

    seen: dict[str, None] = field(default_factory=lambda: {"": None})
    failed: dict[str, str] = field(default_factory=dict)
    files: int = 0


class Superproject:
    """All that a source publishes of one branch: updated by one thread, read by another.

    Args:
        settings: of the source.
        folder: ours alone.
        admits: whether a folder is entered.
    """

    def __init__(self, settings: GitSettings, folder: Path, admits: Callable[[str], bool]) -> None:
        self._settings = settings
        self._folder = folder
        self._admits = admits
        self._lock = threading.Lock()
        self._stopped = False
        self._copies: dict[str, _Copy] = {}
        self._failed: dict[str, str] = {}
        self._rests: dict[str, tuple[Module, float]] = {}
        self._reading: list[str] = []
        self.repository = settings.access().repository
        self._copy("", settings.access(), folder, settings.branch, settings.folder)

    def update(self) -> str:
        """Fetch, and bring all lists up to date; a text that is another whenever one of them is.

        Raises:
            SourceUnavailable: as :meth:`Mirror.update`; for a submodule alone, :meth:`trouble` says it.
        """
        round_ = _Round()
        self._update("", "", round_)
        with self._lock:
            self._failed = round_.failed
            kept = {path for path in self._copies if path in round_.seen or self._is_failed(path)}
            dropped = [self._copies.pop(path) for path in self._copies.keys() - kept]
        self._rests = {path: rest for path, rest in self._rests.items() if path in round_.failed}
        for copy in dropped:
            _end(copy)
        return json.dumps(
            {path: [copy.access.repository, copy.mirror.listed()] for path, copy in sorted(self._copies.items())}
        )

    def trouble(self) -> str:
        """What is wrong with the submodules; empty: nothing."""
        with self._lock:
            failed = dict(self._failed)
        if not failed:
            return ""
        path, why = next(iter(sorted(failed.items())))
        others = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        return f"submodule {path}: {why}{others}"

    def changes(self, old: str, new: str) -> Changes:
        """What changed from one update to another.

        Raises:
            SourceUnavailable: a copy cannot be read.
        """
        before, after = json.loads(old), json.loads(new)
        if {path: url for path, (url, _) in before.items()} != {path: url for path, (url, _) in after.items()}:
            return Changes((), everything=True)
        there: list[str] = []
        gone: list[str] = []
        for path, (_, tip) in after.items():
            _, known = before[path]
            if known == tip:
                continue
            copy = self._copies.get(path)
            if copy is None or not known or not tip:
                return Changes((), everything=True)
            found = copy.mirror.changes(known, tip)
            if found.everything:
                return found
            for one in found.paths:
                joined = _joined(path, one)
                if joined not in after and joined not in self._failed:  # a submodule tells itself what changed in it
                    (gone if copy.mirror.file(one) is None else there).append(joined)
        return Changes((*there, *gone))

    def files(self) -> Iterator[File]:
        """Everything that is listed, submodules after the branch's own.

        Raises:
            SourceUnavailable: a list is not there, not whole, or of another repository or branch.
        """
        for path, copy in sorted(self._now().items()):
            if self._is_failed(path) and not copy.mirror.listed():
                continue
            for file in copy.mirror.files():
                yield _of(path, file)

    def file(self, path: str) -> File | None:
        """One of them.

        Raises:
            Unfetched: it would be a submodule's that could not be fetched.
            SourceUnavailable: a list is not there, not whole, or of another repository or branch.
        """
        copies, failed = self._now(), self._is_below_failed(path)
        for above, inner in _above(path):
            copy = copies.get(above)
            if copy is None:
                continue
            try:
                found = copy.mirror.file(inner)
            except SourceUnavailable:
                if not failed:
                    raise
                continue
            if found is not None:
                return _of(above, found)
        if failed:
            raise Unfetched
        return None

    def size(self, file: File) -> int:
        """Bytes of a file.

        Raises:
            SourceUnavailable: git cannot be started.
            Transient: it is not there any more, or git does not answer.
        """
        return self._blobs(file).size(file.blob)

    def content(self, file: File) -> bytes:
        """All of a file; raises as :meth:`size`."""
        return self._blobs(file).content(file.blob)

    def stop(self) -> None:
        """End every git, and run none any more."""
        with self._lock:
            self._stopped = True
            copies = list(self._copies.values())
        for copy in copies:
            copy.git.stop()

    def close(self) -> None:
        """Let go of everything, once it is stopped."""
        for copy in self._now().values():
            _end(copy)

    # ------------------------------------------------------------------------- updating

    def _update(self, path: str, commit: str, round_: _Round) -> None:
        copy = self._copies[path]

        def fetched(commit: str) -> None:
            if self._settings.submodules:
                below = self._settings.folder if not path else ""
                for module in modules_of(copy.git, commit, below):
                    self._module(path, copy.access.repository, module, round_)
            if not path:
                self._clear()  # while no other process updates these
            copy.mirror.taken = round_.files

        copy.mirror.update(commit, fetched)
        if self._settings.submodules:
            round_.files += copy.mirror.count()

    def _module(self, parent: str, address: str, module: Module, round_: _Round) -> None:
        path = _joined(parent, module.path)
        if not self._admits(path) or path in round_.seen:
            return
        round_.seen[path] = None
        if len(round_.seen) > _MODULES + 1 or sum(above in round_.seen for above, _ in _above(path)) > _DEPTH + 1:
            raise _TooMany(f"more than {_MODULES} submodules, or {_DEPTH} below each other: exclude some")
        rest, until = self._rests.get(path, (None, 0.0))
        began = time.monotonic()
        known_failed = self._failed.get(path)
        if known_failed is not None and rest == module and began < until:
            round_.failed[path] = known_failed
            return
        try:
            access = access_to(
                resolved(address, module.url), self._copies[""].access, address, self._settings.submodule_hosts
            )
            known = self._copies.get(path)
            if known is None or known.access != access:
                self._note(path, "it is being fetched")
                folder = (
                    self._folder
                    / _FOLDER
                    / hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
                )
                self._copy(path, access, folder, "", "")
            self._update(path, module.commit, round_)
        except _TooMany:
            raise
        except (ValueError, SourceUnavailable) as error:
            why = str(error)
            if known_failed is None and not self._stopped:
                log.warning("submodule cannot be fetched; its documents stay", extra={"submodule": path, "error": why})
            self._note(path, why)
            round_.failed[path] = why
            ended = time.monotonic()
            self._rests[path] = module, ended + min(_REST * (ended - began), _REST_SECONDS)
        else:
            with self._lock:
                self._failed.pop(path, None)

    def _note(self, path: str, why: str) -> None:
        with self._lock:
            self._failed[path] = why

    def _copy(self, path: str, access: Access, folder: Path, branch: str, below: str) -> None:
        git = Git(folder, access)
        settings = self._settings
        mirror = Mirror(
            git,
            folder,
            access.repository,
            branch,
            below,
            settings.fetch_seconds,
            history=settings.history,
            files_limit=settings.files_limit,
        )
        with self._lock:
            other = self._copies.get(path)
            self._copies[path] = _Copy(folder, access, git, mirror, Blobs(git))
            stopped = self._stopped
        if other is not None:
            _end(other)
        if stopped:
            git.stop()

    def _is_failed(self, path: str) -> bool:
        """A submodule is, or lies below one that is: then nobody has asked for it."""
        return path in self._failed or self._is_below_failed(path)

    def _is_below_failed(self, path: str) -> bool:
        return any(above in self._failed for above, _ in _above(path))

    def _clear(self) -> None:
        """Copies of what is a submodule no more."""
        kept = {copy.folder.name for path, copy in self._now().items() if path}
        with contextlib.suppress(OSError):
            for folder in (self._folder / _FOLDER).iterdir():
                if folder.name not in kept:
                    shutil.rmtree(folder, ignore_errors=True)

    # -------------------------------------------------------------------------- reading

    def _now(self) -> dict[str, _Copy]:
        with self._lock:
            return dict(self._copies)

    def _blobs(self, file: File) -> Blobs:
        copies = self._now()
        copy = copies.get(file.module)
        if copy is None:
            raise SourceUnavailable(f"{file.module} is a submodule no more")
        if file.module not in self._reading:
            self._reading.append(file.module)
            if len(self._reading) > _READERS and (first := copies.get(self._reading.pop(0))) is not None:
                first.blobs.close()
        return copy.blobs


def _end(copy: _Copy) -> None:
    copy.git.stop()  # who still reads from it starts no other
    copy.blobs.close()
    copy.mirror.close()


def _above(path: str) -> Iterator[tuple[str, str]]:
    """The folders above a path, the nearest first, and what is left of it there; at last the root, with all of it."""
    end = path.rfind("/")
    while end > 0:
        yield path[:end], path[end + 1 :]
        end = path.rfind("/", 0, end)
    yield "", path


def _joined(above: str, inner: str) -> str:
    return f"{above}/{inner}" if above else inner


def _of(above: str, file: File) -> File:
    return file._replace(path=_joined(above, file.path), module=above) if above else file
