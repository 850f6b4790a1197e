"""Expectations: what the log says of every document, and what the store must hold of it; in a temporary file.

Of each document two versions count. The last one *below the ends* is what the collection has
applied: findings are judged by it. The last one *at all* is what it has probably applied by now:
counts are foretold from it, so that a busy pipeline does not look wrong. They are mostly the same.
"""

from __future__ import annotations

from collections.abc import Collection as Container
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.cells import Counts, chunk_cell, document_cells, no_counts
from pipeline.identity import DocumentKey
from pipeline.points import Head
from pipeline.ports import Tallied
from pipeline.sync.foretelling import Foretold
from pipeline.verification.temporary import room, temporary_file

State: TypeAlias = Literal["live", "deleted", "gone"]
"""``gone``: a null, which only forgets an old delete: there may be a tombstone of it or none."""

_TABLES: Final = """
CREATE TABLE documents (
    doc TEXT PRIMARY KEY,
    key BLOB NOT NULL,
    partition INTEGER NOT NULL,
    -- The last version below the ends, if there is one; told: three digests.
    version INTEGER,
    state TEXT,
    told BLOB,
    ids BLOB,
    -- Whether there is a newer one beyond them.
    superseded INTEGER NOT NULL,
    -- What the store must hold by now: a head in these cells of a tally, chunks in these.
    tally TEXT,
    head1 INTEGER,
    head2 INTEGER,
    document1 INTEGER,
    document2 INTEGER,
    chunks BLOB NOT NULL,
    -- Whether its head was read, which the log does not foretell; whether all of it was looked at.
    listed INTEGER NOT NULL DEFAULT 0,
    seen INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE strangers (doc TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE suspects (doc TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE first (cell INTEGER PRIMARY KEY);
CREATE TABLE second (cell INTEGER PRIMARY KEY);
"""
_ROWS: Final = 4_096
_CELL: Final = np.dtype("<u2")


@dataclass(frozen=True, slots=True)
class Known:
    """What the log says last about a document, below the ends."""

    version: int
    state: State
    told: Foretold | None
    """What its last version leads to; None for a null."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What the store holds (or must hold) of a document: where each of its points is counted."""

    head: tuple[Tallied, tuple[int, int]] | None = None
    documents: tuple[tuple[int, int], ...] = ()
    """The cells of each chunk's document."""
    chunks: tuple[int, ...] = ()
    """The cell of each chunk."""

    def add_to(self, counts: Mapping[Tallied, Counts], sign: int) -> None:
        """Count it, or (-1) take it off."""
        if self.head is not None:
            of, cells = self.head
            counts[of][list(cells)] += sign
        for cells in self.documents:
            counts["documents"][list(cells)] += sign
        for cell in self.chunks:
            counts["chunks"][cell] += sign


@dataclass(frozen=True, slots=True)
class Expected:
    """A document of the log."""

    key: DocumentKey
    partition: int
    known: Known | None
    """None: the log has nothing of it below the ends."""
    superseded: bool
    """The log has a newer version beyond the ends, in favour of which compaction may have taken
    any that are below.
    """
    holding: Holding


