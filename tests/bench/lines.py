"""What lines leave behind: workers that see hundreds of migrations come and go, and what each is larger by.

    python -m tests.bench.lines
    python -m tests.bench.lines --set MALLOC_ARENA_MAX=2

A chunk worker and an embed worker, each a process of its own, over a real Kafka and a loopback Qdrant. A cycle is
edits and a migration to another dimension: built, live, rolled back, live again, the old one retired and removed.
Of each worker now and then: RSS, what of it ``malloc`` has given out, Python's objects, threads, descriptors; in MiB.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from pipeline.cli.assembly import Followed, Models, Parts, apply_topics, founded, opened
from pipeline.cli.clearing import clear
from pipeline.cli.crew import Crew
from pipeline.cli.figures import live_lag
from pipeline.cli.lines import Lines
from pipeline.cli.process import Pulse, reporter
from pipeline.codec import encode_event
from pipeline.config import Config, load
from pipeline.deadline import Deadline
from pipeline.embedding.generation import generation_spec
from pipeline.errors import Fatal, Transient
from pipeline.generations import operator, transitions
from pipeline.generations.control import read
from pipeline.identity import DocumentKey
from pipeline.ports import NewRecord
from pipeline.records import DocumentChanged, Provenance
from pipeline.specs import GenerationSpec
from tests.bench.setting import HASHING, machine, servers

_WAIT_SECONDS = 120.0
_DIMENSIONS = (256, 384)
#: Kept small, so that they are full before the first sample.
_SMALL = {"embed__recent_vectors_bytes": 1 << 20, "embed__delete_grace_seconds": 0.5, "work__drain_seconds": 5.0}


# ------------------------------------------------------------------------ the worker's side


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
        )
    ]  # fmt: skip


def _allocated() -> dict[str, float]:
    """MiB that glibc's malloc has from the system, has given out, and keeps free."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = _Mallinfo
    info = libc.mallinfo2()
    return {
        "malloc, given out": round((info.uordblks + info.hblkhd) / 2**20, 2),
        "malloc, free": round(info.fordblks / 2**20, 2),
    }


def _sample(trim: bool, types: bool) -> dict[str, Any]:
    gc.collect()
    process = psutil.Process()
    found: dict[str, Any] = {"RSS": round(process.memory_info().rss / 2**20, 2), **_allocated()}
    if trim:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        found["RSS, trimmed"] = round(process.memory_info().rss / 2**20, 2)
    objects = gc.get_objects()
    found |= {
        "objects": len(objects),
        "blocks": sys.getallocatedblocks(),
        "threads": threading.active_count(),
        "descriptors": process.num_fds(),
    }
    if types:
        found["types"] = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in objects).most_common(400)
    return found


def _work(stages: tuple[Any, ...], config: Config) -> None:
    """One worker; each line of standard input is answered with a sample."""
    with opened(config, f"bench-{stages[0]}") as parts:
        control, models, crew = Followed(parts), Models(config), Crew(threading.Event())
        lines = Lines(
            parts, control, models, stages, on_state=lambda now: models.keep(one.spec for one in now.followed)
        )
        lines.start_live(founded(parts))
        report = reporter(parts.broker, parts.names, stages[0], "", parts.health, parts.metrics)
        crew.start("lines", lines.run)
        crew.start("pulse", Pulse([report.tick, lambda: len(parts.metrics.exposition())]).run)
        parts.health.set_started()
        print("ready", flush=True)
        for line in sys.stdin:
            if line.startswith("followed"):
                ending = [one for one in lines._ending if one.is_alive()]
                print(json.dumps([*sorted(lines._lines), len(ending)]), flush=True)
                continue
            asked = json.loads(line)
            crew.raise_failure()
            print(json.dumps(_sample(asked["trim"], asked["types"])), flush=True)
        crew.end(Deadline.after(30))
        control.close()
        report.end()


# ------------------------------------------------------------------------ the driver's side


