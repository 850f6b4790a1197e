"""Is memory flat? ``vectide up`` in a process of its own, edited all the time, its RSS over minutes.

    python -m tests.bench.memory --minutes 30

Documents are edited, made, renamed and deleted by a seeded writer; their number stays near the
first. The first quarter is warming up: growth is the last quarter's median against the second's.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.bench.setting import machine, write_documents
from tests.support.deployment import Deployment

_SAMPLE_SECONDS = 5.0
#: A small bound, so that the cache is full before the second quarter and its filling is no growth.
_CACHE = "[embed]\nrecent_vectors_bytes = 4194304\n"
_CONFIGURATIONS = {
    "hashing": '[model]\nprovider = "hashing"\nname = "hashing"\n' + _CACHE,
    "minilm": _CACHE,
}


class Writer:
    """Changes one document at a time."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._rng = random.Random(seed)
        self._paths = sorted(folder.iterdir())
        self._made = 0
        self.changes = 0

    def change(self) -> None:
        """An edit mostly; else a rename, or a delete with a new document in its place."""
        rng, place = self._rng, self._rng.randrange(len(self._paths))
        path = self._paths[place]
        self.changes += 1
        kind = rng.random()
        if kind < 0.8:
            parts = path.read_text().split("\n\n")
            parts[rng.randrange(len(parts))] = f"Paragraph {self.changes}: " + " ".join(
                f"w{rng.randrange(5_000)}" for _ in range(rng.randrange(20, 80))
            )
            path.write_text("\n\n".join(parts))
            return
        self._made += 1
        # From a bounded set: the head of a deleted document stays, so ever new names would be growth.
        other = next(
            name
            for _ in range(1000)
            if not (name := self._folder / f"n{rng.randrange(2 * len(self._paths)):06}.md").exists()
        )
        if kind < 0.9:
            path.rename(other)
        else:
            other.write_text(path.read_text().replace("Document", f"Document {self._made} of"))
            path.unlink()
        self._paths[place] = other


def measure(minutes: float, model: str, documents: int, per_second: float, seed: int) -> dict[str, Any]:
    """Samples of RSS in MiB, and what they say."""
    with tempfile.TemporaryDirectory() as name:
        made = Deployment(Path(name), _CONFIGURATIONS[model])
        try:
            made.documents.rmdir()
            write_documents(made.documents, documents, seed)
            up = made.start("up", "docs")
            made.quiet(documents)
            process, writer = psutil.Process(up.process.pid), Writer(made.documents, seed)
            samples: list[float] = []
            mapped: list[float] = []
            started = time.monotonic()
            while (elapsed := time.monotonic() - started) < minutes * 60:
                if elapsed >= len(samples) * _SAMPLE_SECONDS:
                    memory = process.memory_info()
                    samples.append(memory.rss / 2**20)
                    mapped.append(memory.shared / 2**20)
                writer.change()
                time.sleep(1 / per_second)
            status = made.quiet(documents)
            differences = []
            if up.stop() == 0:
                differences = made.embedded_differences("docs")
        finally:
            made.end()
    quarter = max(1, len(samples) // 4)

    def quarters(values: list[float]) -> tuple[float, float]:
        return statistics.median(values[quarter : 2 * quarter]), statistics.median(values[-quarter:])

    second, last = quarters(samples)
    own = [rss - files for rss, files in zip(samples, mapped, strict=True)]
    return {
        "model": model,
        "minutes": minutes,
        "changes": writer.changes,
        "chunks embedded": status["chunks_embedded"],
        "store differs from files": len(differences),
        "RSS MiB at start, second quarter, last quarter": [round(samples[0]), round(second), round(last)],
        "without mapped files": [round(own[0]), *map(round, quarters(own))],
        "highest": round(max(samples)),
        "growth percent": round(100 * (last / second - 1), 1),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=30.0)
    options.add_argument("--model", choices=sorted(_CONFIGURATIONS), default="hashing")
    options.add_argument("--documents", type=int, default=300)
    options.add_argument("--per-second", type=float, default=10.0)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    print(machine(), flush=True)
    print(json.dumps(measure(chosen.minutes, chosen.model, chosen.documents, chosen.per_second, chosen.seed), indent=1))


if __name__ == "__main__":
    main()
