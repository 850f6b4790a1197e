"""What it costs to prove that a collection equals its log, and to find fifty faults in a million chunks.

    python -m tests.bench.verification --chunks 1000000 --faults 50

The log is the embedded one and the store qdrant-edge, on the disk; documents of eight chunks are
written as the store protocol makes them, with vectors of two numbers, which change nothing here: verification
reads none. Then it is verified, spoilt by faults of every kind (tests/support/faults.py) in
documents drawn by the seed, verified, repaired and verified again.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.chunking.documents import made_of
from pipeline.codec import encode_event
from pipeline.deadline import Deadline
from pipeline.identity import DocumentKey, version_of
from pipeline.points import ChunkPoint, StoredChunk
from pipeline.ports import Collection, NewRecord
from pipeline.records import DocumentChanged, Provenance
from pipeline.store.edge import EdgeStore
from pipeline.store.memory import MemoryStore
from pipeline.sync import synchronise
from pipeline.verification import Verdict
from tests.bench.setting import machine
from tests.support.faults import FAULTS, Expected
from tests.support.indexes import EPOCH, GENERATION, SPEC, TOPIC, Index, cut, embed

_CHUNKS_OF_A_DOCUMENT = 8
_PUBLISHED = 500
_WRITTEN = 128


def measure(chunks: int, faults: int, seed: int) -> dict[str, Any]:
    """Load, verify, spoil, verify, repair, verify."""
    random_ = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        store = EdgeStore(Path(name) / "store")
        index = Index(broker=EmbeddedBroker(Path(name) / "log.db"), collection=store.create(SPEC))
        started = time.monotonic()
        documents = _load(index, chunks // _CHUNKS_OF_A_DOCUMENT)
        loaded = time.monotonic() - started
        first, in_order = _verified(index)
        assert in_order.pop("found") == set(), "nothing is wrong yet"
        expected: Expected = set()
        for number, place in enumerate(random_.sample(range(documents), faults)):
            expected |= FAULTS[number % len(FAULTS)](index, _key(place), random_)
        verdict, spoilt = _verified(index)
        found = spoilt.pop("found")
        begun = time.monotonic()
        done = index.repair(verdict.findings)
        repaired = time.monotonic() - begun
        verdict.close()
        last, after = _verified(index)
        first.close()
        last.close()
        index.broker.close()
        store.close()
        return {
            "documents, points": [documents, first.points],
            "loading, s": round(loaded, 1),
            "in order": in_order,
            "faults planted": f"{faults} of {len(FAULTS)} kinds, {len(expected)} findings",
            "spoilt": spoilt,
            "not found": len(expected - found),
            "found without being there": len(found - expected),
            "repair, s": round(repaired, 1),
            "repaired": done.as_json(),
            "findings after the repair": len(after["found"]),
        }


def _load(index: Index, documents: int) -> int:
    publisher = index.broker.publisher("bench")
    for start in range(0, documents, _PUBLISHED):
        records = [_record(number) for number in range(start, min(start + _PUBLISHED, documents))]
        publisher.publish(records, Deadline.after(60))
    reader, written = index.broker.reader(TOPIC), 0
    while not reader.caught_up():
        batch = []
        for record in reader.poll(0, _WRITTEN):
            made = made_of(record, version_of(EPOCH, record.offset), GENERATION, cut).document
            assert made is not None
            batch.append(made)
        # The protocol itself, in memory; its points are then written as they are, which is much quicker.
        made_in_memory = MemoryStore().create(SPEC)
        synchronise(made_in_memory, batch, embed)
        index.collection.upsert_chunks([_point(one) for one in _all_chunks(made_in_memory)], {})
        index.collection.insert_heads(made_in_memory.scan_heads(None, len(batch))[0])
        written += len(batch)
    index.collection.flush()
    index.committed = index.ends()
    return written


def _all_chunks(collection: Collection) -> list[StoredChunk]:
    chunks, after = collection.scan_chunks(None, _WRITTEN * _CHUNKS_OF_A_DOCUMENT, vectors=True)
    assert after is None
    return chunks


def _point(chunk: StoredChunk) -> ChunkPoint:
    assert chunk.vector is not None
    return ChunkPoint(
        chunk.id, chunk.doc, chunk.stamp, chunk.content_hash, chunk.text, chunk.filters, chunk.filter_hash, chunk.vector
    )


def _record(number: int) -> NewRecord:
    text = "|".join(f"paragraph {part} of document {number}" for part in range(_CHUNKS_OF_A_DOCUMENT))
    metadata = {"acl": f"team {number % 50}", "year": number % 30, "title": f"Document {number}"}
    event = DocumentChanged(_key(number), text, metadata, "text/plain", "digest", Provenance(1.0))
    return NewRecord(TOPIC, *encode_event(event))


def _key(number: int) -> DocumentKey:
    return DocumentKey("bench", f"folder {number % 97}/document {number}.md")


def _verified(index: Index) -> tuple[Verdict, dict[str, Any]]:
    steps: dict[str, float] = {}
    at = time.monotonic()

    def progress(step: str, done: int, whole: int) -> None:
        nonlocal at
        steps[step] = steps.get(step, 0.0) + time.monotonic() - at
        at = time.monotonic()

    with _peak() as peak:
        verdict = index.verify(wait=time.sleep, on_progress=progress)
    return verdict, {
        "found": {(one.name, one.kind) for one in verdict.findings},
        "seconds": round(verdict.seconds, 1),
        "of these": {step: round(seconds, 1) for step, seconds in steps.items()},
        "points read": verdict.points_read,
        "part of all, percent": round(100 * verdict.points_read / verdict.points, 3),
        "requests": verdict.requests,
        "unexplained cells": verdict.unexplained,
        "RSS grown by, MiB": round(peak[0]),
    }


@contextmanager
def _peak() -> Iterator[list[float]]:
    """How far above its start RSS was within it, in MiB."""
    process, over = psutil.Process(), threading.Event()
    start, peak = process.memory_info().rss, [0.0]

    def look() -> None:
        while not over.wait(0.05):
            peak[0] = max(peak[0], (process.memory_info().rss - start) / 2**20)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--chunks", type=int, default=1_000_000)
    options.add_argument("--faults", type=int, default=50)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    print(machine(), flush=True)
    print(json.dumps(measure(chosen.chunks, chosen.faults, chosen.seed), indent=1))


if __name__ == "__main__":
    main()
