"""What is known of a source's pages and listings, so that unchanged ones need not be sent again: a cache on disk.

It holds addresses, validators and hashes, no text, and can be deleted at any time: then every page is read once
more, and what did not change is not published again.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal, NoReturn

from connectors.cache import Tables, connected, removed
from pipeline.errors import SourceUnavailable

log = logging.getLogger(__name__)

_TABLES: Final = Tables(
    2,
    ("pages", "listings"),
    """
CREATE TABLE pages (
  id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, url TEXT NOT NULL, hints TEXT NOT NULL DEFAULT '',
  fresh INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL DEFAULT 'new', revision TEXT NOT NULL DEFAULT '',
  body TEXT NOT NULL DEFAULT '', name TEXT NOT NULL DEFAULT '', extraction TEXT NOT NULL DEFAULT '',
  etag TEXT NOT NULL DEFAULT '', modified TEXT NOT NULL DEFAULT '', checked_at REAL NOT NULL DEFAULT 0,
  missing_since REAL NOT NULL DEFAULT 0, final INTEGER NOT NULL DEFAULT 0, why TEXT NOT NULL DEFAULT '',
  target TEXT NOT NULL DEFAULT '',
  failures INTEGER NOT NULL DEFAULT 0, retry_at REAL NOT NULL DEFAULT 0, false_hints INTEGER NOT NULL DEFAULT 0,
  listed INTEGER NOT NULL DEFAULT 0, left_at REAL NOT NULL DEFAULT 0, named INTEGER NOT NULL DEFAULT 0,
  text TEXT NOT NULL DEFAULT '', landing TEXT NOT NULL DEFAULT '', doubted TEXT NOT NULL DEFAULT '',
  doubted_at REAL NOT NULL DEFAULT 0);
CREATE INDEX pages_by_text ON pages (text);
CREATE INDEX pages_by_doubted ON pages (doubted);
CREATE INDEX pages_by_landing ON pages (landing);
CREATE TABLE listings (
  key TEXT PRIMARY KEY, etag TEXT NOT NULL, modified TEXT NOT NULL, hint TEXT NOT NULL, read_at REAL NOT NULL,
  names TEXT NOT NULL, whole_at REAL NOT NULL);
""",
)
_BUSY_SECONDS: Final = 5.0
#: Of one page: sitemaps and feeds that name it seldom agree on when it changed.
_HINTS: Final = 8


@dataclass(slots=True)
class Page:
    """What is known of one page."""

    id: int
    """Grows from page to page: whoever walks along it also meets what is found meanwhile."""
    path: str
    url: str
    hints: str = ""
    """The last few times at which listings said that it changed, line by line."""
    fresh: int = 0
    """1: one of them is new since the page was last asked for."""
    state: Literal["new", "live", "moved", "gone"] = "new"
    revision: str = ""
    """Empty until it was read."""
    body: str = ""
    """Hash of what was sent."""
    name: str = ""
    """Its suffix says how it was read."""
    extraction: str = ""
    """Version of what read it."""
    etag: str = ""
    modified: str = ""
    """``Last-Modified``, as it stands there."""
    checked_at: float = 0.0
    """When it last answered, in seconds since 1970."""
    missing_since: float = 0.0
    """0: it is there."""
    final: int = 0
    """1: its site says in so many words that it is gone."""
    why: str = ""
    """What was wrong with it when it was last asked for."""
    target: str = ""
    """The path of the page that it says it stands for, or that it was moved to for good."""
    failures: int = 0
    """In a row."""
    retry_at: float = 0.0
    false_hints: int = 0
    """In a row: it was said to have changed, and had not."""
    listed: int = 0
    """1: a scan has listed it, and none since has done without it."""
    left_at: float = 0.0
    """When a scan last began to do without it; 0: none did, or that was said to be right."""
    named: int = 0
    """1: by a listing, and not only by other pages."""
    text: str = ""
    """Hash of the text that it was last published with; empty: it has none."""
    landing: str = ""
    """URL of a page that no listing names, to which it leads for now."""
    doubted: str = ""
    """Hash of a text that is not believed yet."""
    doubted_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Listing:
    """A sitemap or a feed, as it was last read."""

    key: str
    etag: str
    modified: str
    hint: str
    """What its index said of it."""
    read_at: float
    names: str
    """The listings that it names, as JSON."""
    whole_at: float
    """When it was last read as a whole, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Left:
    """What scans have done without since a time."""

    gone: int
    folded: Mapping[str, int]
    """How many pages gave way to each other one."""


