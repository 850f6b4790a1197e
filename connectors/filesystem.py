"""The filesystem connector: the files of one folder, watched.

A document's path is the file's, relative to the folder, with ``/``; a name that is not UTF-8 is
carried byte for byte. A file that becomes binary is no document any more: it is deleted. A file
over the size limit is published without its text, and its content is not read. Documents that are no texts
(PDF, Office ...) are read in a process of their own (:mod:`connectors.extraction.reader`).
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from connectors.extraction import (
    SAMPLE_BYTES,
    ExtractionLimits,
    Extractor,
    binary,
    is_text,
    revision_of,
)
from connectors.fetching import fetched
from connectors.ignoring import Rules, patterns
from connectors.settings import parse
from connectors.tree import Tree, raise_unless_absent
from connectors.watching import Watch
from pipeline.errors import ConfigError, SourceUnavailable
from pipeline.ports import Fetched, Hint, Listed, Skipped, Source

#: A folder that has just appeared is listed at once and once more: files can be made in it before
#: its watch is.
_SETTLE_SECONDS: Final = 0.1
#: More files than this in folders that have just appeared: a scan has pauses, and its memory is bounded.
_LISTED: Final = 10_000
#: Of a file that is not read, its two ends tell whether it changed.
_END_BYTES: Final = 64 * 1024


class FilesystemSettings(BaseModel):
    """``[sources.<id>]`` with ``connector = "filesystem"``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(description="the folder")
    include: Annotated[tuple[str, ...], AfterValidator(patterns)] = Field(
        (), description="patterns in git's syntax; only files that match one"
    )
    exclude: Annotated[tuple[str, ...], AfterValidator(patterns)] = Field(
        (), description="patterns in git's syntax; no file or folder that matches"
    )
    gitignore: bool = Field(False, description="respect `.gitignore` files")
    follow_symlinks: bool | Literal["inside"] = Field(
        False, description="links count as what they lead to; `inside`: if that lies in the folder, too"
    )
    hidden: bool = Field(False, description="names that begin with a dot, too")
    extraction: ExtractionLimits = Field(ExtractionLimits(), description="what a PDF, an Office file ... may cost")


def connector(source_id: str, settings: Mapping[str, Any], document_limit_bytes: int) -> Source:
    """Make a filesystem source.

    Raises:
        ConfigError: a setting is unknown or wrong.
    """
    return FilesystemSource(source_id, parse(FilesystemSettings, source_id, settings), document_limit_bytes)