class Worker:
    """A worker in a process of its own."""

    def __init__(self, stages: str, settings: dict[str, Any], environment: dict[str, str]) -> None:
        self.name = stages
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.lines", "--worker", stages, "--settings", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        assert self._said() == "ready"

    def ask(self, **what: Any) -> dict[str, Any]:
        """A sample."""
        found: dict[str, Any] = json.loads(self._asked(json.dumps(what)))
        return found

    @property
    def followed(self) -> list[Any]:
        """The generations that have a line there, and how many lines are ending."""
        found: list[Any] = json.loads(self._asked("followed"))
        return found

    def end(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _asked(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._said()

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


class Migrations:
    """Documents, edits of them, and migrations."""

    def __init__(self, parts: Parts, workers: list[Worker], documents: int) -> None:
        self._parts, self._workers, self._documents = parts, workers, documents
        self._rng = random.Random(1)
        self._publisher = parts.broker.publisher("bench")
        self._edits = 0

    def publish(self, paths: list[int]) -> None:
        """New texts of these documents."""
        records = []
        for path in paths:
            self._edits += 1
            words = " ".join(f"w{self._rng.randrange(5000)}" for _ in range(300))
            event = DocumentChanged(
                DocumentKey("s", f"d{path}"), f"Edit {self._edits}. {words}", {}, "text/plain", f"{self._edits}",
                Provenance(time.time()),
            )  # fmt: skip
            records.append(NewRecord(self._parts.names.documents(0), *encode_event(event)))
        self._publisher.publish(records, Deadline.after(30))

    def edit(self, count: int) -> None:
        """Edits of documents by chance."""
        self.publish([self._rng.randrange(self._documents) for _ in range(count)])

    def settled(self) -> None:
        """Wait until all edits are applied and committed."""
        self._until(lambda: live_lag(self._parts, self._live_spec()) == 0)

    def cycle(self, spec: GenerationSpec) -> None:
        """One migration, from its start until nothing of the old generation is left."""
        now = time.time
        before = self._live_spec().id
        self._operate(lambda state: transitions.start(state, spec, now()))
        target = read(self._parts.broker, self._parts.names).target
        assert target is not None
        id = target.id
        self._until(lambda: self._heads(id) == self._documents)
        self.edit(5)
        self._operate(lambda state: transitions.cut_over(state, id, None, now(), "bench"))
        self._operate(lambda state: transitions.roll_back(state, now()))
        self._operate(lambda state: transitions.cut_over(state, id, None, now(), "bench"))
        self._operate(lambda state: transitions.retire(state, before, now()))
        self._until(lambda: all(one.followed == [id, 0] for one in self._workers))
        clear(self._parts, before, Deadline.after(_WAIT_SECONDS))

    def _operate(self, decide: operator.Decision) -> None:
        operator.operate(self._parts.broker, self._parts.names, decide)

    def _live_spec(self) -> GenerationSpec:
        live = read(self._parts.broker, self._parts.names).live
        assert live is not None
        return live.spec

    def _heads(self, id: str) -> int:
        name = self._parts.names.collection(id)
        try:
            return self._parts.store.open(name).count_heads().get("complete", 0)
        except (Fatal, Transient):  # not made yet, or not all of it
            return 0

    @staticmethod
    def _until(true: Callable[[], bool]) -> None:
        until = time.monotonic() + _WAIT_SECONDS
        while not true():
            if time.monotonic() > until:
                raise TimeoutError("a worker did not follow")
            time.sleep(0.05)


def _until_founded(parts: Parts) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            apply_topics(parts)
            founded(parts)
            return
        except Transient:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


@contextmanager
def _migrations(environment: dict[str, str], documents: int) -> Iterator[tuple[Migrations, list[Worker], Config]]:
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory()))
        settings: dict[str, Any] = {**HASHING, **_SMALL, **ending.enter_context(servers(folder))}
        settings |= {"pipeline__partitions": 6, "state": str(folder / "state")}
        config = load(None, {}, **settings)
        parts = ending.enter_context(opened(config, "bench"))
        _until_founded(parts)
        workers = []
        for stage in ("chunk", "embed"):
            workers.append(Worker(stage, settings, environment))
            ending.callback(workers[-1].end)
        migrations = Migrations(parts, workers, documents)
        migrations.publish(list(range(documents)))
        yield migrations, workers, config


def measure(
    cycles: int,
    every: int,
    documents: int,
    edits: int,
    environment: dict[str, str],
    *,
    types: bool,
    migrating: bool,
) -> dict[str, str]:
    """Prints samples; by worker, what a cycle has left behind since the first of them."""
    with _migrations(environment, documents) as (migrations, workers, config):
        specs = [
            generation_spec(config.model_copy(update={"model": config.model.model_copy(update={"dimension": size})}))
            for size in _DIMENSIONS
        ]
        if specs[0].fingerprint == generation_spec(config).fingerprint:
            specs.reverse()
        samples: dict[str, list[dict[str, Any]]] = {one.name: [] for one in workers}
        kinds: dict[str, Counter[str]] = {}
        for cycle in range(cycles + 1):
            if cycle % every == 0:
                for one in workers:
                    found = one.ask(trim=cycle == cycles, types=types)
                    counted = Counter(dict(found.pop("types", [])))
                    print(cycle, one.name, found, flush=True)
                    more = counted - kinds.get(one.name, counted)
                    if more:
                        print("   ", more.most_common(25), flush=True)
                    kinds[one.name] = counted
                    samples[one.name].append(found)
            if cycle < cycles:
                migrations.edit(edits)
                if migrating:
                    migrations.cycle(specs[cycle % 2])
                else:
                    migrations.settled()
    # The first cycles fill what is bounded: threads' heaps, connections, caches.
    first, last = every, cycles
    return {
        f"{name}: a cycle, from {first} to {last}": ", ".join(
            f"{what} {(some[-1][what] - some[1][what]) / (last - first):+.2f}" for what in some[1]
        )
        for name, some in samples.items()
        if last > first
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cycles", type=int, default=24)
    options.add_argument("--every", type=int, default=8, help="cycles between two samples")
    options.add_argument("--documents", type=int, default=100)
    options.add_argument("--edits", type=int, default=20, help="before each cycle")
    options.add_argument("--edits-only", action="store_true", help="no migrations: a cycle is its edits alone")
    options.add_argument("--types", action="store_true", help="and of which types there are more objects")
    options.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="in the workers' environment")
    options.add_argument("--worker", help=argparse.SUPPRESS)
    options.add_argument("--settings", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.worker:
        _work(tuple(chosen.worker.split(",")), load(None, {}, **json.loads(chosen.settings)))
        return
    print(machine(), flush=True)
    environment = dict(one.split("=", 1) for one in chosen.set)
    found = measure(
        chosen.cycles,
        chosen.every,
        chosen.documents,
        chosen.edits,
        environment,
        types=chosen.types,
        migrating=not chosen.edits_only,
    )
    for name, value in found.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
