"""A storm carried out: each fault in a thread of its own, all of them healed at the end."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from tests.soak.cluster import Cluster
from tests.soak.faults import Fault, Storm

_HEAL_SECONDS = 180.0
#: Kinds that are counted by their targets.
_NAMED = ("store", "kill", "hang")


class Faults:
    """Does what a schedule says, to a cluster. What is busy with a fault already is left alone."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._store = threading.Lock()
        self._disk = threading.Lock()
        self._broker_lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.idle: Counter[str] = Counter()
        """Those that did nothing: what they are for was down, busy with another, or as they would have it."""

    def run(self, storm: Storm) -> None:
        """All of them; on return everything is healed."""
        started = time.monotonic()
        threads = []
        for fault in storm.faults:
            time.sleep(max(0.0, started + fault.at - time.monotonic()))
            thread = threading.Thread(target=self._one, args=(fault,), daemon=True)
            thread.start()
            threads.append(thread)
        time.sleep(max(0.0, started + storm.seconds - time.monotonic()))
        deadline = time.monotonic() + _HEAL_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), "a fault did not end"

    def _one(self, fault: Fault) -> None:
        try:
            with self._applied(fault) as done:
                counts = self.counts if done else self.idle
                counts[f"{fault.kind} {fault.target}" if fault.kind in _NAMED else fault.kind] += 1
                self._cluster.events.note("fault" if done else "fault that did nothing", **fault.as_json())
                if done and fault.seconds:
                    time.sleep(fault.seconds)
            self._cluster.events.note("healed", kind=fault.kind, target=fault.target)
        except Exception as error:
            self._cluster.events.violation("harness", f"{fault}: {type(error).__name__}: {error}")

    @contextmanager
    def _applied(self, fault: Fault) -> Iterator[bool]:
        cluster = self._cluster
        match fault.kind:
            case "kill":
                worker = cluster.job if fault.target == "job" else cluster.workers[fault.target]
                yield worker is not None and worker.kill()
            case "hang":
                worker = cluster.job if fault.target == "job" else cluster.workers[fault.target]
                done = worker is not None and worker.pause()
                yield done
                if done and worker is not None:
                    worker.resume()
            case "clock":
                worker = cluster.workers[fault.target]
                worker.step_clock(fault.amount)
                yield True
                worker.step_clock(0.0)
            case "store":
                with _taken(self._store) as free:
                    if free:
                        cluster.weather(fault.target, fault.share, fault.amount)
                    yield free
                    if free:
                        cluster.weather("pass")
            case "disk":
                with _taken(self._disk) as free:
                    free = free and cluster.small_disk
                    ballast = cluster.state / "ballast"
                    if free:
                        _fill(ballast)
                    yield free
                    if free:
                        ballast.unlink()
            case "leaders":
                yield _elected(cluster.bootstrap) > 0
            case "broker kill" | "broker hang":
                yield from self._broker(fault)
            case _:
                raise AssertionError(fault)

    def _broker(self, fault: Fault) -> Iterator[bool]:
        wanted = self._cluster.brokers if fault.target == "all" else [self._cluster.brokers[int(fault.target)]]
        with _taken(self._broker_lock) as free, ThreadPoolExecutor(len(wanted)) as pool:
            for server in wanted if free else ():
                server.kill() if fault.kind == "broker kill" else server.pause()
            yield free
            for future in [
                pool.submit(server.start if fault.kind == "broker kill" else server.resume)
                for server in (wanted if free else ())
            ]:
                future.result()


@contextmanager
def _taken(lock: threading.Lock) -> Iterator[bool]:
    """True if nobody else has it."""
    free = lock.acquire(blocking=False)
    try:
        yield free
    finally:
        if free:
            lock.release()


def _elected(bootstrap: str) -> int:
    """Partitions that have another leader now, by the election's own answer: metadata says so only a moment later."""
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        try:
            answer = admin.elect_leaders(0, raise_errors=False)
        finally:
            admin.close()
    except KafkaError:
        return 0  # brokers are dead or hang
    results = answer.replica_election_results
    return sum(one.error_code == 0 for topic in results for one in topic.partition_result)


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
