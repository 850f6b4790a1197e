"""What poison costs the good documents beside it: rounds with and without, alternating, over the same log.

The log is filled before the clock starts, so only the stages are measured: hashing embedder, embedded
log and store (or ``--kafka``). The good documents are the same on both sides.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.cli.assembly import opened
from pipeline.cli.index import Index
from pipeline.config import load
from pipeline.deadline import Deadline
from pipeline.ports import NewRecord
from tests.bench.corpus import descriptions
from tests.bench.setting import HASHING, machine, servers
from tests.support.poison import mixed, planted

_BATCH = 500
_WAIT_SECONDS = 3600.0
#: Names of threads: lanes and polling loops of the stages, and the model.
_STAGES = ("chunk", "embed", "write", "chunk-worker", "embed-worker", "model")


def texts(count: int, characters: int, seed: int) -> list[str]:
    """Distinct documents of paragraphs of real READMEs: none of their chunks is like another's."""
    rng = random.Random(seed)
    paragraphs = [part for one in descriptions() for part in one.text.split("\n\n") if 80 < len(part) < 1500]
    found = []
    for number in range(count):
        parts = [f"# Document {number}"]
        while sum(map(len, parts)) < characters:
            parts.append(f"({number}) {rng.choice(paragraphs)}")
        found.append("\n\n".join(parts) + "\n")
    return found


def seconds_of(records: Sequence[NewRecord], documents: int, settings: dict[str, Any]) -> tuple[float, float]:
    """From the start of the stages until so many documents have a head, and their threads' processor time."""
    with tempfile.TemporaryDirectory() as state:
        config = load(None, {}, state=state, pipeline__name=f"bench{time.monotonic_ns()}", **HASHING, **settings)
        with opened(config, "bench") as parts:
            index = Index(parts, {}, threading.Event())
            topic = parts.names.documents(config.pipeline.epoch)
            publisher = parts.broker.publisher("bench")
            for start in range(0, len(records), _BATCH):
                some = [replace(one, topic=topic) for one in records[start : start + _BATCH]]
                publisher.publish(some, Deadline.after(60))
            started = time.monotonic()
            index.start()
            try:
                while sum(index.collection.count_heads().values()) < documents:
                    if time.monotonic() - started > _WAIT_SECONDS:
                        raise TimeoutError(f"{documents} heads were not there after {_WAIT_SECONDS:.0f} s")
                    index.crew.wait(max(0.01, (time.monotonic() - started) / 200))
                return time.monotonic() - started, _worked()
            finally:
                index.close()


def _worked() -> float:
    """Seconds of processor time of the stages' threads. Others look around all the time, and so the more the longer
    a round takes, which on a machine with other work is chance.
    """
    clocks = [
        time.pthread_getcpuclockid(one.ident)
        for one in threading.enumerate()
        if one.ident is not None and one.name.partition("_")[0] in _STAGES
    ]
    return sum(map(time.clock_gettime, clocks))


def measure(
    documents: int, poison: int, rounds: int, characters: int, seed: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """Good documents a second with ``poison`` of the ``documents`` poisonous, and with only the good ones."""
    every, expected, _ = mixed("", texts(documents, characters, seed), poison, seed)
    alone, only, _ = mixed("", texts(documents, characters, seed), 0, seed)
    good = {path for path, becomes in expected.items() if becomes.state == "complete"}
    alone = [record for record, path in zip(alone, only, strict=True) if path in good]
    sides: dict[str, list[tuple[float, float]]] = {"with poison": [], "without": []}
    with planted():
        for turn in range(rounds):
            runs = [("with poison", every, len(expected)), ("without", alone, len(alone))]
            for side, records, heads in runs if turn % 2 == 0 else reversed(runs):
                sides[side].append(seconds_of(records, heads, settings))
            print({side: [round(one, 1) for one in rates[-1]] for side, rates in sides.items()}, flush=True)
    pairs = list(zip(sides["without"], sides["with poison"], strict=True))
    clock = [without[0] / with_[0] for without, with_ in pairs]
    worked = [without[1] / with_[1] for without, with_ in pairs]
    return {
        "documents": f"{documents}, {documents - len(good)} of them poison",
        "good documents/s": {
            side: round(len(good) / statistics.median(one for one, _ in took), 1) for side, took in sides.items()
        },
        "with poison / without": f"{statistics.median(clock):.3f} of rounds {', '.join(f'{one:.3f}' for one in clock)}",
        "by processor time": f"{statistics.median(worked):.3f} of rounds {', '.join(f'{one:.3f}' for one in worked)}",
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--documents", type=int, default=100_000)
    options.add_argument("--poison", type=int, default=10_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--characters", type=int, default=1_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--kafka", action="store_true", help="over a real Kafka and a loopback Qdrant")
    chosen = options.parse_args()
    print(machine())
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory()))
        settings = ending.enter_context(servers(folder)) if chosen.kafka else {}
        found = measure(chosen.documents, chosen.poison, chosen.rounds, chosen.characters, chosen.seed, settings)
    for name, value in found.items():
        print(f"{name:<24} {value}")


if __name__ == "__main__":
    main()
