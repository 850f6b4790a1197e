"""Findings: documents that are wrong, each with what is wrong with it, in a temporary file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias, get_args

from pipeline.identity import DocumentKey
from pipeline.verification.temporary import room, temporary_file

Kind: TypeAlias = Literal[
    "missing",  # a live document without a head, or with a tombstone at the log's own version
    "stale",  # a head below the log's version
    "unfinished",  # a head lists chunks that do not exist
    "wrong list",  # a head at the log's version that lists other chunks, spans or headings
    "wrong metadata",  # other metadata or filter fields than the log's, or chunks with other ones than their head's
    "orphan",  # a head or a chunk of a document that is not (any more), or a chunk that its head does not list
    "duplicate",  # an unlisted chunk with the text of a listed one
    "wrong vector",  # not finite, of another norm, or not what the model makes of the text
    "wrong text",  # a chunk whose text is not the log's at its span
    "ahead",  # a head above anything in the log: the log has lost records
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

#: Keys that are named of each kind of finding.
EXAMPLES: Final = 10
_PAGE: Final = 256

_TABLE: Final = """
CREATE TABLE found (
    doc TEXT NOT NULL, kind TEXT NOT NULL, key BLOB, stamp INTEGER NOT NULL, partition INTEGER, offset INTEGER,
    contents TEXT NOT NULL, PRIMARY KEY (doc, kind)) WITHOUT ROWID;
"""

_COLUMNS: Final = "doc, kind, key, stamp, partition, offset, contents"


@dataclass(frozen=True, slots=True)
class Found:
    """A document that is wrong in one way; one that is wrong in several ways is found several times."""

    doc: str
    """The document's id in the store."""
    kind: Kind
    key: DocumentKey | None
    """None: chunks without a head, of a document that the log does not have. Nothing tells its key."""
    stamp: int
    """The highest that was seen of it: what is above it, somebody has written since. -1: nothing is there."""
    place: tuple[int, int] | None = None
    """Partition and offset of its last record below the ends; None: the log has none there."""
    contents: frozenset[str] = frozenset()
    """Content hashes whose stored text, vector or values are wrong: the log's, or of an older version that is still
    listed the stored ones.
    """

    @property
    def name(self) -> str:
        """For people: the key as text, or the document's id where there is none."""
        return self.doc if self.key is None else self.key.text


@dataclass(frozen=True, slots=True)
class Named:
    """Findings of one kind, for people."""

    count: int = 0
    """Documents."""
    examples: tuple[str, ...] = ()
    """Names of up to :data:`EXAMPLES` of them."""


class Findings:
    """Documents that are wrong; in a temporary file that is gone with this. Safe for one thread at a time.

    Raises:
        Transient: from any method; there is no room for the file.
    """

    def __init__(self) -> None:
        self._file = temporary_file(_TABLE)

    def add(self, found: Iterable[Found]) -> None:
        """Remember these; of a document that was found in the same way before the higher stamp counts, and the rest of
        what is said last.
        """
        with room():
            self._file.executemany(
                "INSERT INTO found VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (doc, kind) DO UPDATE SET key = excluded.key, "
                "stamp = max(stamp, excluded.stamp), partition = excluded.partition, offset = excluded.offset, "
                "contents = excluded.contents",
                [
                    (
                        one.doc,
                        one.kind,
                        None if one.key is None else one.key.to_bytes(),
                        one.stamp,
                        *(one.place or (None, None)),
                        " ".join(sorted(one.contents)),
                    )
                    for one in found
                ],
            )

    def replace(self, doc: str, found: Iterable[Found]) -> None:
        """All that is wrong with a document now; nothing: it is in order."""
        with room():
            self._file.execute("DELETE FROM found WHERE doc = ?", (doc,))
        self.add(found)

    def __bool__(self) -> bool:
        """True if anything is wrong."""
        with room():
            return self._file.execute("SELECT 1 FROM found LIMIT 1").fetchone() is not None

    def pages(self, size: int = _PAGE) -> Iterator[list[Found]]:
        """All, by document; those of one document are on one page. More may be added or forgotten meanwhile."""
        after = ""
        while True:
            with room():
                docs = self._file.execute(
                    "SELECT DISTINCT doc FROM found WHERE doc > ? ORDER BY doc LIMIT ?", (after, size)
                ).fetchall()
                if not docs:
                    return
                rows = self._file.execute(
                    f"SELECT {_COLUMNS} FROM found WHERE doc > ? AND doc <= ? ORDER BY doc, kind",  # noqa: S608
                    (after, docs[-1][0]),
                ).fetchall()
            after = docs[-1][0]
            yield [_found(*row) for row in rows]

    def __iter__(self) -> Iterator[Found]:
        for page in self.pages():
            yield from page

    def documents(self) -> int:
        """How many documents are wrong."""
        with room():
            (count,) = self._file.execute("SELECT count(DISTINCT doc) FROM found").fetchone()
        return int(count)

    def of(self, docs: Sequence[str]) -> list[Found]:
        """All that is wrong with these documents."""
        marks = ", ".join("?" * len(docs))
        with room():
            rows = self._file.execute(
                f"SELECT {_COLUMNS} FROM found WHERE doc IN ({marks}) ORDER BY doc, kind",  # noqa: S608
                list(docs),
            ).fetchall()
        return [_found(*row) for row in rows]

    def earliest(self) -> Mapping[int, int]:
        """By partition, the first offset at which the last record of one of the documents is."""
        with room():
            rows = self._file.execute(
                "SELECT partition, min(offset) FROM found WHERE partition IS NOT NULL GROUP BY partition"
            ).fetchall()
        return dict(rows)

    def named(self) -> Mapping[Kind, Named]:
        """Of every kind, also those without any: how many documents, and some of their names."""
        with room():
            counts = dict(self._file.execute("SELECT kind, count(*) FROM found GROUP BY kind").fetchall())
            return {kind: Named(counts[kind], self._examples(kind)) if kind in counts else Named() for kind in KINDS}

    def close(self) -> None:
        """Throw the file away."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _examples(self, kind: Kind) -> tuple[str, ...]:
        rows = self._file.execute(
            f"SELECT {_COLUMNS} FROM found WHERE kind = ? ORDER BY doc LIMIT ?",  # noqa: S608 - a constant
            (kind, EXAMPLES),
        )
        return tuple(_found(*row).name for row in rows)


def _found(
    doc: str, kind: Kind, key: bytes | None, stamp: int, partition: int | None, offset: int | None, contents: str
) -> Found:
    return Found(
        doc,
        kind,
        None if key is None else DocumentKey.from_bytes(key),
        stamp,
        None if partition is None or offset is None else (partition, offset),
        frozenset(contents.split()),
    )