class Expectations:
    """The documents of the log.

    Raises:
        Transient: from any method; there is no room for the file.
    """

    def __init__(self) -> None:
        self._file = temporary_file(_TABLES)

    # -------------------------------------------------------------------------- the log

    def below(self, rows: Iterable[tuple[DocumentKey, int, Known]]) -> None:
        """Documents with a version below the ends, in the log's order: key, partition and version."""
        made = []
        for key, partition, known in rows:
            told = known.told
            digests = None if told is None else _digests(told)
            ids = b"" if told is None else _packed(told.ids)
            made.append(
                (
                    key.doc,
                    key.to_bytes(),
                    partition,
                    known.version,
                    known.state if told is None else told.state,
                    digests,
                    ids,
                    *_holding(told),
                )
            )
        with room():
            self._file.executemany(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, 0, 0)", made
            )

    def beyond(self, rows: Iterable[tuple[DocumentKey, int, Foretold | None]]) -> None:
        """Documents with a newer version beyond the ends; None: it cannot be read yet."""
        made = [(key.doc, key.to_bytes(), partition, *_holding(told)) for key, partition, told in rows]
        with room():
            self._file.executemany(
                "INSERT INTO documents VALUES (?, ?, ?, NULL, NULL, NULL, NULL, 1, ?, ?, ?, ?, ?, ?, 0, 0) "
                "ON CONFLICT (doc) DO UPDATE SET superseded = 1, tally = excluded.tally, head1 = excluded.head1, "
                "head2 = excluded.head2, document1 = excluded.document1, document2 = excluded.document2, "
                "chunks = excluded.chunks",
                made,
            )

    def listed(self, heads: Iterable[Head]) -> None:
        """Heads whose lists the log does not foretell: what they list is what the store must hold."""
        rows = [
            (
                *document_cells(head.doc, head.filter_hash),
                _packed(chunk_cell(chunk.id) for chunk in head.chunks),
                head.doc,
            )
            for head in heads
        ]
        with room():
            self._file.executemany(
                "UPDATE documents SET tally = NULL, head1 = NULL, head2 = NULL, document1 = ?, document2 = ?, "
                "chunks = ?, listed = 1 WHERE doc = ?",
                rows,
            )

    def documents(self) -> int:
        """Live documents below the ends."""
        with room():
            (count,) = self._file.execute(
                "SELECT count(*) FROM documents WHERE state NOT IN ('deleted', 'gone')"
            ).fetchone()
        return int(count)

    def counts(self) -> dict[Tallied, Counts]:
        """How many points of each tally there must be in each cell."""
        counts: dict[Tallied, Counts] = {
            "heads": no_counts(),
            "tombstones": no_counts(),
            "documents": no_counts(),
            "chunks": no_counts(),
        }
        for rows in self._rows("SELECT tally, head1, head2, document1, document2, chunks FROM documents"):
            for of in ("heads", "tombstones"):
                heads = [cell for tally, one, two, *_ in rows if tally == of for cell in (one, two)]
                np.add.at(counts[of], heads, 1)
            sizes = [len(chunks) // _CELL.itemsize for *_, chunks in rows]
            for column in (3, 4):
                listing = [(row[column], size) for row, size in zip(rows, sizes, strict=True) if size]
                if listing:
                    cells, numbers = zip(*listing, strict=True)
                    np.add.at(counts["documents"], list(cells), numbers)
            np.add.at(counts["chunks"], _unpacked(b"".join(row[5] for row in rows)), 1)
        return counts

    def of(self, docs: Sequence[str]) -> dict[str, Expected]:
        """What the log says of these documents; those that it does not have are left out."""
        marks = ", ".join("?" * len(docs))
        with room():
            rows = self._file.execute(
                "SELECT doc, key, partition, version, state, told, ids, superseded, tally, head1, head2, document1, "  # noqa: S608
                f"document2, chunks FROM documents WHERE doc IN ({marks})",
                list(docs),
            ).fetchall()
        return {row[0]: _expected(*row) for row in rows}

    # --------------------------------------------------------------------- who is suspect

    def mark_seen(self, docs: Sequence[str]) -> None:
        """These documents were looked at one by one, whether the log has them or not."""
        rows = [(doc,) for doc in docs]
        with room():
            self._file.executemany("UPDATE documents SET seen = 1 WHERE doc = ?", rows)
            self._file.executemany(
                "INSERT OR IGNORE INTO strangers SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM documents WHERE doc = ?1)",
                rows,
            )

    def suspect(self, docs: Iterable[str]) -> None:
        """Documents to be looked at, unless they were."""
        with room():
            self._file.executemany(
                "INSERT OR IGNORE INTO suspects SELECT ?1 "
                "WHERE NOT EXISTS (SELECT 1 FROM documents WHERE doc = ?1 AND seen) "
                "AND NOT EXISTS (SELECT 1 FROM strangers WHERE doc = ?1)",
                [(doc,) for doc in docs],
            )

    def suspect_unlisted(self) -> None:
        """Suspect the documents whose heads the log does not foretell, if they were not read."""
        with room():
            self._file.execute(
                "INSERT OR IGNORE INTO suspects SELECT doc FROM documents "
                "WHERE tally IS NULL AND NOT listed AND (superseded OR state NOT IN ('deleted', 'gone'))"
            )

    def suspect_all(self) -> None:
        """Suspect every document of the log that was not looked at."""
        with room():
            self._file.execute("INSERT OR IGNORE INTO suspects SELECT doc FROM documents WHERE NOT seen")

    def suspect_short(self, of: Tallied, first: Container[int], second: Container[int], *, both: bool) -> None:
        """Suspect the documents that have a point in cells of which the store has too few.

        Args:
            of: the tally: heads, tombstones or documents.
            first: cells of the first table.
            second: cells of the second table.
            both: the document is in one of each; otherwise in one of either.
        """
        one, two = ("document1", "document2") if of == "documents" else ("head1", "head2")
        who = "chunks != x''" if of == "documents" else "tally = ?"
        with room():
            for table, cells in (("first", first), ("second", second)):
                self._file.execute(f"DELETE FROM {table}")  # noqa: S608 - a constant
                self._file.executemany(f"INSERT INTO {table} VALUES (?)", [(int(cell),) for cell in cells])  # noqa: S608
            self._file.execute(
                f"INSERT OR IGNORE INTO suspects SELECT doc FROM documents WHERE NOT seen AND {who} "  # noqa: S608
                f"AND ({one} IN first {'AND' if both else 'OR'} {two} IN second)",
                () if of == "documents" else (of,),
            )

    def suspect_short_chunks(self, cells: npt.NDArray[np.int64], among: Iterable[str] | None = None) -> None:
        """Suspect the documents that list a chunk in cells of which the store has too few.

        Args:
            cells: those.
            among: only of these documents; None: of all.
        """
        short = np.zeros(1 << 16, dtype=bool)
        short[cells] = True
        wanted = None if among is None else set(among)
        found: list[str] = []
        for rows in self._rows("SELECT doc, chunks FROM documents WHERE NOT seen AND chunks != x''"):
            found += [
                doc for doc, chunks in rows if (wanted is None or doc in wanted) and short[_unpacked(chunks)].any()
            ]
        with room():
            self._file.executemany("INSERT OR IGNORE INTO suspects VALUES (?)", [(doc,) for doc in found])

    def take_suspects(self, most: int) -> list[str]:
        """Some of the suspects; they are none any more."""
        with room():
            rows = self._file.execute("SELECT doc FROM suspects ORDER BY doc LIMIT ?", (most,)).fetchall()
            if rows:
                self._file.execute("DELETE FROM suspects WHERE doc <= ?", rows[-1])
        return [doc for (doc,) in rows]

    def suspects(self) -> int:
        """How many there are."""
        with room():
            (count,) = self._file.execute("SELECT count(*) FROM suspects").fetchone()
        return int(count)

    def close(self) -> None:
        """Throw the file away."""
        self._file.close()

    def _rows(self, query: str) -> Iterator[list[Any]]:
        with room():
            cursor = self._file.execute(query)
        while True:
            with room():
                rows = cursor.fetchmany(_ROWS)
            if not rows:
                return
            yield rows


def _holding(told: Foretold | None) -> tuple[str | None, int | None, int | None, int | None, int | None, bytes]:
    """The columns of what the store must hold."""
    if told is None or told.state not in ("complete", "deleted"):
        return None, None, None, None, None, b""  # what such a head lists is not foretold
    tally = "heads" if told.state == "complete" else "tombstones"
    return (tally, *told.head_cells, *told.document_cells, _packed(told.ids))


def _expected(
    doc: str,
    key: bytes,
    partition: int,
    version: int | None,
    state: Any,
    told: bytes | None,
    ids: bytes | None,
    superseded: int,
    tally: Any,
    head1: int,
    head2: int,
    document1: int,
    document2: int,
    chunks: bytes,
) -> Expected:
    cells = tuple(_unpacked(chunks).tolist())
    return Expected(
        key=DocumentKey.from_bytes(key),
        partition=partition,
        known=None if version is None else _known(doc, version, state, told, ids or b""),
        superseded=bool(superseded),
        holding=Holding(
            None if tally is None else (tally, (head1, head2)), ((document1, document2),) * len(cells), cells
        ),
    )


def _known(doc: str, version: int, state: Any, told: bytes | None, ids: bytes) -> Known:
    if told is None:
        return Known(version, "gone", None)
    filters, chunks, metadata = (told[start : start + 8].hex() for start in (0, 8, 16))
    foretold = Foretold(doc, version, state, filters, chunks, metadata, tuple(_unpacked(ids).tolist()))
    return Known(version, "deleted" if state == "deleted" else "live", foretold)


def _digests(told: Foretold) -> bytes:
    return bytes.fromhex(told.filter_hash + told.chunks + told.metadata)


def _packed(cells: Iterable[int]) -> bytes:
    return np.fromiter(cells, dtype=_CELL).tobytes()


def _unpacked(cells: bytes) -> npt.NDArray[np.int64]:
    return np.frombuffer(cells, dtype=_CELL).astype(np.int64)
