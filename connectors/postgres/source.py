"""The source: a scan and a fetch read the tables, hints come from the replication stream.

The stream only says which rows changed; what they say is read from the tables when it is published.
So nothing depends on the order of changes, on values that a message leaves out, or on how often one
is sent. See docs/adr/0005-sources-with-a-log.md.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import psycopg2

from connectors.keys import escaped, key_of, path_of
from connectors.postgres.catalog import identity, resolve
from connectors.postgres.pgoutput import Begin, Changed, Commit, Message, Truncated
from connectors.postgres.server import Server
from connectors.postgres.settings import PostgresSettings
from connectors.postgres.slot import Publication, Slot, Snapshot, lsn_of, lsn_text
from connectors.postgres.stream import SlotUseless, Stream, Wake
from connectors.postgres.tables import Table
from pipeline.deadline import Deadline
from pipeline.errors import SourceUnavailable
from pipeline.ports import Backlog, Fetched, Hint, Listed

log = logging.getLogger(__name__)

#: Hints of one call, and keys of rows that are held before they are given.
_HINTS: Final = 1000
#: Between two looks at a transaction that has committed and cannot be seen yet.
_UNSEEN_SECONDS: Final = 0.01
#: Between two looks at the slot, for what the server keeps for it.
_SLOT_SECONDS: Final = 30.0
#: Between two looks at transactions that are older than the slot; and how long its making waits for them.
_OLDER_SECONDS: Final = 1.0
_OLDER_POLL_SECONDS: Final = 0.05


@dataclass(slots=True)
class _Transaction:
    """One that has committed, as far as it was read."""

    xid: int
    at: float
    paths: dict[str | None, None] = field(default_factory=dict)
    """What it changed and was not given yet; None: nobody knows what."""
    end: int = 0
    """The LSN behind it; 0: more of it is to come."""


class PostgresSource:
    """A :class:`pipeline.ports.LogSource`.

    Args:
        id: the source's.
        settings: of the source.
        limit_bytes: a longer text is published without it.

    Raises:
        ConfigError: the URL or the password's file is wrong.
    """

    def __init__(self, id: str, settings: PostgresSettings, limit_bytes: int) -> None:
        self.id = id
        self._settings = settings
        self._limit = limit_bytes
        self._server = Server(id, settings)
        self._slot_name = settings.slot_of(id)
        self._publication_name = settings.publication_of(id)
        self._publication = Publication(self._server, self._publication_name, create=settings.create)
        self._slot = Slot(self._server, self._slot_name, create=settings.create)
        self._tables: Mapping[str, Table] = {}
        self._stream: Stream | None = None
        self._wake = Wake()
        self._place = ""
        self._owed = False
        self._lsn = 0
        self._end = 0
        self._pending: deque[_Transaction] = deque()
        self._held = 0
        self._published = ""
        self._older = 0
        self._next_older = 0.0
        self._next_slot = 0.0
        self._kept: int | None = None
        self._warned = False
        self._user = 0

    # ------------------------------------------------------------------------ documents

    def scan(self) -> Iterator[Listed | None]:
        """Every row that is a document, table by table, in order of keys; a pause after each statement."""
        self._tables = {}  # columns are looked at again
        if self._place:
            self._publish()
        for table in self._current().values():
            with self._explained():
                yield from self._rows(table)

    def fetch(self, path: str) -> Fetched | None:
        """The row now."""
        try:
            path.encode()
        except UnicodeEncodeError:
            return None
        found = key_of(path)
        if found is None:
            return None
        name, key = found
        table = self._current().get(name)
        if table is None:
            return None
        with self._explained():
            return table.fetch(self._server, key, self._limit)

    # ------------------------------------------------------------------------------ log

    def resume(self, position: str | None) -> bool:
        """Go on behind ``position``, if the slot still has everything since."""
        complete = self._resumed(position) and not self._owed
        self._owed = False  # whoever asked scans
        return complete

    def caught_up(self) -> bool:
        """Whether the stream is past the WAL's end of then."""
        return self._lsn >= self._end

    def position(self) -> str:
        """The database, the slot, what is read of it, and the LSN up to which changes were hinted."""
        return f"{self._place}@{lsn_text(self._lsn)}"

    def acknowledge(self, position: str) -> None:
        """Let the server forget the WAL before."""
        place, _, lsn = position.rpartition("@")
        if self._stream is None or place != self._place:
            return
        try:
            self._stream.acknowledge(lsn_of(lsn))
        except (SourceUnavailable, SlotUseless) as error:
            log.debug("an acknowledgement was lost", extra={"source": self.id, "error": str(error)})
            self._close_stream()  # opened again by the next hints

    def backlog(self) -> Backlog | None:
        """WAL that the server keeps for the slot, as of the last look."""
        return None if self._kept is None else Backlog(self._kept, "bytes")

    def hints(self, timeout: float) -> list[Hint]:
        """Rows that changed, of transactions whose effect can be seen."""
        self._user = threading.get_ident()
        try:
            found = [] if self._wake.set else self._hints(Deadline.after(timeout))
        except SourceUnavailable:
            self._close_stream()
            if not self._wake.set:
                raise
            found = []
        if self._wake.set:
            self._close_stream()
        return found

    def close(self) -> None:
        """End the connections; the slot stays."""
        self._wake.ring()
        if self._user in (0, threading.get_ident()):
            self._close_stream()
        self._server.close()

    # ------------------------------------------------------------------------- private

    def _current(self) -> Mapping[str, Table]:
        """The tables; looked at again once a connection was lost, for the next one can lead to another server."""
        if not self._tables or not self._server.connected:
            database = identity(self._server)
            self._tables = {one.name: one for one in resolve(self._server, self.id, self._settings, database)}
        return self._tables

    def _here(self) -> str:
        """What positions belong to: the same rows of the same database, by the same slot and publication."""
        rows = sorted(f"{one.name} {one.fingerprint}" for one in self._tables.values())
        facts = "\n".join([self._slot_name, self._published, *rows])
        return hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()

    def _rows(self, table: Table) -> Iterator[Listed | None]:
        too_long = 0
        for found in table.scan(self._server):
            if isinstance(found, str):
                too_long += 1
                example = found
            else:
                yield found
        if too_long:
            log.warning(
                "rows are left out: their keys are too long for a path",
                extra={"source": self.id, "table": table.name, "rows": too_long, "example": f"{example[:80]}..."},
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Statements that were right a moment ago: the table is another one now."""
        try:
            yield
        except psycopg2.ProgrammingError as error:
            self._tables = {}
            self._current()  # says what is missing
            raise SourceUnavailable(f"{self._server.name}: a table changes: {' '.join(str(error).split())}") from None
        except psycopg2.Error as error:
            raise SourceUnavailable(f"{self._server.name}: {' '.join(str(error).split())}") from None

    def _publish(self) -> None:
        tables = list(self._current().values())
        self._publication.ensure(tables)
        self._published = self._publication.identity(tables)

    def _resumed(self, position: str | None) -> bool:
        """As :meth:`resume`. A scan is owed before anything changes that the next attempt would go by."""
        self._publish()
        here = self._here()
        self._owed = self._owed or bool(self._place and here != self._place)
        self._place = here
        ((end,),) = self._server.rows("SELECT pg_current_wal_flush_lsn()::text")
        self._end = self._end or lsn_of(end)
        place, _, lsn = (position or "").rpartition("@")
        state = self._slot.state()
        if state is None or state.lost:
            if state is not None or place:
                log.warning(
                    "replication slot is gone: everything is scanned",
                    extra={"source": self.id, "slot": self._slot_name, "lost": state is not None},
                )
            self._make()
            return False
        self._lsn = state.confirmed
        if place != self._place:
            if place:
                log.warning(
                    "database, publication, tables or settings are others than before: everything is scanned",
                    extra={"source": self.id, "slot": self._slot_name},
                )
            return False
        if lsn_of(lsn) < state.confirmed:
            log.warning(
                "replication slot was read by another process: everything is scanned",
                extra={"source": self.id, "slot": self._slot_name, "here": lsn, "slot_at": lsn_text(state.confirmed)},
            )
            return False
        self._lsn = lsn_of(lsn)
        return True

    def _make(self) -> None:
        """A slot in place of none."""
        self._owed = True
        self._older = self._slot.make()
        deadline = Deadline.after(_OLDER_SECONDS)
        while not self._grown() and not deadline.expired:
            self._wake.wait(_OLDER_POLL_SECONDS)
        state = self._slot.state()
        self._lsn = 0 if state is None else state.confirmed

    def _hints(self, deadline: Deadline) -> list[Hint]:
        if not self._place:
            self.resume(None)
            return [Hint(None)]
        self._look_at_slot()
        try:
            return self._continued() or self._aged() or self._read(deadline)
        except SlotUseless as error:
            log.warning(
                "replication slot cannot be read: everything is scanned",
                extra={"source": self.id, "slot": self._slot_name, "error": str(error)},
            )
            self._close_stream()
            self._owed = True
            self._publish()
            self._place = self._here()
            self._make()
            return self._due()

    def _continued(self) -> list[Hint]:
        """Have an open stream; a hint if something may be missing from it."""
        here = self._here() if self._tables else self._place
        if self._stream is not None and here == self._place:
            return []
        tables = self._current()
        place, before = self._place, self.position()
        complete = self._resumed(before)
        self._owed = self._owed or not complete
        if not complete or self._place != place:
            self._close_stream()
        if self._stream is None:
            keys = {one.oid: [column.name for column in one.key] for one in tables.values()}
            self._stream = Stream(self._server, self._slot_name, self._publication_name, self._lsn, keys)
        return self._due()

    def _due(self) -> list[Hint]:
        """The hint of a scan that is owed; no failure of what came before it makes that forgotten."""
        owed, self._owed = self._owed, False
        return [Hint(None)] if owed else []

    def _close_stream(self) -> None:
        """What was read and not given is sent again."""
        stream, self._stream = self._stream, None
        self._pending.clear()
        self._held = 0
        if stream is not None:
            stream.close()

    def _aged(self) -> list[Hint]:
        """A transaction can commit just before the slot begins, and be seen only after the scan has passed.
        Once all have ended that were under way then, another scan sees them.
        """
        if not self._older or time.monotonic() < self._next_older:
            return []
        self._next_older = time.monotonic() + _OLDER_SECONDS
        return [Hint(None)] if self._grown() else []

    def _grown(self) -> bool:
        """True once every transaction has ended that was there before the slot."""
        if self._older and Snapshot.of(self._server).oldest > self._older:
            self._older = 0
        return not self._older

    def _read(self, deadline: Deadline) -> list[Hint]:
        assert self._stream is not None  # just opened
        while True:
            while self._held < _HINTS and (message := self._stream.read()) is not None:
                self._take(message)
            found = self._given()
            if found or deadline.expired or self._wake.set:
                return found
            if self._held:
                self._wake.wait(min(_UNSEEN_SECONDS, deadline.remaining()))
            else:
                self._stream.wait(deadline.remaining(), self._wake)

    def _take(self, message: Message) -> None:
        names = {one.oid: one.name for one in self._tables.values()}
        match message:
            case Begin(xid, at):
                self._pending.append(_Transaction(xid, min(at, time.time())))
            case Commit(end):
                self._pending[-1].end = end
            case Changed(relation, keys):
                for key in keys:
                    self._hold(path_of(names[relation], key))
                if not keys:
                    self._hold(None)
            case Truncated(relations):
                for relation in relations:
                    self._hold(escaped(names[relation]))  # and all that is below

    def _hold(self, path: str | None) -> None:
        paths = self._pending[-1].paths
        self._held += path not in paths
        paths[path] = None

    def _given(self) -> list[Hint]:
        """What may be looked at by now. A commit is sent before others can see it, by as long as its standbys
        take: who looked at once would find the row of before, and never look again.
        """
        found: dict[str | None, Hint] = {}
        snapshot = Snapshot.of(self._server) if self._held else None
        while self._pending:
            one = self._pending[0]
            if one.paths and (snapshot is None or not snapshot.sees(one.xid)):
                break
            for path in one.paths:
                found.setdefault(path, Hint(path, one.at))
            self._held -= len(one.paths)
            one.paths = {}
            if not one.end:
                break
            self._lsn = one.end
            self._pending.popleft()
        if not self._pending and self._stream is not None:
            self._lsn = max(self._lsn, self._stream.end)
        return list(found.values())

    def _look_at_slot(self) -> None:
        if time.monotonic() < self._next_slot:
            return
        self._next_slot = time.monotonic() + _SLOT_SECONDS
        state = self._slot.state()
        if state is None:
            return
        self._kept = state.kept
        too_much = state.threatened or state.kept > self._settings.lag_warning_bytes
        if too_much and not self._warned:
            log.warning(
                "the server keeps much WAL for the replication slot, and can run out of disk or drop it",
                extra={
                    "source": self.id,
                    "slot": self._slot_name,
                    "bytes": state.kept,
                    "dropped_soon": state.threatened,
                },
            )
        self._warned = too_much
