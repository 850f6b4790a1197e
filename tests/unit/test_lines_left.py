"""Lines that have ended leave nothing: objects, threads and series after many of them are those after a few.

Not RSS, which says more of the allocator than of a leak; `python -m tests.bench.lines` measures that.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import psutil
import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.cli.assembly import Followed, Models, Parts, apply_topics, founded
from pipeline.cli.clearing import clear
from pipeline.cli.lines import Lines
from pipeline.codec import encode_event
from pipeline.config import Config, EmbedConfig, ModelConfig, PipelineConfig, WorkConfig
from pipeline.deadline import Deadline
from pipeline.embedding.generation import generation_spec
from pipeline.generations import operator, transitions
from pipeline.identity import DocumentKey
from pipeline.naming import Names
from pipeline.ports import NewRecord
from pipeline.records import DocumentChanged, Provenance
from pipeline.store.memory import MemoryStore

SECONDS = 20.0
CONFIG = Config(
    pipeline=PipelineConfig(prefix="t", name="p", partitions=2),
    model=ModelConfig(provider="hashing", name="hashing"),
    work=WorkConfig(drain_seconds=2.0, commit_seconds=0.05),
    embed=EmbedConfig(flush_seconds=0.05, delete_grace_seconds=0.2),
)
WARM, CYCLES, DOCUMENTS = 2, 8, 6
#: What ``control`` keeps of a generation for ever, by design; several hold the state, one after another.
HISTORY = {"Generation", "Transition", "GenerationSpec", "ModelSpec", "ChunkingSpec"}


class Migrations:
    """Both stages of a pipeline without a server, and migrations from their start to their end."""

    def __init__(self) -> None:
        self.broker = EmbeddedBroker(None)
        self.parts = Parts(CONFIG, Names("t", "p"), self.broker, MemoryStore())
        apply_topics(self.parts)
        state = founded(self.parts)
        self.control, self.models = Followed(self.parts), Models(CONFIG)
        self.lines = Lines(
            self.parts,
            self.control,
            self.models,
            ("chunk", "embed"),
            on_state=lambda now: self.models.keep(one.spec for one in now.followed),
        )
        self.lines.start_live(state)
        events = [
            DocumentChanged(DocumentKey("s", f"d{number}"), f"text {number}", {}, "text/plain", "d", Provenance(1.0))
            for number in range(DOCUMENTS)
        ]
        records = [NewRecord(self.parts.names.documents(0), *encode_event(event)) for event in events]
        self.broker.publisher("t").publish(records, Deadline.after(5))

    def turn_until(self, true: Callable[[], bool]) -> None:
        until = time.monotonic() + SECONDS
        while not true():
            assert time.monotonic() < until, "it never came true"
            self.lines._turn()
            time.sleep(0.01)

    def cycle(self, number: int) -> None:
        """To one of two dimensions; what was live is retired and removed."""
        before = self.control.again().live
        assert before is not None
        model = CONFIG.model.model_copy(update={"dimension": 48 + 16 * (number % 2)})
        spec = generation_spec(CONFIG.model_copy(update={"model": model}))
        self.operate(lambda state: transitions.start(state, spec, time.time()))
        target = self.control.again().target
        assert target is not None
        id = target.id
        self.turn_until(lambda: self.built(id))
        self.operate(lambda state: transitions.cut_over(state, id, None, time.time(), "a test"))
        self.operate(lambda state: transitions.retire(state, before.id, time.time()))
        # Sampled while it was followed: where it was must not be kept either.
        self.turn_until(lambda: list(self.lines._lines) == [id])
        for thread in self.lines._ending:
            thread.join(SECONDS)
        clear(self.parts, before.id, Deadline.after(SECONDS))

    def built(self, id: str) -> bool:
        name = self.parts.names.collection(id)
        there = self.parts.store.names(name)
        return bool(there) and self.parts.store.open(name).count_heads().get("complete", 0) == DOCUMENTS

    def operate(self, decide: operator.Decision) -> None:
        operator.operate(self.broker, self.parts.names, decide)


@pytest.fixture
def migrations() -> Iterator[Migrations]:
    made = Migrations()
    yield made
    for line in made.lines._lines.values():
        assert line.end()
    made.control.close()
    made.broker.close()


def left(migrations: Migrations) -> Counter[str]:
    """What there is now: our objects by type, threads by name, series of metrics, what health remembers."""
    gc.collect()
    found: Counter[str] = Counter()
    for one in gc.get_objects():
        kind = type(one)
        module = str(kind.__module__)
        if module.startswith(("pipeline.", "threading", "queue", "concurrent.")) and kind.__name__ not in HISTORY:
            found[f"{module}.{kind.__qualname__}"] += 1
    for thread in threading.enumerate():
        found[f"thread {thread.name}"] += 1
    health = migrations.parts.health
    found["health"] = len(health._beats) + len(health._parts) + len(health._progress)
    for metric in migrations.parts.metrics.registry.collect():
        found[f"series {metric.name}"] = len(metric.samples)
    found["descriptors"] = psutil.Process().num_fds()
    return found


def test_a_line_that_has_ended_leaves_nothing(migrations: Migrations) -> None:
    for number in range(WARM):
        migrations.cycle(number)
    before = left(migrations)
    for number in range(WARM, WARM + CYCLES):
        migrations.cycle(number)
    # Once a cycle, at least; what happens to be under way in a thread comes and goes by one or two.
    grown = {name: more for name, more in (left(migrations) - before).items() if more >= CYCLES}
    assert not grown, f"after {CYCLES} more migrations there are more of {grown}"
