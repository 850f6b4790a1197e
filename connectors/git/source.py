"""A :class:`pipeline.ports.Source` over the copy of a branch that a thread of its own keeps up to date.

A document is a regular file of the branch's newest commit, under its path in the repository (or below
``folder``). What changed between two newest commits is hinted at once; commits in between leave no
trace, for their documents are not there any more. Symbolic links and pointers of LFS are no documents; nor are
submodules, unless they are asked for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from connectors.extraction import SAMPLE_BYTES, Extractor, binary, is_text, revision_of
from connectors.fetching import FETCH_SECONDS, fetched
from connectors.git.commits import File
from connectors.git.follower import Follower
from connectors.git.places import LocalRefs, Touched
from connectors.git.settings import GitSettings
from connectors.git.superproject import Superproject, Unfetched
from connectors.ignoring import Rules
from connectors.settings import parse, secrets_of
from pipeline.deadline import Deadline
from pipeline.errors import SourceUnavailable
from pipeline.identity import Metadata
from pipeline.ports import Expired, Fetched, Hint, Listed, Skipped, Source

#: Of a source's paths; names on this machine must not be taken for it.
_NO_FOLDER: Final = os.devnull
#: A scan waits so long for a fetch; well below what a loop may stand still.
_FRESH_SECONDS: Final = 20.0
_LFS: Final = b"version https://git-lfs.github.com/spec/"
#: A pointer is some 130 bytes.
_LFS_BYTES: Final = 1024


def connector(
    source_id: str, settings: Mapping[str, Any], document_limit_bytes: int, state: Path | None = None
) -> Source:
    """Make a git source. ``state``: the folder of its copy of the repository; None: one that is removed at the end.

    Raises:
        ConfigError: a setting is unknown or wrong.
    """
    found = parse(GitSettings, source_id, settings)
    with secrets_of(source_id):
        found.access()
    return GitSource(source_id, found, document_limit_bytes, state)


class GitSource:
    """The files of one branch.

    Args:
        id: the source's.
        settings: of the source.
        limit_bytes: a larger file is published without its text.
        state: the folder of its copy.
    """

    def __init__(self, id: str, settings: GitSettings, limit_bytes: int, state: Path | None) -> None:
        self.id = id
        self._limit = limit_bytes
        self._extractor = Extractor(settings.extraction, limit_bytes)
        # Only a name: to make a source touches nothing.
        self._temporary = None if state is not None else Path(tempfile.gettempdir(), f"vectide-git-{uuid.uuid4().hex}")
        folder = state or self._temporary or Path()
        self._rules = Rules(_NO_FOLDER, settings.include, settings.exclude, gitignore=False, hidden=settings.hidden)
        self._project = Superproject(settings, folder, self._rules.admits_folder)
        watched = [LocalRefs(self._project.repository, settings.branch)]
        touched = [] if settings.hook_file is None else [Touched(settings.hook_file)]
        # What a copy for once is made for has nothing else to do, and could not go on with it another time.
        fresh_seconds = _FRESH_SECONDS if self._temporary is None else settings.fetch_seconds
        self._follower = Follower(self._project, settings.poll_seconds, [*watched, *touched], fresh_seconds)

    def scan(self) -> Iterator[Listed | None]:
        """Every admitted file of the newest commit, once it has been fetched; a pause for each of the others."""
        self._follower.fresh()
        for file in self._project.files():
            yield Listed(file.path, self._revision(file)) if self._rules.admits(file.path) else None

    def hints(self, timeout: float) -> list[Hint]:
        """Files that new commits have changed."""
        hints = self._follower.taken(timeout)
        return [hint for hint in hints if hint.path is None or self._rules.admits(hint.path)]

    def fetch(self, path: str) -> Fetched | Skipped | Expired | None:
        """The file, as of the last fetch from the repository."""
        deadline = Deadline.after(FETCH_SECONDS)
        self._follower.begun()
        try:
            file = self._found(path) if self._rules.admits(path) else None
        except Unfetched:
            return Expired(path)
        if file is None:
            return None
        revision = self._revision(file)
        if reason := self._extractor.left_out(path):
            return Skipped(path, revision, reason)
        size, limit = self._project.size(file), self._extractor.limit(path)
        if size > limit:
            return self._over_limit(file, revision, size, limit)
        data = self._project.content(file)
        if size < _LFS_BYTES and data.startswith(_LFS):
            return Skipped(path, revision, "special")
        if is_text(path) and binary(data[:SAMPLE_BYTES]):
            return Skipped(path, revision, "binary")
        extracted = self._extractor.extract(data, path, revision, deadline)
        if extracted is None:
            return Skipped(path, revision, "binary")
        found = fetched(extracted, path, revision, float(file.at), _metadata(file))
        if found.size > self._limit:
            return self._over_limit(file, revision, found.size, self._limit)
        return found

    def close(self) -> None:
        """Stop following, and reading."""
        self._extractor.close()
        self._follower.close()
        self._project.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _found(self, path: str) -> File | None:
        try:
            return self._project.file(path)
        except SourceUnavailable:
            self._follower.fresh()  # a list that is lost is made again by a fetch: the next attempt finds it
            raise

    def _over_limit(self, file: File, revision: str, size: int, limit: int) -> Fetched:
        return Fetched(
            path=file.path,
            revision=revision,
            text=None,
            digest=hashlib.blake2b(file.blob.encode(), digest_size=16).hexdigest(),
            media_type="application/octet-stream",
            metadata=_metadata(file),
            event_time=float(file.at),
            size=size,
            omitted=f"{size / 1e6:.1f} MB, over the limit of {limit / 1e6:.1f} MB",
        )

    def _revision(self, file: File) -> str:
        """Equal only if nothing about the file, its last change, its extraction or the limit for it has changed."""
        return f"{file.blob}-{file.commit[:16]}-{self._extractor.limit(file.path):x}-{revision_of(file.path)}"


def _metadata(file: File) -> Metadata:
    if not file.commit:
        return {}
    try:
        authored = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(file.at))
    except (OverflowError, ValueError, OSError):  # a commit can say any number
        return {"commit": file.commit, "author": file.author}
    return {"commit": file.commit, "author": file.author, "authored_at": authored}
