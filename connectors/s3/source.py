"""A :class:`pipeline.ports.Source` over the objects of a bucket.

A document's path is the object's key, relative to the prefix. A bucket cannot be watched: it is listed
from time to time, and compared with what was published, or a queue of its notifications is read. A rename is
a copy and a delete there; a listing has the copy, and what is missing is deleted after all of it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Iterator, Mapping
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from pathlib import PurePosixPath
from typing import Any, Final

from connectors.extraction import SAMPLE_BYTES, Extractor, binary, is_text, revision_of
from connectors.fetching import FETCH_SECONDS, fetched
from connectors.ignoring import Rules
from connectors.polling import Polling
from connectors.s3.bucket import Bucket, Object, Opened
from connectors.s3.client import Client, installed
from connectors.s3.queue import Queue
from connectors.s3.settings import S3Settings
from connectors.settings import parse, secrets_of
from pipeline.deadline import Deadline
from pipeline.errors import ConfigError, Poison, SourceUnavailable
from pipeline.identity import Metadata, MetadataValue
from pipeline.ports import Backlog, Fetched, Hint, Listed, Skipped, Source

#: Of a source's paths; names on this machine must not be taken for it.
_NO_FOLDER: Final = os.devnull
#: Where a name has no suffix, the type that was given with the upload says how it is read.
_SUFFIXES: Final = {
    "application/xhtml+xml": ".xhtml",
    "text/html": ".html",
    "text/markdown": ".md",
    "text/x-markdown": ".md",
    "text/x-rst": ".rst",
}
#: What a name without a suffix may be read as, beside what it is read as without its type.
_READ_AS: Final = sorted(set(_SUFFIXES.values()))
#: What some uploads name, but did not do to the content.
_NO_ENCODING: Final = frozenset({"", "identity", "aws-chunked", "utf-8"})
_GZIP: Final = frozenset({"gzip", "x-gzip", "aws-chunked,gzip", "gzip,aws-chunked"})
#: Of compressed bytes at a time: what follows a part of the content is copied whenever one ends.
_PIECE_BYTES: Final = 4096
#: One after another they are one content, and each costs some microseconds, even an empty one of 20 bytes.
_GZIP_PARTS: Final = 100_000


def connector(source_id: str, settings: Mapping[str, Any], document_limit_bytes: int) -> Source:
    """Make an s3 source.

    Raises:
        ConfigError: a setting is unknown or wrong, or there is no client.
    """
    found = parse(S3Settings, source_id, settings)
    if not installed():
        raise ConfigError(f"sources.{source_id}: botocore is not installed", "pip install 'vectide[s3]'")
    with secrets_of(source_id):
        found.keys()
    if found.queue_url:
        return NotifiedS3Source(source_id, found, document_limit_bytes, Queue(found))
    return S3Source(source_id, found, document_limit_bytes)


class S3Source:
    """The objects below a prefix.

    Args:
        id: the source's.
        settings: of the source.
        limit_bytes: a larger object is published without its text.
    """

    def __init__(self, id: str, settings: S3Settings, limit_bytes: int) -> None:
        self.id = id
        self._settings = settings
        self._limit = limit_bytes
        self._extractor = Extractor(settings.extraction, limit_bytes)
        self._client = Client("s3", settings, settings.endpoint_url)
        self._bucket = Bucket(
            self._client, settings.bucket, settings.prefix, versions=settings.versions, of_aws=not settings.endpoint_url
        )
        self._rules = Rules(_NO_FOLDER, settings.include, settings.exclude, gitignore=False, hidden=settings.hidden)
        self._closed = threading.Event()
        self._polling = Polling(settings.poll_seconds, self._closed)

    def scan(self) -> Iterator[Listed | None]:
        """Every admitted object, in the order of their keys, with a pause for every page.

        The queue is not read for it: it keeps what is told meanwhile, and whoever only lists (``vectide verify``) must
        not take that from the connector.
        """
        with self._polling.listing():
            for object_ in self._bucket.objects():
                if object_ is None:
                    yield None
                elif self._admits(path := object_.key[len(self._settings.prefix) :]):
                    yield Listed(path, self._revision(path, object_))
                if self._closed.is_set():
                    raise SourceUnavailable("the source is closed")

    def hints(self, timeout: float) -> list[Hint]:
        """A scan whenever it is time for one."""
        return self._polling.hints(timeout)

    def fetch(self, path: str) -> Fetched | Skipped | None:
        """The object now."""
        if not self._admits(path):
            return None
        key, deadline = self._settings.prefix + path, Deadline.after(FETCH_SECONDS)
        left_out = self._extractor.left_out(path)
        found = self._bucket.stat(key) if left_out else self._bucket.opened(key)
        match found:
            case None:
                return None
            case Object():
                reason = "archived" if found.archived else left_out or "binary"
                return Skipped(path, self._revision(path, found), reason)
        try:
            return self._read(path, found, deadline)
        finally:
            found.close()

    def close(self) -> None:
        """Wake a waiting :meth:`hints`, let connections go, and end reading."""
        self._closed.set()
        self._extractor.close()
        self._client.close()

    # ------------------------------------------------------------------------- content

    def _read(self, path: str, opened: Opened, deadline: Deadline) -> Fetched | Skipped:
        object_ = opened.object
        revision, limit = self._revision(path, object_), self._extractor.limit(path)
        if object_.size > limit:
            return self._over_limit(path, opened, object_.size, limit)
        encoding = opened.content_encoding.replace(" ", "").lower()
        if encoding not in _NO_ENCODING | _GZIP:
            raise Poison("content_encoding", f"content encoding {opened.content_encoding!r} is not known")
        compressed = encoding in _GZIP
        if not compressed and is_text(path) and binary(opened.read(SAMPLE_BYTES)):
            return Skipped(path, revision, "binary")
        data = opened.read(limit + 1)
        if compressed:
            data = _inflated(data, limit + 1)
        if len(data) > limit:
            return self._over_limit(path, opened, len(data), limit)
        extracted = self._extractor.extract(data, _named(path, opened.content_type), revision, deadline)
        if extracted is None:
            return Skipped(path, revision, "binary")
        found = fetched(extracted, path, revision, float(object_.at), _metadata(opened))
        if found.size > self._limit:
            return self._over_limit(path, opened, found.size, self._limit)
        return found

    def _over_limit(self, path: str, opened: Opened, size: int, limit: int) -> Fetched:
        """Without its text; who may see it is known all the same."""
        object_ = opened.object
        return Fetched(
            path=path,
            revision=self._revision(path, object_),
            text=None,
            digest=hashlib.blake2b(f"{object_.size}:{object_.etag}".encode(), digest_size=16).hexdigest(),
            media_type="application/octet-stream",
            metadata=_metadata(opened),
            event_time=float(object_.at),
            size=size,
            omitted=f"over the limit of {limit / 1e6:.1f} MB: {size / 1e6:.1f} MB or more",
        )

    def _revision(self, path: str, object_: Object) -> str:
        """Equal only if nothing about the object, its extraction or the limit for it has changed."""
        state = "+" if object_.size > self._extractor.limit(path) else ""
        state += "-archived" if object_.archived else ""
        return f"{object_.etag}-{object_.at:x}-{object_.size:x}{state}-{object_.version}-{_extraction(path)}"

    def _admits(self, path: str) -> bool:
        """True if this can be the path of a document. A key that ends with ``/`` is a folder of some tool's; one
        with a NUL cannot be asked for everywhere.
        """
        if not path or path.endswith("/") or "\0" in path:
            return False
        try:
            path.encode()
        except UnicodeEncodeError:  # no key is like that
            return False
        return self._rules.admits(path)


class NotifiedS3Source(S3Source):
    """With a queue of the bucket's notifications, as a :class:`pipeline.ports.LogSource`: its messages stay until what
    they told is published. Some are never sent, and nobody knows how long the queue has kept them: each start scans.

    Args:
        id, settings, limit_bytes: as for :class:`S3Source`.
        queue: closed with it.
    """

    def __init__(self, id: str, settings: S3Settings, limit_bytes: int, queue: Queue) -> None:
        super().__init__(id, settings, limit_bytes)
        self._queue = queue

    def hints(self, timeout: float) -> list[Hint]:
        """What the queue tells of."""
        return [hint for one in self._queue.taken(timeout) if (hint := self._of_a_path(one)) is not None]

    def resume(self, position: str | None) -> bool:
        """Only a scan tells."""
        return False

    def caught_up(self) -> bool:
        """There is no end that could be known."""
        return True

    def position(self) -> str:
        """The number of a message of this process."""
        return str(self._queue.given)

    def acknowledge(self, position: str) -> None:
        """What was told up to there is published."""
        self._queue.publish(int(position))

    def backlog(self) -> Backlog | None:
        """A queue says only about how long it is."""
        return None

    def close(self) -> None:
        """As for :class:`S3Source`; what is not published goes back to the queue."""
        super().close()
        self._queue.close()

    def _of_a_path(self, hint: Hint) -> Hint | None:
        """A hint of a key as one of a path; None if that is not of this source."""
        if hint.path is None:
            return hint
        path = hint.path.removeprefix(self._settings.prefix)
        ours = hint.path.startswith(self._settings.prefix) and self._admits(path)
        return Hint(path, hint.at) if ours else None


def _named(path: str, content_type: str) -> str:
    """A name that says how a content is read."""
    if PurePosixPath(path).suffix:
        return path
    return path + _SUFFIXES.get(content_type.partition(";")[0].strip().lower(), "")


def _extraction(path: str) -> str:
    """Another whenever the content may give another text, of whatever type it is: no listing says that."""
    suffixes = [] if PurePosixPath(path).suffix else _READ_AS
    return "-".join(revision_of(path + suffix) for suffix in ("", *suffixes))


def _metadata(opened: Opened) -> Metadata:
    found: dict[str, MetadataValue] = {name: _plain(value) for name, value in opened.metadata.items()}
    if opened.object.version:
        found["version_id"] = opened.object.version
    return found


def _plain(value: str) -> str:
    """What was not ASCII is encoded as in a mail's head."""
    if "=?" not in value:
        return value
    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, UnicodeError, ValueError):
        return value


def _inflated(data: bytes, limit: int) -> bytes:
    """Up to so many bytes of what was compressed.

    Raises:
        Poison: it was not, breaks off, or is of too many parts.
    """
    found, at, parts = bytearray(), 0, 0
    try:
        while at < len(data) and len(found) < limit:
            parts += 1
            if parts > _GZIP_PARTS:
                raise Poison("content_encoding", f"the gzip content has more than {_GZIP_PARTS} parts")
            inflating = zlib.decompressobj(wbits=31)
            while not inflating.eof and len(found) < limit:
                piece = inflating.unconsumed_tail
                if not piece:
                    piece = data[at : at + _PIECE_BYTES]
                    at += len(piece)
                if not piece:
                    raise Poison("content_encoding", "the gzip content breaks off")
                found += inflating.decompress(piece, limit - len(found))
            at -= len(inflating.unused_data)
    except zlib.error as error:
        raise Poison("content_encoding", f"the content is no gzip, as it says: {error}") from None
    return bytes(found)
