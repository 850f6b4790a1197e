"""Lines that have ended leave nothing: objects, threads and series after many of them are those after a few.

Not RSS, which says more of the allocator than of a leak; `python -m tests.bench.lines` measures that.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

from pipeline.cli.clearing import clear
from pipeline.deadline import Deadline
from pipeline.generations import transitions
from tests.unit.test_lines import SECONDS, Bench, running

WARM, CYCLES, DOCUMENTS = 2, 8, 6
#: What ``control`` keeps of a generation for ever, by design; several hold the state, one after another.
HISTORY = {"Generation", "Transition", "GenerationSpec", "ModelSpec", "ChunkingSpec"}


def cycle(bench: Bench, number: int) -> None:
    """A migration from its start to its end, to one of two dimensions; what was live is retired and removed."""
    before = bench.control.again().live
    assert before is not None
    bench.start(48 + 16 * (number % 2))
    target = bench.control.again().target
    assert target is not None
    id = target.id  # not the proposal's: each of its lives has one of its own
    bench.turn_until(lambda: bench.documents(id) == DOCUMENTS)
    bench.operate(lambda state: transitions.cut_over(state, id, None, time.time(), "a test"))
    bench.operate(lambda state: transitions.retire(state, before.id, time.time()))
    # Sampled while it was followed: where it was must not be kept either.
    bench.turn_until(lambda: list(bench.lines._lines) == [id])
    for thread in bench.lines._ending:
        thread.join(SECONDS)
    clear(bench.parts, before.id, Deadline.after(SECONDS))


@pytest.fixture
def bench(caplog: pytest.LogCaptureFixture) -> Iterator[Bench]:
    # pytest keeps records, with the partitions in them, if an earlier test has left the level at INFO.
    caplog.set_level(logging.CRITICAL, "pipeline")
    with running() as made:
        for number in range(DOCUMENTS):
            made.put(f"d{number}")
        yield made


def left(bench: Bench) -> Counter[str]:
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
    health = bench.parts.health
    found["health"] = len(health._beats) + len(health._parts) + len(health._progress)
    for metric in bench.parts.metrics.registry.collect():
        found[f"series {metric.name}"] = len(metric.samples)
    found["descriptors"] = psutil.Process().num_fds()
    return found


def test_a_line_that_has_ended_leaves_nothing(bench: Bench) -> None:
    for number in range(WARM):
        cycle(bench, number)
    before = left(bench)
    for number in range(WARM, WARM + CYCLES):
        cycle(bench, number)
    # Once a cycle, at least; what happens to be under way in a thread comes and goes by one or two.
    grown = {name: more for name, more in (left(bench) - before).items() if more >= CYCLES}
    assert not grown, f"after {CYCLES} more migrations there are more of {grown}"
