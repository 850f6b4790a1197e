"""A real PostgreSQL on this machine, from the distribution's packages, in a temporary folder.

``python -m tests.support.postgres --install`` installs it where this is root and Debian; ``make test``
calls it. The server refuses to run as root: then it runs as an unprivileged user.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.kafka import _free_ports

_START_SECONDS = 60
#: PostgreSQL refuses root; Debian's packages bring the first of these, every Unix has the second.
_USERS = ("postgres", "nobody")
_SETTINGS = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{socket}'
wal_level = logical
max_wal_senders = 30
max_replication_slots = 30
max_connections = 60
shared_buffers = 8MB
min_wal_size = 2MB
max_wal_size = 16MB
# A killed machine is not what is tested here.
fsync = off
full_page_writes = off
autovacuum = off
log_statement = none
"""
_ACCESS = """
local all all trust
host all +passworded 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
"""


class Missing(RuntimeError):
    """PostgreSQL is not installed here; the text says how to get it."""


def binaries() -> Path:
    """The folder of ``initdb`` and ``postgres``; the newest, where there are several. Raises Missing."""
    found = [Path(one).resolve().parent for one in [shutil.which("initdb")] if one]
    # Debian keeps the server's programs out of PATH, a folder for each version.
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: float(one.parent.name), reverse=True)
    for folder in found:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise Missing("PostgreSQL is missing: install it (Debian: apt-get install postgresql)")


class PostgresServer:
    """One server in a folder of its own, on a port and a socket that stay the same over restarts.

    Args:
        more: further lines of postgresql.conf.
    """

    def __init__(self, more: str = "") -> None:
        self._programs = binaries()
        # Not pytest's own folder: that is for its user alone. And a socket's path is short.
        self.directory = Path(tempfile.mkdtemp(prefix="vectide-pg-"))
        (self.port,) = _free_ports(1)
        self._data = self.directory / "data"
        self._log = self.directory / "server.log"
        self._as: list[str] = []
        if os.geteuid() == 0:
            user = next(one for one in map(_user, _USERS) if one is not None)
            os.chown(self.directory, user.pw_uid, user.pw_gid)
            self._as = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self._run(
            "initdb",
            "-D",
            str(self._data),
            "-U",
            "admin",
            "--auth=trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
            "--wal-segsize=1",
        )
        self._write("postgresql.conf", _SETTINGS.format(port=self.port, socket=self.directory) + more, append=True)
        self._write("pg_hba.conf", _ACCESS)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as, str(self._programs / "postgres"), "-D", str(self._data)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests, which then stop it
                cwd="/",
            )
        end = time.monotonic() + _START_SECONDS
        while subprocess.run(
            [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        ).returncode:
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it without waiting for who is connected, and remove its folder."""
        self._end(signal.SIGQUIT)
        end = time.monotonic() + _START_SECONDS
        while self.directory.exists() and time.monotonic() < end:  # who was connected ends a moment later
            shutil.rmtree(self.directory, ignore_errors=True)
            time.sleep(0.01)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGQUIT)

    def restart(self) -> None:
        """Crash it and start it again: it recovers on the same port."""
        self.kill()
        self.start()

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def url(self, database: str, user: str = "admin") -> str:
        """Over the loopback port."""
        return f"postgres://{user}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def connected(self, database: str = "postgres", user: str = "admin") -> Iterator[Any]:
        """A connection of the test's own, each statement a transaction."""
        import psycopg2

        connection = psycopg2.connect(self.url(database, user))
        connection.autocommit = True
        try:
            yield connection
        finally:
            connection.close()

    def execute(self, database: str, *statements: str, user: str = "admin") -> None:
        """Run statements, each a transaction."""
        with self.connected(database, user) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def rows(self, database: str, query: str, values: Sequence[object] = ()) -> list[Any]:
        """What a query gives."""
        with self.connected(database) as connection, connection.cursor() as cursor:
            cursor.execute(query, values or None)
            return list(cursor.fetchall())

    def drop_slots(self, database: str) -> None:
        """Throw a database's replication slots away, whoever reads them and comes back to read them."""
        import psycopg2

        end = time.monotonic() + _START_SECONDS
        slots = f"FROM pg_replication_slots WHERE database = '{database}'"
        while self.rows("postgres", f"SELECT 1 {slots}"):
            if time.monotonic() > end:
                raise RuntimeError(f"a replication slot of {database} stays in use")
            try:
                self.execute("postgres", f"SELECT pg_terminate_backend(active_pid) {slots}", "SELECT pg_sleep(0.01)")
                self.execute("postgres", f"SELECT pg_drop_replication_slot(slot_name) {slots}")
            except psycopg2.errors.ObjectInUse:
                continue

    def drop_database(self, database: str) -> None:
        """With its slots, whoever is connected."""
        self.execute(
            "postgres",
            f"ALTER DATABASE {database} ALLOW_CONNECTIONS false",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'",
        )
        self.drop_slots(database)
        self.execute("postgres", f"DROP DATABASE {database} WITH (FORCE)")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as, str(self._programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=120, cwd="/")
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed:\n{done.stdout}\n{done.stderr}")

    def _write(self, name: str, text: str, *, append: bool = False) -> None:
        with (self._data / name).open("a" if append else "w") as file:
            file.write(text)


@functools.cache
def shared() -> PostgresServer:
    """The one server of a test process, running; it is stopped when that ends. Raises Missing."""
    server = PostgresServer()
    atexit.register(server.stop)
    server.start()
    server.execute("postgres", "CREATE ROLE passworded")  # its members need their passwords
    return server


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--install", action="store_true", help="with apt-get, where this is root")
    options = parser.parse_args()
    try:
        folder = binaries()
    except Missing as missing:
        if not (options.install and os.geteuid() == 0 and shutil.which("apt-get")):
            print(missing, file=sys.stderr)
            return 1
        # Without the cluster that Debian's package would make and start.
        for command in (
            ["apt-get", "update", "-q"],
            ["apt-get", "install", "-q", "-y", "--no-install-recommends", "postgresql"],
        ):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            if subprocess.run(command, env=environment, check=False).returncode != 0:
                print(f"vectide: {' '.join(command)} failed: {missing}", file=sys.stderr)
                return 1
        folder = binaries()
    version = subprocess.run([str(folder / "postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"[\d.]+", version)
    print(f"PostgreSQL {found[0] if found else '?'} in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
