"""How fresh the index is: from the save of a file to searchable, one edit after the other.

    python -m tests.bench.freshness
    python -m tests.bench.freshness --patrol 4000

With ``--patrol`` so many documents are verified over and over meanwhile, in turns with rounds without.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline.cli.index import Index
from pipeline.cli.patrolling import patrol_of
from pipeline.config import VerifyConfig
from pipeline.errors import Transient
from pipeline.identity import DocumentKey
from pipeline.verification.patrol import Pacer
from tests.bench.setting import HASHING, MINILM, machine, running, servers, write_documents

_DOCUMENTS = 100
_WAIT_SECONDS = 30.0


def edits(index: Index, documents: Path, count: int) -> list[float]:
    """Milliseconds from before the write of a file until its head is of the new version."""
    rng = random.Random(1)
    paths = sorted(documents.iterdir())
    found = []
    for number in range(count):
        path = paths[number % (len(paths) // 2)]
        key = DocumentKey(documents.name, path.name)
        before = index.collection.heads([key.doc])[key.doc].stamp
        text = path.read_text() + f"\nSentence {number} of {time.time_ns()}.\n"
        started = time.perf_counter()
        path.write_text(text)
        while index.collection.heads([key.doc])[key.doc].stamp == before:
            if time.perf_counter() - started > _WAIT_SECONDS:
                raise TimeoutError(f"{path.name} was not in step after {_WAIT_SECONDS:.0f} s")
            time.sleep(0.0005)
        found.append((time.perf_counter() - started) * 1000)
        time.sleep(rng.uniform(0.02, 0.06))
    return found


def capacity(index: Index, documents: Path) -> float:
    """Edits a second that the pipeline can follow: half of the documents, all at once."""
    paths = sorted(documents.iterdir())[_DOCUMENTS // 2 :]
    docs = [DocumentKey(documents.name, path.name).doc for path in paths]
    before = {doc: head.stamp for doc, head in index.collection.heads(docs).items()}
    started = time.perf_counter()
    for path in paths:
        path.write_text(path.read_text() + f"\nAt once, {time.time_ns()}.\n")
    while any(head.stamp == before[doc] for doc, head in index.collection.heads(docs).items()):
        if time.perf_counter() - started > _WAIT_SECONDS:
            raise TimeoutError(f"{len(docs)} edits were not in step after {_WAIT_SECONDS:.0f} s")
        time.sleep(0.005)
    return len(docs) / (time.perf_counter() - started)


@contextmanager
def load_of(documents: Path, every_seconds: float) -> Iterator[None]:
    """Somebody else edits the other half of the documents all the time."""
    stop = threading.Event()
    paths = sorted(documents.iterdir())[_DOCUMENTS // 2 :]

    def write() -> None:
        number = 0
        while not stop.wait(every_seconds):
            path = paths[number % len(paths)]
            path.write_text(path.read_text()[-4000:] + f"\nLoad {number} of {time.time_ns()}.\n")
            number += 1

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def measure(count: int, settings: dict[str, Any]) -> dict[str, Any]:
    """p50, p95 and p99 in milliseconds: idle, and while others edit half as fast as it can follow."""
    with tempfile.TemporaryDirectory() as name:
        documents = Path(name) / "docs"
        write_documents(documents, _DOCUMENTS, seed=2)
        with running(documents, settings) as (index, _):
            idle = quantiles(edits(index, documents, count))
            every = 2 / statistics.median(capacity(index, documents) for _ in range(3))
            with load_of(documents, every):
                loaded = quantiles(edits(index, documents, count))
        return {"idle": idle, f"half load (another edit every {every * 1000:.0f} ms)": loaded}


@contextmanager
def verified_at(index: Index, per_second: float) -> Iterator[list[float]]:
    """The live generation is verified over and over, as the patrol does it; yields, once the first has waited until
    the log is applied and reads it, the seconds that each took.
    """
    stop, reads, took = threading.Event(), threading.Event(), list[float]()
    pause = Pacer.pause

    def read(pacer: Pacer, done: int) -> None:
        reads.set()
        pause(pacer, done)

    parts = index.parts
    verify = parts.config.verify.model_copy(update={"documents_per_second": per_second})
    parts = replace(parts, config=parts.config.model_copy(update={"verify": verify}))
    patrol = patrol_of(parts, index.control, index.models, index.lines)

    def run() -> None:
        while not stop.is_set():
            started = time.monotonic()
            try:
                patrol.verify(index.spec.id, stop)
            except Transient:  # stopped, or never caught up
                continue
            took.append(time.monotonic() - started)

    thread = threading.Thread(target=run, daemon=True)
    with mock.patch.object(Pacer, "pause", read):
        thread.start()
        try:
            if not reads.wait(_WAIT_SECONDS):
                raise TimeoutError(f"no verification read the log within {_WAIT_SECONDS:.0f} s")
            yield took
        finally:
            stop.set()
            thread.join()


def beside_patrol(count: int, documents: int, rounds: int, settings: dict[str, Any]) -> dict[str, Any]:
    """p50, p95 and p99 in milliseconds without the patrol, with it at its default rate and at ten times that, and
    the median over rounds of what it multiplies p50 and p95 by; rounds of all three in turns.
    """
    usual = VerifyConfig().documents_per_second
    rates = {"without": 0.0, f"{usual:.0f}/s": usual, f"{10 * usual:.0f}/s": 10 * usual}
    found: dict[str, list[list[float]]] = {name: [] for name in rates}
    complete = dict.fromkeys(rates, 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "docs"
        write_documents(folder, documents, seed=2)
        with running(folder, {**settings, "verify__every_seconds": 0}) as (index, _):
            chunks = index.collection.count_chunks()
            edits(index, folder, count)  # warm
            for turn in range(rounds):
                order = list(rates.items())
                for side, rate in order[turn % 3 :] + order[: turn % 3]:
                    with ExitStack() as ending:
                        took = ending.enter_context(verified_at(index, rate) if rate else nullcontext([]))
                        found[side].append(edits(index, folder, count))
                        complete[side] += len(took)
                loads = ", ".join(f"{one:.1f}" for one in os.getloadavg())
                print({side: quantiles(one[-1]) for side, one in found.items()}, f"load {loads}", flush=True)
    result: dict[str, Any] = {"documents, chunks": f"{documents}, {chunks}"}
    for side, times in found.items():
        result[side] = quantiles([one for some in times for one in some])
        if rates[side]:
            pairs = [(quantiles(one), quantiles(base)) for one, base in zip(times, found["without"], strict=True)]
            for point in ("p50", "p95"):
                ratio = statistics.median(one[point] / base[point] for one, base in pairs)
                result[side] |= {f"{point} / without": round(ratio, 2)}
            result[side] |= {"verified": complete[side]}
    return result


def quantiles(values: list[float]) -> dict[str, float]:
    """p50, p95 and p99."""
    cuts = statistics.quantiles(values, n=100)
    return {"p50": round(cuts[49], 1), "p95": round(cuts[94], 1), "p99": round(cuts[98], 1)}


def all_of(count: int, *, kafka: bool = True) -> dict[str, Any]:
    """Embedded and, with a real Kafka and a loopback Qdrant, as workers have it."""
    result = {
        "embedded, hashing": measure(count, HASHING),
        "embedded, MiniLM": measure(count, MINILM),
    }
    if kafka:
        with tempfile.TemporaryDirectory() as name, servers(Path(name)) as settings:
            result["kafka, MiniLM"] = measure(count, {**MINILM, **settings})
    return result


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--edits", type=int, default=150)
    options.add_argument("--patrol", type=int, metavar="DOCUMENTS", help="beside a patrol of so many documents")
    options.add_argument("--rounds", type=int, default=6, help="of each, with --patrol")
    chosen = options.parse_args()
    print(machine())
    if chosen.patrol:
        found = beside_patrol(chosen.edits, chosen.patrol, chosen.rounds, HASHING)
    else:
        found = all_of(chosen.edits)
    for name, value in found.items():
        print(f"{name:<20} {value}")


if __name__ == "__main__":
    main()
