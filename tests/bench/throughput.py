"""How fast a first sync is: the pipeline with its model against the model alone, in the same run."""

from __future__ import annotations

import argparse
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

#: What a thread's name starts with, and the stage that it works for.
_STAGES = (
    ("connector", "connector"),
    ("watch", "connector"),
    ("chunk", "chunk stage"),
    ("embed", "embed stage, but for its writing"),
    ("model", "embed stage, but for its writing"),
    ("write", "writing to the store"),
)


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


def shares() -> dict[str, str]:
    """The processor time of this process so far, by what its threads are for."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    spent: dict[str, float] = {}
    for one in psutil.Process().threads():
        name = names.get(one.id, "threads of the engines (store, tokenizer, model)")
        stage = next((stage for start, stage in _STAGES if name.startswith(start)), name)
        spent[stage] = spent.get(stage, 0.0) + one.user_time + one.system_time
    whole = sum(spent.values())
    ranked = sorted(spent.items(), key=lambda item: -item[1])
    return {stage: f"{100 * seconds / whole:.0f} %" for stage, seconds in ranked if seconds / whole >= 0.005}


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
    rates, chunks, spent = [], 0, {}
    for _ in range(rounds):
        with running(documents, {**HASHING, **settings}) as (index, seconds):
            chunks = index.collection.count_chunks()
            rates.append(chunks / seconds)
            spent = shares()
    return {"chunks": chunks, "chunks/s": round(statistics.median(rates)), "processor time of the process": spent}


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
