"""Whether the log equals its sources, while both change.

1. Read the documents topic: of each document of these sources, what its last record says.
2. Scan each source and fetch every document: it must be in the log, as it would be published now.
3. What the log has and the scan has not seen is fetched once more: what is not there is deleted.
4. What differs is looked at again, with what the log has got since: only what still differs, while
   the source says the same as before, is a finding.

Nothing is mended here: what the log lacks is the connector's to publish, at its next scan.

What can fail: a source does not answer (it is named, and none of it counts); one document cannot be
read now (counted apart); the log goes away (call again). Memory holds a document; the rest is in a
temporary file.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from pipeline.codec import decode_event
from pipeline.errors import MalformedRecord, Poison, SourceUnavailable, Transient
from pipeline.identity import DocumentKey, canonical_json, content_hash
from pipeline.ports import Broker, Expired, Fetched, Record, Skipped, Source
from pipeline.records import TOO_LARGE, DocumentChanged, DocumentDeleted
from pipeline.verification.findings import EXAMPLES, Named
from pipeline.verification.log import key_of, pages_of
from pipeline.verification.temporary import room, temporary_file

SourceKind: TypeAlias = Literal[
    "missing from the log",  # a document of the source that the log does not have
    "forgotten, and in the log",  # it is kept out, and the log has it
    "stale in the log",  # the log says something else of it: text, metadata or media type
    "deleted at the source",  # live in the log, and not at the source any more
]
KeptOut: TypeAlias = Callable[[], Callable[[DocumentKey], object]]
"""What tells of a document whether it was forgotten."""
Publish: TypeAlias = Callable[[DocumentKey, Fetched | Poison], DocumentChanged]
"""What a connector would publish of what it has fetched."""
Progress: TypeAlias = Callable[[str, int, int], None]
"""Told what is read (``log``, or a source's id) and how many documents of how many (0: unknown)."""

#: How often what differs is looked at again at most, and seconds before each look: a running connector
#: publishes a change within one of them, and of many some. It ends when a look finds what the one
#: before has found.
LOOKS: Final = 10
LOOK_SECONDS: Final = 1.0
#: Paths of one page.
_PAGE: Final = 256

_TABLES: Final = """
CREATE TABLE logged (
    source TEXT, path BLOB, digest TEXT NOT NULL, facts TEXT NOT NULL, kept TEXT,
    PRIMARY KEY (source, path)) WITHOUT ROWID;
CREATE TABLE seen (source TEXT, path BLOB, PRIMARY KEY (source, path)) WITHOUT ROWID;
CREATE TABLE doubts (
    source TEXT, path BLOB, kind TEXT NOT NULL, content TEXT NOT NULL, sure INTEGER NOT NULL,
    PRIMARY KEY (source, path)) WITHOUT ROWID;
"""


class _Logged(NamedTuple):
    """What the log says of a document."""

    digest: str
    facts: str
    kept: str | None = None
    """Where its record was too large for the log: the metadata that it was published with, as JSON."""

    def equals(self, event: DocumentChanged) -> bool:
        """True if this is what becomes of the document that its source has."""
        if self.digest != event.digest:
            return False
        if self.kept is None:
            return self.facts == _facts(event)
        kept = json.loads(self.kept).items()
        return all(name in event.metadata and event.metadata[name] == value for name, value in kept)


class _Doubt(NamedTuple):
    kind: SourceKind
    content: str
    """What the source has said of it: a second look counts only if it says the same."""


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What was found of one source."""

    source: str
    unreached: str = ""
    """Why it could not be read here; then nothing else is said of it."""
    documents: int = 0
    """Documents that the source has."""
    findings: Mapping[SourceKind, Named] = field(default_factory=dict)
    """Of every kind, also those without any."""
    unreadable: Named = field(default_factory=Named)
    """Documents that cannot be read now: nobody knows what they say."""
    changing: int = 0
    """Documents that said something else at every look."""

    @property
    def ok(self) -> bool:
        """It was read, and the log equals it."""
        return not self.unreached and not any(one.count for one in self.findings.values())

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        if self.unreached:
            return {"source": self.source, "ok": False, "unreached": self.unreached}
        return {
            "source": self.source,
            "ok": self.ok,
            "documents": self.documents,
            "findings": {
                kind: {"count": one.count, "examples": list(one.examples)} for kind, one in self.findings.items()
            },
            "unreadable": {"count": self.unreadable.count, "examples": list(self.unreadable.examples)},
            "changing": self.changing,
        }


def compare_sources(
    broker: Broker,
    topic: str,
    sources: Sequence[Source],
    publish: Publish,
    on_progress: Progress = lambda what, done, whole: None,
    wait: Callable[[float], object] = time.sleep,
    kept_out: KeptOut = lambda: lambda key: False,
) -> list[SourceReport]:
    """Hold the log against sources, document by document.

    Args:
        broker: has the log.
        topic: of the documents.
        sources: opened for this; the caller closes them.
        publish: what a connector would publish.
        on_progress: told after every page, document and pause of a source; what it raises ends the comparison.
        wait: for so many seconds, before each second look.
        kept_out: which documents were forgotten, asked before each look: the log must not have them.

    Raises:
        Transient: the broker does not answer, or there is no room for the temporary file; call again.
        NewerSchema: the log has a record of a later vectide.
    """
    with closing(temporary_file(_TABLES)) as file, room():
        log = _Log(file, broker, topic, [source.id for source in sources], on_progress)
        log.read()
        return [_Comparison(file, log, source, publish, on_progress, wait, kept_out).report() for source in sources]


class _Log:
    """What the log says last of each document of some sources."""

    def __init__(
        self, file: sqlite3.Connection, broker: Broker, topic: str, sources: Sequence[str], on_progress: Progress
    ) -> None:
        self._file = file
        self._broker = broker
        self._topic = topic
        self._sources = frozenset(sources)
        self._on_progress = on_progress
        self._next: dict[int, int] = {}

    def read(self) -> None:
        """Up to the end as it is now, from where the last call ended."""
        count = 0
        with closing(pages_of(self._broker, self._topic, dict(self._next))) as pages:
            for records in pages:
                for record in records:
                    self._take(record)
                    self._next[record.partition] = record.offset + 1
                count += len(records)
                self._on_progress("log", count, 0)

    def get(self, key: DocumentKey) -> _Logged | None:
        """What it says of a document; None: there is none."""
        row = self._file.execute(
            "SELECT digest, facts, kept FROM logged WHERE source = ? AND path = ?", (key.source, _bytes(key.path))
        ).fetchone()
        return None if row is None else _Logged(*row)

    def count(self, source: str) -> int:
        """Documents of a source."""
        (count,) = self._file.execute("SELECT count(*) FROM logged WHERE source = ?", (source,)).fetchone()
        return int(count)

    def unseen(self, source: str) -> Iterator[str]:
        """Paths that the log has and the scan has not seen."""
        yield from _paths(
            self._file,
            "SELECT path FROM logged WHERE source = ? AND path > ? AND NOT EXISTS "
            "(SELECT 1 FROM seen WHERE seen.source = logged.source AND seen.path = logged.path)",
            source,
        )

    def _take(self, record: Record) -> None:
        key = key_of(record)
        if key is None or key.source not in self._sources:
            return
        try:
            event = decode_event(record)
        except MalformedRecord:
            # Something was published, and nobody can read it: it equals no document.
            self._put(key, _Logged("", ""))
            return
        if event is None or isinstance(event, DocumentDeleted):
            self._file.execute("DELETE FROM logged WHERE source = ? AND path = ?", (key.source, _bytes(key.path)))
        else:
            refused = event.text is None and (not event.metadata or event.omitted.startswith(TOO_LARGE))
            kept = canonical_json(dict(event.metadata)).decode() if refused else None
            self._put(key, _Logged(event.digest, _facts(event), kept))

    def _put(self, key: DocumentKey, one: _Logged) -> None:
        self._file.execute("INSERT OR REPLACE INTO logged VALUES (?, ?, ?, ?, ?)", (key.source, _bytes(key.path), *one))


class _Comparison:
    """One source against the log; ``doubts`` are findings to be."""

    def __init__(
        self,
        file: sqlite3.Connection,
        log: _Log,
        source: Source,
        publish: Publish,
        on_progress: Progress,
        wait: Callable[[float], object],
        kept_out: KeptOut,
    ) -> None:
        self._file = file
        self._log = log
        self._source = source
        self._publish = publish
        self._on_progress = on_progress
        self._wait = wait
        self._asked = kept_out
        self._kept_out = kept_out()
        self._documents = 0
        self._unreadable: list[str] = []
        self._unreadable_count = 0

    def report(self) -> SourceReport:
        try:
            self._scan()
            before = -1
            for _ in range(LOOKS):
                sure, unsure = self._doubts(sure=True), self._doubts(sure=False)
                if not unsure and sure in (0, before):
                    break
                before = sure
                self._wait(LOOK_SECONDS)
                self._log.read()
                self._kept_out = self._asked()
                self._look_again()
        except SourceUnavailable as error:
            return SourceReport(self._source.id, unreached=str(error))
        return SourceReport(
            source=self._source.id,
            documents=self._documents,
            findings={kind: self._named(kind) for kind in get_args(SourceKind)},
            unreadable=Named(self._unreadable_count, tuple(self._unreadable)),
            changing=self._doubts(sure=False),
        )

    def _scan(self) -> None:
        whole, done = self._log.count(self._source.id), 0
        for listed in self._source.scan():
            if listed is not None:
                self._file.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (self._source.id, _bytes(listed.path)))
                self._note(listed.path, self._judged(listed.path, counted=True))
                done += 1
            self._on_progress(self._source.id, done, max(whole, done))
        for path in self._log.unseen(self._source.id):
            self._note(path, self._judged(path, counted=True))
            done += 1
            self._on_progress(self._source.id, done, max(whole, done))

    def _look_again(self) -> None:
        paths = _paths(self._file, "SELECT path FROM doubts WHERE source = ? AND path > ?", self._source.id)
        for path in paths:
            (before,) = self._file.execute(
                "SELECT content FROM doubts WHERE source = ? AND path = ?", (self._source.id, _bytes(path))
            ).fetchone()
            doubt = self._judged(path)
            self._note(path, doubt, sure=doubt is not None and doubt.content == before)

    def _judged(self, path: str, *, counted: bool = False) -> _Doubt | None:
        """What differs about a document now; nothing if it cannot be read."""
        key = DocumentKey(self._source.id, path)
        if self._kept_out(key):
            return None if self._log.get(key) is None else _Doubt("forgotten, and in the log", "")
        try:
            fetched: Fetched | Skipped | Expired | Poison | None = self._source.fetch(path)
        except SourceUnavailable:
            raise
        except Poison as error:
            fetched = error
        except Transient:
            # It is no doubt any more, so that it is not looked at, and not counted, once more.
            self._unreadable_count += 1
            if len(self._unreadable) < EXAMPLES:
                self._unreadable.append(key.text)
            return None
        if isinstance(fetched, Expired):
            return None  # whatever the log says stays
        logged = self._log.get(key)
        if fetched is None or isinstance(fetched, Skipped):
            return None if logged is None else _Doubt("deleted at the source", "")
        self._documents += counted
        event = self._publish(key, fetched)
        content = f"{event.digest} {_facts(event)}"
        if logged is None:
            return _Doubt("missing from the log", content)
        if logged.equals(event):
            return None
        return _Doubt("stale in the log", content)

    def _note(self, path: str, doubt: _Doubt | None, *, sure: bool = False) -> None:
        key = self._source.id, _bytes(path)
        if doubt is None:
            self._file.execute("DELETE FROM doubts WHERE source = ? AND path = ?", key)
        else:
            self._file.execute("INSERT OR REPLACE INTO doubts VALUES (?, ?, ?, ?, ?)", (*key, *doubt, sure))

    def _doubts(self, *, sure: bool) -> int:
        (count,) = self._file.execute(
            "SELECT count(*) FROM doubts WHERE source = ? AND sure = ?", (self._source.id, sure)
        ).fetchone()
        return int(count)

    def _named(self, kind: SourceKind) -> Named:
        of = (self._source.id, kind)
        (count,) = self._file.execute(
            "SELECT count(*) FROM doubts WHERE source = ? AND kind = ? AND sure", of
        ).fetchone()
        rows = self._file.execute(
            f"SELECT path FROM doubts WHERE source = ? AND kind = ? AND sure ORDER BY path LIMIT {EXAMPLES}",  # noqa: S608 - a constant
            of,
        )
        return Named(count, tuple(DocumentKey(self._source.id, _text(path)).text for (path,) in rows))


def _facts(event: DocumentChanged) -> str:
    """Everything that is published with a text, as one hash."""
    facts = [event.media_type, dict(event.metadata), event.omitted, event.text is None]
    return content_hash(canonical_json(facts).decode())


def _paths(file: sqlite3.Connection, query: str, source: str) -> Iterator[str]:
    """The paths that a query finds, in order, in pages; the table may be changed meanwhile."""
    after = b""
    while True:
        rows = file.execute(f"{query} ORDER BY path LIMIT {_PAGE}", (source, after)).fetchall()
        for (path,) in rows:
            yield _text(path)
        if len(rows) < _PAGE:
            return
        after = rows[-1][0]


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
