"""How fast a first sync is: the pipeline with its model against the model alone, in the same run."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from pipeline.cli.index import Index
from pipeline.embedding.batches import embed_all
from pipeline.ports import Embedder
from pipeline.sync import ToEmbed
from tests.bench.setting import HASHING, MINILM, machine, running, servers, write_documents

#: A part of a thread's name, and what it works for; the first that fits. The main thread only measures.
_STAGES = (
    ("kafka-io", "Kafka's client threads"),
    ("network-thread", "Kafka's client threads"),
    ("connector", "connector"),
    ("watch", "connector"),
    ("chunk", "chunk stage"),
    ("embed", "embed stage, but for its writing"),
    ("model", "embed stage, but for its writing"),
    ("write", "writing to the store"),
    ("MainThread", ""),
)
_OTHER = "threads of libraries without a name (store engine, tokenizer)"


def texts_of(index: Index) -> list[ToEmbed]:
    """The chunk texts of an index, in a random order of their ids."""
    found: list[ToEmbed] = []
    after = None
    while True:
        chunks, after = index.collection.scan_chunks(after)
        found += [ToEmbed(one.content_hash, one.text, 0) for one in chunks]
        if after is None:
            break
    counts = index.embedder.tokenizer.count([one.text for one in found])
    return [one._replace(tokens=count) for one, count in zip(found, counts, strict=True)]


def spent() -> dict[int, float]:
    """Seconds of processor time of each thread of this process so far, to the nanosecond."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return found


def shares(before: dict[int, float], servers: dict[str, float]) -> dict[str, str]:
    """The processor time since ``before``, by what it was for, with that of other processes."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    by_stage = dict(servers)
    for thread, seconds in spent().items():
        name = names.get(thread, _OTHER)
        stage = next((stage for part, stage in _STAGES if part in name), name)
        if stage:
            by_stage[stage] = by_stage.get(stage, 0.0) + seconds - before.get(thread, 0.0)
    whole = sum(by_stage.values())
    ranked = sorted(by_stage.items(), key=lambda item: -item[1])
    return {stage: f"{100 * seconds / whole:.0f} %" for stage, seconds in ranked if seconds / whole >= 0.005}


def servers_spent() -> dict[str, float]:
    """Seconds of processor time of the processes beside this one so far."""
    found: dict[str, float] = {}
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            times, name = child.cpu_times(), "Kafka, the broker" if "java" in child.name() else "loopback Qdrant"
            found[name] = found.get(name, 0.0) + times.user + times.system
    return found


def with_model(documents: Path, rounds: int) -> dict[str, Any]:
    """chunks/s of the whole pipeline, of plain ``encode`` and of the best batching of the same model."""
    embedder: Embedder | None = None
    texts: list[ToEmbed] = []
    sides: dict[str, list[float]] = {"pipeline": [], "plain encode(batch_size=32)": [], "best batches alone": []}
    for _ in range(rounds):
        with running(documents, MINILM, embedder) as (index, seconds):
            embedder, texts = index.embedder, texts_of(index)
            limits = index.parts.config.embed
        sides["pipeline"].append(len(texts) / seconds)
        model = embedder._embedder._model
        started = time.monotonic()
        model.encode([one.text for one in texts], batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        sides["plain encode(batch_size=32)"].append(len(texts) / (time.monotonic() - started))
        started = time.monotonic()
        embed_all(embedder, texts, limits.batch_tokens, limits.batch_items)
        sides["best batches alone"].append(len(texts) / (time.monotonic() - started))
        # A round takes a quarter of an hour: one that is cut off must not take the others with it.
        print({name: round(values[-1], 1) for name, values in sides.items()}, flush=True)
    medians = {name: statistics.median(values) for name, values in sides.items()}
    pairs = list(zip(*sides.values(), strict=True))
    return {
        "chunks": len(texts),
        "tokens": sum(one.tokens for one in texts),
        "chunks/s": {name: round(value, 1) for name, value in medians.items()},
        "pipeline / plain": round(statistics.median(a / b for a, b, _ in pairs), 3),
        "pipeline / best": round(statistics.median(a / c for a, _, c in pairs), 3),
    }


def without_model(documents: Path, rounds: int, settings: dict[str, Any]) -> dict[str, Any]:
    """chunks/s with the hashing embedder, so that only the pipeline is measured."""
    rates, chunks, parts = [], 0, {}
    for _ in range(rounds):
        threads, others = spent(), servers_spent()
        with running(documents, {**HASHING, **settings}) as (index, seconds):
            parts = shares(threads, {name: now - others.get(name, 0.0) for name, now in servers_spent().items()})
            chunks = index.collection.count_chunks()
            rates.append(chunks / seconds)
    return {"chunks": chunks, "chunks/s": round(statistics.median(rates)), "processor time": parts}


def measure(documents: int, rounds: int, *, kafka: bool = True) -> dict[str, Any]:
    """All of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_documents(folder / "docs", documents, seed=1)
        result: dict[str, Any] = {
            "documents": documents,
            "rounds": rounds,
            "minilm": with_model(folder / "docs", rounds),
        }
        result["hashing, embedded"] = without_model(folder / "docs", rounds, {})
        if kafka:
            with servers(folder) as settings:
                result["hashing, kafka + loopback qdrant"] = without_model(folder / "docs", rounds, settings)
    return result


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--documents", type=int, default=400)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    print(machine())
    for name, value in measure(chosen.documents, chosen.rounds).items():
        print(f"{name:<36} {value}")


if __name__ == "__main__":
    main()
