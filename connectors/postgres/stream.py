"""The replication stream of a slot: transactions in the order in which they committed."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import psycopg2
from psycopg2.extras import ReplicationCursor

from connectors.postgres.pgoutput import Decoder, Malformed, Message
from connectors.postgres.server import Server
from pipeline.errors import Fatal, SourceUnavailable

#: Of errors that only another slot mends: the WAL is gone, or the publication was made after it.
_USELESS: Final = ("55000", "42704", "58P01")


class SlotUseless(Exception):
    """This slot cannot be read any more: make another, and scan."""


class Stream:
    """One connection that is sent what a slot holds. The connection is quiet only as long as messages
    are read: a server that hears nothing for a minute ends it, and the slot sends the rest again.

    Args:
        server: to connect to.
        slot: its name.
        publication: its name.
        start: the LSN behind which to begin; 0: where the slot says.
        keys: by oid, the names of each table's key columns.

    Raises:
        SourceUnavailable: no answer, or another process reads the slot.
        SlotUseless: nobody can read it.
    """

    def __init__(
        self, server: Server, slot: str, publication: str, start: int, keys: Mapping[int, Sequence[str]]
    ) -> None:
        self._name = server.name
        self._decoder = Decoder(keys)
        self._connection = server.stream()
        self._cursor: ReplicationCursor = self._connection.cursor()
        with self._meanings():
            self._cursor.start_replication(
                slot_name=slot,
                start_lsn=start,
                options={"proto_version": "1", "publication_names": publication},
            )

    def read(self) -> Message | None:
        """The next message that has arrived; None: there is none now.

        Raises:
            SourceUnavailable: the connection is lost.
            SlotUseless: the slot is.
        """
        with self._meanings():
            while (data := self._cursor.read_message()) is not None:
                try:
                    message = self._decoder.decode(data.payload)
                except Malformed as error:
                    raise Fatal(f"{self._name}: the replication stream is not understood: {error}") from None
                if message is not None:
                    return message
        return None

    @property
    def end(self) -> int:
        """The LSN up to which everything that has committed was read, while no transaction is open in it."""
        return int(self._cursor.wal_end or 0)

    def wait(self, timeout: float, wake: Wake) -> None:
        """Until something arrives, or ``wake`` is set."""
        with self._meanings():
            select.select([self._connection.fileno(), wake.fileno()], [], [], max(0.0, timeout))

    def acknowledge(self, lsn: int) -> None:
        """Let the server forget what lies before.

        Raises:
            SourceUnavailable: the connection is lost.
        """
        with self._meanings():
            self._cursor.send_feedback(  # type: ignore[no-untyped-call]
                write_lsn=lsn, flush_lsn=lsn, apply_lsn=lsn, force=True
            )

    def close(self) -> None:
        """End the connection; the slot stays."""
        with suppress(psycopg2.Error, OSError):
            self._connection.close()

    @contextmanager
    def _meanings(self) -> Iterator[None]:
        try:
            yield
        except (psycopg2.Error, OSError, ValueError) as error:  # select of a connection that is closed
            self.close()
            text = " ".join(str(error).split())
            if isinstance(error, psycopg2.Error) and error.pgcode in _USELESS:
                raise SlotUseless(text) from None
            raise SourceUnavailable(f"{self._name}: replication: {text}") from None


class Wake:
    """What ends a wait from another thread, once and for all."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self.set = False

    def fileno(self) -> int:
        """Readable once it is set."""
        return self._read

    def ring(self) -> None:
        """Set it."""
        if not self.set:
            self.set = True
            os.write(self._write, b"!")

    def wait(self, timeout: float) -> None:
        """Until it is set."""
        select.select([self._read], [], [], max(0.0, timeout))

    def __del__(self) -> None:
        os.close(self._read)
        os.close(self._write)