class FilesystemSource:
    """A :class:`pipeline.ports.Source`.

    Args:
        id: the source's.
        settings: of the source.
        limit_bytes: a larger text is published without it.
    """

    def __init__(self, id: str, settings: FilesystemSettings, limit_bytes: int) -> None:
        self.id = id
        self._settings = settings
        self._limit = limit_bytes
        self._extractor = Extractor(settings.extraction, limit_bytes)
        root = os.path.abspath(os.path.expanduser(settings.path))  # a user that is not there is no error here
        self._rules = Rules(
            root, settings.include, settings.exclude, gitignore=settings.gitignore, hidden=settings.hidden
        )
        follow = settings.follow_symlinks
        self._tree = Tree(root, self._rules, follow_symlinks=bool(follow), inside=follow == "inside")
        self._lock = threading.Lock()
        self._watch: Watch | None = None
        self._watched: tuple[str, int, int] | None = None
        self._stale = False
        self._fresh: dict[str, float] = {}
        self._closed = False

    def scan(self) -> Iterator[Listed | None]:
        """Every admitted file, in order of folders and names; a pause for each folder, and for what is left out."""
        self._ensure_watch()
        for entry in self._tree.walk():
            yield None if entry is None else Listed(entry.path, self._revision(entry.path, entry.status))

    def hints(self, timeout: float) -> list[Hint]:
        """Files that may have changed."""
        watch = self._ensure_watch()
        now = time.monotonic()
        due = [folder for folder, at in self._fresh.items() if at <= now]
        wake = min(self._fresh.values(), default=now + timeout)
        paths, everything = watch.taken(0.0 if due else max(0.0, min(timeout, wake - now)))
        if everything is not None:
            self._fresh.clear()
            return [Hint(None, everything)]
        found: dict[str, Hint] = {}
        if due:
            watch.check(os.path.join(self._tree.root, due[-1]))
        try:
            for folder in due:
                del self._fresh[folder]
                if not self._list(folder, time.time(), found):
                    return [Hint(None, time.time())]
            for path, at in paths.items():
                if not self._resolve(path, at, found):
                    return [Hint(None, at)]
        except SourceUnavailable:
            watch.note_everything()  # what was taken would be lost
            raise
        return list(found.values())

    def fetch(self, path: str) -> Fetched | Skipped | None:
        """The file now."""
        status = self._tree.status(path)
        if status is None or stat.S_ISDIR(status.st_mode):
            return None
        if not stat.S_ISREG(status.st_mode):
            return Skipped(path, self._revision(path, status), "special")
        if reason := self._extractor.left_out(path):
            return Skipped(path, self._revision(path, status), reason)
        try:
            return self._read(path)
        except OSError as error:
            self._tree.check()
            raise_unless_absent(error, path)
            return None

    def close(self) -> None:
        """Stop watching, and reading."""
        self._extractor.close()
        with self._lock:
            self._closed = True
            if self._watch is not None:
                self._watch.close()

    # ------------------------------------------------------------------------- content

    def _read(self, path: str) -> Fetched | Skipped:
        limit = self._extractor.limit(path)
        descriptor = self._tree.open(path)
        with open(descriptor, "rb", buffering=0) as file:
            # The revision of before the reading: what changes during it is another one.
            status = os.fstat(descriptor)
            revision = self._revision(path, status)
            if not stat.S_ISREG(status.st_mode):
                return Skipped(path, revision, "special")
            if status.st_size > limit:
                return self._over_limit(path, revision, status, _ends(file.fileno(), status.st_size))
            if is_text(path) and binary(os.pread(descriptor, SAMPLE_BYTES, 0)):
                return Skipped(path, revision, "binary")
            data = _bytes_of(file.fileno(), limit + 1)
            if len(data) > limit:  # it grows while it is read
                status = os.fstat(descriptor)
                return self._over_limit(path, revision, status, _ends(file.fileno(), status.st_size))
        extracted = self._extractor.extract(data, path, revision)
        if extracted is None:
            return Skipped(path, revision, "binary")
        found = fetched(extracted, path, revision, status.st_mtime, {})
        if found.size > self._limit:
            return self._over_limit(path, revision, status, data)
        return found

    def _over_limit(self, path: str, revision: str, status: os.stat_result, sample: bytes) -> Fetched:
        size = max(status.st_size, len(sample))
        return Fetched(
            path=path,
            revision=revision,
            text=None,
            digest=hashlib.blake2b(b"%d:" % size + sample, digest_size=16).hexdigest(),
            media_type="application/octet-stream",
            metadata={},
            event_time=status.st_mtime,
            size=size,
            omitted=f"{_human(size)}, over the limit of {_human(self._extractor.limit(path))}",
        )

    def _revision(self, path: str, status: os.stat_result) -> str:
        """Equal only if nothing about the file, its extraction or the limit for it has changed."""
        if not stat.S_ISREG(status.st_mode):
            return f"special-{stat.S_IFMT(status.st_mode):x}"
        # The change time too: tools that write in place can put the modification time back.
        over = "+" if status.st_size > self._extractor.limit(path) else ""
        return f"{status.st_mtime_ns:x}-{status.st_ctime_ns:x}-{status.st_size:x}{over}-{revision_of(path)}"

    # ------------------------------------------------------------------------ watching

    def _ensure_watch(self) -> Watch:
        """The watch of the folder that is there now: another may have taken its place.

        Raises:
            SourceUnavailable: there is none.
            ConfigError: it is where nothing can be watched.
        """
        try:
            status = self._tree.check()
        except SourceUnavailable:
            self._stale = True
            raise
        real = os.path.realpath(self._tree.root)
        shown = os.fsencode(real).decode("utf-8", "backslashreplace")
        if shown != real:
            raise ConfigError(
                f"folder {shown}: a name in its path is not UTF-8, and so it cannot be watched",
                "rename it, or mount it elsewhere (--bind); names below it may be anything",
            )
        place = (real, status.st_dev, status.st_ino)
        with self._lock:
            # A folder that is made anew can have the number of the old one.
            if self._watch is None or self._watched != place or self._stale:
                if self._watch is not None:
                    self._watch.close()
                try:
                    self._watch = Watch(real)
                except OSError as error:
                    raise SourceUnavailable(f"folder {self._tree.root}: {error}") from None
                # A second one made on the way: everything may have changed in between.
                if self._watched is not None:
                    self._watch.note_everything()
                self._watched, self._stale = place, False
                if self._closed:
                    self._watch.close()
            return self._watch

    def _resolve(self, path: str, at: float, found: dict[str, Hint]) -> bool:
        """Hints for what was noticed at an absolute path; False if only a scan can tell."""
        assert self._watched is not None  # there is a watch
        real = self._watched[0]
        if self._settings.follow_symlinks and os.path.islink(path):
            return False
        # A folder with two names is reported by one of them, whichever it may be.
        parent = os.path.realpath(os.path.dirname(path))
        names = {path, os.path.join(parent, os.path.basename(path))}
        if self._settings.follow_symlinks:
            for target in list(names):
                names |= {
                    os.path.join(real, link) + target[len(leads) :]
                    for link, leads in self._tree.links.items()
                    if target == leads or target.startswith(leads + "/")
                }
        for name in names:
            if name == real:
                self._stale = True
                return False
            if name.startswith(real + "/") and not self._note(name[len(real) + 1 :], at, found):
                return False
        return True

    def _note(self, path: str, at: float, found: dict[str, Hint]) -> bool:
        if self._rules.changes(path):
            return False
        if self._tree.is_folder(path):
            if path in self._tree.unreadable:
                self._stale = True  # it can be read now, perhaps; its watch is still missing
                return False
            self._fresh[path] = time.monotonic() + _SETTLE_SECONDS
            return self._list(path, at, found)
        elif self._rules.admits(path) or self._rules.admits_folder(path):
            found.setdefault(path, Hint(path, at))
        return True

    def _list(self, folder: str, at: float, found: dict[str, Hint]) -> bool:
        """Hints for what is in a folder; False if that is for a scan."""
        with suppress(OSError):  # gone again: its own hint follows
            for seen, entry in enumerate(self._tree.walk(folder), 1):
                if seen > _LISTED or len(found) > _LISTED:
                    return False
                if entry is not None:
                    found.setdefault(entry.path, Hint(entry.path, at))
        found.setdefault(folder, Hint(folder, at))
        return True


def _bytes_of(descriptor: int, limit: int) -> bytes:
    """Up to ``limit`` bytes of a file."""
    parts = []
    while limit > 0 and (part := os.read(descriptor, min(limit, 1 << 20))):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


def _ends(descriptor: int, size: int) -> bytes:
    return os.pread(descriptor, _END_BYTES, 0) + os.pread(descriptor, _END_BYTES, max(0, size - _END_BYTES))


def _human(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")