_COLUMNS: Final = [one.name for one in fields(Page)]
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM pages"  # noqa: S608 - constants
_UPDATE: Final = f"UPDATE pages SET {', '.join(f'{name} = ?' for name in _COLUMNS[2:])} WHERE id = ?"  # noqa: S608


class Ledger:
    """The cache of one source; opened when it is first needed. Used by one thread, but for :meth:`close`; other
    processes may use the same file.

    Args:
        folder: of the source's own; None: in memory.
        pages_limit: further pages are left out.
    """

    def __init__(self, folder: Path | None, pages_limit: int) -> None:
        self._path = None if folder is None else folder / "pages.db"
        self._limit = pages_limit
        self._lock = threading.RLock()
        self._file: sqlite3.Connection | None = None
        self._closed = False
        self._left = 0
        """Pages that may be added before they are counted again."""
        self._told = False

    def close(self) -> None:
        """Close the file; from any thread, more than once."""
        with self._lock:
            self._closed = True
            file, self._file = self._file, None
            if file is not None:
                file.close()

    def page(self, path: str) -> Page | None:
        """What is known of a page."""
        with self._open() as file:
            row = file.execute(f"{_SELECT} WHERE path = ?", (path,)).fetchone()
        return None if row is None else Page(*row)

    def after(self, id: int) -> Page | None:
        """The next page behind that one, in the order in which they were found; 0: the first."""
        with self._open() as file:
            row = file.execute(f"{_SELECT} WHERE id > ? ORDER BY id LIMIT 1", (id,)).fetchone()
        return None if row is None else Page(*row)

    def count(self) -> int:
        """Pages that a scan has listed, and none since has done without."""
        with self._open() as file:
            return int(file.execute("SELECT count(*) FROM pages WHERE listed = 1").fetchone()[0])

    def put(self, page: Page) -> None:
        """Keep what is known of a page now."""
        row = [getattr(page, name) for name in _COLUMNS[2:]]
        with self._open() as file:
            file.execute(_UPDATE, (*row, page.id))

    def found(self, path: str, url: str) -> Page | None:
        """A page that another one has named; None if there is no room for it."""
        self.note([(path, url, "")], by_listing=False)
        return self.page(path)

    def note(self, named: Sequence[tuple[str, str, str]], *, by_listing: bool = True) -> bool:
        """Pages that a listing names, at once: path, URL and when it says that each changed, a few hundred at most.

        Args:
            named: the pages.
            by_listing: False: it is another page that names them.

        Returns:
            False if there was no room for some of them.
        """
        with self._open() as file:
            marks = ", ".join("?" * len(named))
            known = {
                path: (id, url, hints, bool(listed))
                for path, id, url, hints, listed in file.execute(
                    f"SELECT path, id, url, hints, named FROM pages WHERE path IN ({marks})",  # noqa: S608 - question marks
                    [path for path, *_ in named],
                )
            }
            new: dict[str, tuple[str, str]] = {}
            changed: list[tuple[str, str, int, int, int]] = []
            for path, url, hint in named:
                if path not in known:
                    new.setdefault(path, (url, hint))
                    continue
                id, before, hints, listed = known[path]
                better = url if url.startswith("https:") and not before.startswith("https:") else before
                seen = hints.split("\n") if hints else []
                fresh = bool(hint) and hint not in seen
                if fresh or better != before or by_listing > listed:
                    hints = "\n".join([*seen, hint][-_HINTS:]) if fresh else hints
                    known[path] = (id, better, hints, listed or by_listing)
                    changed.append((better, hints, int(fresh), int(by_listing), id))
            room = self._room(file, len(new)) if new else 0
            file.execute("BEGIN IMMEDIATE")
            try:
                file.executemany(
                    "UPDATE pages SET url = ?, hints = ?, fresh = max(fresh, ?), named = max(named, ?) WHERE id = ?",
                    changed,
                )
                rows = [(path, url, hint, int(by_listing)) for path, (url, hint) in list(new.items())[:room]]
                file.executemany("INSERT OR IGNORE INTO pages (path, url, hints, named) VALUES (?, ?, ?, ?)", rows)
                file.execute("COMMIT")
            except BaseException:
                file.execute("ROLLBACK")
                raise
            return room == len(new)

    def _room(self, file: sqlite3.Connection, wanted: int) -> int:
        """For how many further pages there is room, of so many."""
        if self._left < wanted:
            self._left = max(0, self._limit - file.execute("SELECT count(*) FROM pages").fetchone()[0])
        room = min(wanted, self._left)
        self._left -= room
        if room < wanted and not self._told:
            self._told = True
            log.warning("pages are left out: there are more than `pages_limit`", extra={"pages_limit": self._limit})
        return room

    def left(self, since: float) -> Left:
        """What scans have done without since then."""
        with self._open() as file:
            where = "FROM pages WHERE left_at >= ? AND left_at > 0 AND state"
            gone = file.execute(f"SELECT count(*) {where} = 'gone'", (since,)).fetchone()[0]
            folded = f"SELECT target, count(*) {where} != 'gone' AND target != '' GROUP BY target"
            return Left(int(gone), dict(file.execute(folded, (since,))))

    def settle(self) -> None:
        """What is gone by now is right, and counts no more."""
        with self._open() as file:
            file.execute("UPDATE pages SET left_at = 0 WHERE left_at > 0")

    def twins(self, path: str, text: str, landing: str) -> int:
        """How many other pages have a text, or lead to a page that none names; three at most, and none that this one
        stands for. Empty: that does not count.
        """
        with self._open() as file:
            found = file.execute(
                "SELECT count(*) FROM (SELECT 1 FROM pages "
                "WHERE path != :path AND target != :path AND state != 'gone' AND ("
                ":text != '' AND text = :text OR :text != '' AND doubted = :text OR :to != '' AND landing = :to"
                ") LIMIT 3)",
                {"path": path, "text": text, "to": landing},
            )
            return int(found.fetchone()[0])

    def drop(self, page: Page) -> None:
        """Forget a page."""
        with self._open() as file:
            file.execute("DELETE FROM pages WHERE id = ?", (page.id,))

    def forget(self, before: float) -> None:
        """Leave out pages that were gone or never there before then, and listings that were not read since."""
        with self._open() as file:
            file.execute(
                "DELETE FROM pages WHERE missing_since > 0 AND missing_since < :before AND left_at < :before "
                "AND (state = 'gone' OR state = 'new' AND revision = '')",
                {"before": before},
            )
            file.execute("DELETE FROM listings WHERE read_at < ?", (before,))

    def others(self, rules: str) -> bool:
        """Whether there are listings that were read by other rules."""
        with self._open() as file:
            return bool(file.execute("SELECT 1 FROM listings WHERE key NOT LIKE ? LIMIT 1", (f"{rules} %",)).fetchone())

    def listing(self, key: str) -> Listing | None:
        """A listing, as it was last read."""
        with self._open() as file:
            row = file.execute("SELECT * FROM listings WHERE key = ?", (key,)).fetchone()
        return None if row is None else Listing(*row)

    def put_listing(self, one: Listing) -> None:
        """Keep how a listing was read."""
        with self._open() as file:
            file.execute(
                "INSERT OR REPLACE INTO listings VALUES (?, ?, ?, ?, ?, ?, ?)",
                (one.key, one.etag, one.modified, one.hint, one.read_at, one.names, one.whole_at),
            )

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed:
                raise SourceUnavailable("the source is closed")
            try:
                if self._file is None:
                    self._file = _opened(self._path)
                yield self._file
            except sqlite3.OperationalError as error:
                raise SourceUnavailable(
                    f"the cache of pages cannot be used: {error}; make room on the disk of the state folder"
                ) from None
            except sqlite3.DatabaseError as error:
                self._rebuild(error)

    def _rebuild(self, error: sqlite3.DatabaseError) -> NoReturn:
        file, self._file = self._file, None
        if file is not None:
            file.close()
        if self._path is not None:
            removed(self._path)
        raise SourceUnavailable(f"the cache of pages is broken and is built again: {error}") from None


def _opened(path: Path | None) -> sqlite3.Connection:
    if path is None:
        return connected(None, _TABLES, _BUSY_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceUnavailable(f"the cache of pages cannot be made at {path}: {error}") from None
    return connected(path, _TABLES, _BUSY_SECONDS)
