"""What the benchmarks share: documents, a whole pipeline in this process, and the machine's name."""

from __future__ import annotations

import os
import platform
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pipeline.cli.assembly import Parts, opened
from pipeline.cli.given import folder_sources
from pipeline.cli.index import Index
from pipeline.config import load
from pipeline.errors import BrokerUnavailable
from pipeline.ports import Embedder
from tests.bench.corpus import descriptions
from tests.support.deployment import loopback_qdrant
from tests.support.kafka import KafkaServer

HASHING = {"model__provider": "hashing", "model__name": "hashing"}
MINILM: dict[str, Any] = {}
_WAIT_SECONDS = 900.0


def machine() -> str:
    """This machine in words, without its name."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}"


def write_documents(folder: Path, count: int, seed: int) -> None:
    """Distinct documents of some 400 words, paragraphs of real READMEs in an order of their own."""
    rng = random.Random(seed)
    paragraphs = [part for one in descriptions() for part in one.text.split("\n\n") if 80 < len(part) < 1500]
    folder.mkdir(parents=True)
    for number in range(count):
        parts = [f"# Document {number}"]
        while sum(map(len, parts)) < 2500:
            # A number in each: no two documents share a text, so nothing is reused.
            parts.append(f"({number}) {rng.choice(paragraphs)}")
        (folder / f"d{number:05}.md").write_text("\n\n".join(parts) + "\n")


@contextmanager
def servers(folder: Path) -> Iterator[dict[str, Any]]:
    """A real Kafka and a loopback Qdrant; the settings that lead there."""
    with ExitStack() as ending:
        (folder / "kafka").mkdir(parents=True)
        kafka = KafkaServer(folder / "kafka")
        kafka.start()
        ending.callback(kafka.stop)
        url = ending.enter_context(loopback_qdrant(folder / "qdrant"))
        yield {"broker": "kafka", "store": "qdrant", "kafka__bootstrap_servers": kafka.bootstrap, "qdrant__url": url}


@contextmanager
def running(
    documents: Path, settings: dict[str, Any], embedder: Embedder | None = None
) -> Iterator[tuple[Index, float]]:
    """A pipeline that has just synced ``documents`` into an empty index, and the seconds that it took."""
    with tempfile.TemporaryDirectory() as state:
        config = load(None, {}, state=state, pipeline__name=f"bench{time.monotonic_ns()}", **settings)
        with opened(config, "bench") as parts:
            index = _index(parts, documents, embedder)
            count = sum(1 for path in documents.iterdir() if path.is_file())
            started = time.monotonic()
            index.start()
            try:
                while index.collection.count_heads().get("complete", 0) < count:
                    if time.monotonic() - started > _WAIT_SECONDS:
                        raise TimeoutError(f"{count} documents were not in step after {_WAIT_SECONDS:.0f} s")
                    # Counting heads costs a millisecond: seldom enough not to be part of the result.
                    index.crew.wait(max(0.01, (time.monotonic() - started) / 200))
                yield index, time.monotonic() - started
            finally:
                index.close()


def _index(parts: Parts, documents: Path, embedder: Embedder | None) -> Index:
    """A Kafka that has just started has no coordinator for groups yet."""
    until = time.monotonic() + 60
    while True:
        try:
            return Index(parts, folder_sources((documents,)), threading.Event(), embedder)
        except BrokerUnavailable:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
