"""Random transactions of several writers against a connector that is killed: the log equals the table."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import psycopg2

from connectors.runner import RunnerLimits
from pipeline.errors import BrokerUnavailable
from tests.support.postgres import PostgresServer
from tests.support.sources import Documents, running, wait_until
from tests.support.tables import Tables, tables
from tests.unit.connectors.faults import FaultyBroker, Killed

ROUNDS = 8
WRITERS = 3
#: Of each writer: on a machine that is busy otherwise, they would write more than is ever read.
TRANSACTIONS = 150
TABLE = "CREATE TABLE rows (a int, b text, body text, n int, PRIMARY KEY (a, b))"
#: Over what a page holds, so that it is stored apart, and a message leaves it out where it did not change.
BIG = "(SELECT string_agg(md5(g::text || random()), '') FROM generate_series(1, 300) g)"


class Writer(threading.Thread):
    """Transactions of some statements each, now and then rolled back."""

    def __init__(self, one: Tables, seed: str) -> None:
        super().__init__(daemon=True)
        self._one = one
        self._chance = random.Random(seed)
        self.stop = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with self._one.server.connected(self._one.database) as connection:
                connection.autocommit = False
                for _ in range(TRANSACTIONS):
                    if self.stop.is_set():
                        break
                    self._transaction(connection)
        except BaseException as error:  # the test asks for it
            self.failure = error

    def _transaction(self, connection: psycopg2.extensions.connection) -> None:
        chance = self._chance
        try:
            with connection.cursor() as cursor:
                for _ in range(chance.randrange(1, 5)):
                    cursor.execute(self._statement())
                    if chance.random() < 0.2:
                        time.sleep(chance.random() * 0.05)
                if chance.random() < 0.05:
                    cursor.execute("TRUNCATE rows")  # last, for it locks everybody out
                (connection.rollback if chance.random() < 0.2 else connection.commit)()
        except (psycopg2.errors.DeadlockDetected, psycopg2.errors.UniqueViolation):
            connection.rollback()
        time.sleep(chance.random() * 0.05)

    def _statement(self) -> str:
        chance = self._chance
        a, b, n = chance.randrange(4), chance.choice(["x", "y/z", "%", "ü"]), chance.randrange(100)
        at = f"a = {a} AND b = '{b}'"
        body = BIG if chance.random() < 0.3 else f"'text {chance.randrange(5)}'"
        fate = chance.random()
        if fate < 0.35:
            return f"INSERT INTO rows VALUES ({a}, '{b}', {body}, {n}) ON CONFLICT (a, b) DO UPDATE SET n = {n}"
        if fate < 0.6:
            return f"UPDATE rows SET body = {body} WHERE {at}"
        if fate < 0.7:
            return f"UPDATE rows SET n = {n} WHERE a = {a}"
        if fate < 0.82:
            return f"UPDATE rows SET a = {chance.randrange(4, 8)} WHERE {at}"
        return f"DELETE FROM rows WHERE b = '{b}' AND a = {chance.randrange(8)}"


def escaped(value: str) -> str:
    return value.replace("%", "%25").replace("/", "%2F")


def test_any_history_of_transactions_and_kills_ends_with_log_and_table_equal(
    postgres: PostgresServer, fresh: str, documents: Documents, tmp_path: Path
) -> None:
    """Given inserts, updates, new keys, deletes, truncations, rollbacks and values that are stored apart, by
    several writers at once, while the connector is killed before and after its transactions, loses its
    cache, its slot, or the answer of its log, then at the end the log says what the table says.
    """
    seed = int(os.environ.get("VECTIDE_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed} (VECTIDE_TEST_SEED repeats the statements, not their order)")
    chance = random.Random(seed)
    broker = FaultyBroker(documents.broker, lambda after: None)
    documents.broker = broker  # type: ignore[assignment]
    limits = RunnerLimits(batch_documents=5, position_seconds=0.0, hints_seconds=0.05)

    def plan(after: bool) -> None:
        fate = chance.random()
        if fate < 0.1:
            raise Killed
        if fate < 0.15:
            raise BrokerUnavailable("chance")

    settings = {"rows": {"text": "{body}", "metadata": ["n"]}}
    with tables(postgres, fresh, TABLE, tables=settings) as one:
        writers = [Writer(one, f"{seed}-{number}") for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        resumed = 0
        for _ in range(ROUNDS):
            if chance.random() < 0.1:
                for file in tmp_path.iterdir():
                    file.unlink()
            if chance.random() < 0.1:
                wait_until(lambda: not one.rows("SELECT 1 FROM pg_replication_slots WHERE active"))
                one.drop_slot()
            broker.plan = plan
            source = one.source()
            with running(source, documents, tmp_path, limits) as at_work:
                wait_until(lambda at_work=at_work: at_work.runner.scanned.is_set() or at_work.failure)
                resumed += at_work.runner._scanned_at == 0.0 and at_work.failure is None
                time.sleep(chance.random() * 0.5)
                at_work.stop.set()
                failure = at_work.wait_ended()
                assert failure is None or isinstance(failure, Killed), failure
        broker.plan = lambda after: None
        with running(one.source(), documents, tmp_path, limits) as at_work:
            at_work.wait_scanned()
            time.sleep(0.5)
            for writer in writers:
                writer.stop.set()
            for writer in writers:
                writer.join(60)
                assert writer.failure is None, writer.failure
            expected = {f"rows/{a}/{escaped(b)}": (body, n) for a, b, body, n in one.rows("SELECT * FROM rows")}

            def found() -> dict[str, tuple[str | None, object]]:
                return {path: (event.text, event.metadata["n"]) for path, event in documents.now().items()}

            wait_until(lambda: found() == expected, lambda: f"seed {seed}: {set(found()) ^ set(expected)}")
        print(f"{resumed} of {ROUNDS} restarts went on without a scan")
