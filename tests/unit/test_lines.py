"""Lines follow control: which start, which end, and what a failing one takes with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.cli.assembly import Followed, Models, Parts, apply_topics, founded
from pipeline.cli.lines import Lines
from pipeline.codec import encode_event
from pipeline.config import Config, EmbedConfig, ModelConfig, PipelineConfig, WorkConfig
from pipeline.deadline import Deadline
from pipeline.embedding.generation import generation_spec
from pipeline.errors import ConfigError, Fatal, NotAllowed, StoreUnavailable
from pipeline.generations import operator, transitions
from pipeline.generations.control import Generation
from pipeline.identity import DocumentKey
from pipeline.naming import Names
from pipeline.ports import Embedder, NewRecord, Publisher, TransactionalPublisher
from pipeline.records import DocumentChanged, Provenance
from pipeline.specs import GenerationSpec
from pipeline.store.memory import MemoryStore

SECONDS = 20.0
CONFIG = Config(
    pipeline=PipelineConfig(prefix="t", name="p", partitions=2),
    model=ModelConfig(provider="hashing", name="hashing"),
    work=WorkConfig(drain_seconds=2.0, commit_seconds=0.05),
    embed=EmbedConfig(flush_seconds=0.05, delete_grace_seconds=0.2),
)


def other(dimension: int) -> GenerationSpec:
    return generation_spec(
        CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"dimension": dimension})})
    )


@dataclass
class Bench:
    parts: Parts
    control: Followed
    models: Models
    lines: Lines
    live: Generation

    def turn_until(self, true: Callable[[], bool]) -> None:
        until = time.monotonic() + SECONDS
        while not true():
            assert time.monotonic() < until, "it never came true"
            self.lines._turn()
            time.sleep(0.02)

    def operate(self, decide: operator.Decision) -> None:
        operator.operate(self.parts.broker, self.parts.names, decide)

    def start(self, dimension: int = 64) -> str:
        spec = other(dimension)
        self.operate(lambda state: transitions.start(state, spec, time.time()))
        return spec.id

    def state(self, id: str) -> str:
        return self.control.again().generations[id].state

    def put(self, path: str) -> None:
        event = DocumentChanged(DocumentKey("s", path), f"text of {path}", {}, "text/plain", "d", Provenance(1.0))
        record = NewRecord(self.parts.names.documents(0), *encode_event(event))
        self.parts.broker.publisher("t").publish([record], Deadline.after(5))

    def documents(self, id: str) -> int:
        name = self.parts.names.collection(id)
        return self.parts.store.open(name).count_heads().get("complete", 0) if self.parts.store.names(name) else 0


@contextmanager
def running() -> Iterator[Bench]:
    """Both stages of a pipeline without a server, and its lines, turned by hand."""
    broker = EmbeddedBroker(None)
    parts = Parts(CONFIG, Names("t", "p"), broker, MemoryStore())
    apply_topics(parts)
    live = founded(parts).live
    assert live is not None
    control, models = Followed(parts), Models(CONFIG)
    lines = Lines(
        parts, control, models, ("chunk", "embed"), on_state=lambda now: models.keep(one.spec for one in now.followed)
    )
    lines.start_live(control())
    yield Bench(parts, control, models, lines, live)
    for line in lines._lines.values():
        assert line.end()
    control.close()
    broker.close()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr("pipeline.cli.lines._RETRY_SECONDS", 0.1)
    monkeypatch.setattr("pipeline.cli.clearing._LEFT_SECONDS", 1.0)
    with running() as made:
        yield made


def test_a_second_generation_is_built_beside_the_live_one_and_left_when_it_is_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.cli.clearing._LEFT_SECONDS", 600.0)  # not before its documents were counted
    for number in range(20):
        bench.put(f"d{number}")
    id = bench.start()
    bench.turn_until(lambda: bench.documents(id) == bench.documents(bench.live.id) == 20)
    assert sorted(bench.lines._lines) == sorted([bench.live.id, id])
    bench.operate(lambda state: transitions.abort(state, id, time.time()))
    bench.turn_until(lambda: list(bench.lines._lines) == [bench.live.id])
    for thread in bench.lines._ending:
        thread.join(SECONDS)
    bench.put("later")
    bench.turn_until(lambda: bench.documents(bench.live.id) == 21)
    assert bench.documents(id) == 20
    # Whoever gave it up died before it was removed, or a line began late.
    assert bench.lines._leftovers is not None
    bench.lines._leftovers._next = 0.0
    bench.turn_until(lambda: not bench.parts.store.names(bench.parts.names.collection(id)))
    assert bench.parts.names.chunks(id) not in bench.parts.broker.topics(bench.parts.names.root)
    assert bench.documents(bench.live.id) == 21


def test_a_migration_is_told_in_metrics_and_leaves_none_behind(bench: Bench) -> None:
    def value(name: str, **labels: str) -> float | None:
        return bench.parts.metrics.registry.get_sample_value(f"vectide_{name}", labels)

    def series(id: str) -> set[str]:
        text = bench.parts.metrics.exposition().decode()
        return {line.split("{")[0] for line in text.splitlines() if f'generation="{id}"' in line}

    for number in range(5):
        bench.put(f"d{number}")
    id = bench.start()
    bench.turn_until(lambda: bench.documents(id) == 5)
    bench.lines._gauges._next_count = 0.0  # not in half a minute, but now
    bench.turn_until(lambda: value("migration_documents", generation=id, state="complete") == 5)
    assert value("migration_expected_documents", generation=id) == 5
    assert value("migration_state", generation=id, state="building") == 1
    stages = {"vectide_consumer_lag_records", "vectide_poll_budget_used_ratio", "vectide_assigned_partitions"}
    assert stages <= series(id)
    bench.operate(lambda state: transitions.abort(state, id, time.time()))
    bench.turn_until(lambda: list(bench.lines._lines) == [bench.live.id])
    for thread in bench.lines._ending:
        thread.join(SECONDS)
    assert series(id) == {"vectide_migration_state", "vectide_generation_state_timestamp_seconds"}


def test_a_line_that_ends_closes_its_publishers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a thread and a connection to Kafka, and a process may see a hundred generations."""
    opened: list[Publisher] = []
    closed: list[Publisher] = []
    publisher = bench.parts.broker.publisher

    def counted(client: str) -> Publisher:
        made = publisher(client)
        opened.append(made)
        monkeypatch.setattr(made, "close", lambda deadline: closed.append(made))
        return made

    monkeypatch.setattr(bench.parts.broker, "publisher", counted)
    id = bench.start()
    bench.turn_until(lambda: id in bench.lines._lines)
    assert len(opened) == 2
    assert closed == []
    bench.operate(lambda state: transitions.abort(state, id, time.time()))
    bench.turn_until(lambda: closed == opened)


def test_something_fatal_while_building_fails_that_generation_only(bench: Bench) -> None:
    id = bench.start()
    bench.turn_until(lambda: id in bench.lines._lines)
    line = bench.lines._lines[id]
    line.crew._failure = Fatal("no such dimension", "mend it")
    bench.turn_until(lambda: bench.state(id) == "failed")
    assert list(bench.lines._lines) == [bench.live.id]
    assert "no such dimension" in bench.control.again().history[-1].reason


def test_who_may_not_decide_is_not_ready_and_goes_on_with_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a worker without the right to write `control`, then what it cannot build takes nothing with it."""
    id = bench.start()
    bench.turn_until(lambda: id in bench.lines._lines)

    def refused(transactional_id: str) -> TransactionalPublisher:
        raise NotAllowed(f"take over {transactional_id}: Kafka refuses", "grant it")

    monkeypatch.setattr(bench.parts.broker, "transactional_publisher", refused)
    bench.lines._lines[id].crew._failure = Fatal("no such dimension", "mend it")
    bench.turn_until(lambda: f"generation.{id}" in bench.parts.health.readyz().reasons)
    assert bench.state(id) == "building"
    bench.put("later")
    bench.turn_until(lambda: bench.documents(bench.live.id) == 1)


def test_who_may_not_remove_leaves_what_is_left(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a worker without the right to delete groups, then it asks once, and goes on."""
    id = bench.start()
    bench.turn_until(lambda: id in bench.lines._lines)
    asked: list[str] = []

    def refused(group: str) -> None:
        asked.append(group)
        raise NotAllowed(f"delete group {group}: Kafka refuses", "grant it")

    monkeypatch.setattr(bench.parts.broker, "delete_group", refused)
    bench.operate(lambda state: transitions.abort(state, id, time.time()))
    bench.turn_until(lambda: bool(asked))
    bench.put("later")
    bench.turn_until(lambda: bench.documents(bench.live.id) == 1)
    time.sleep(1.2)  # the next look would be after a second
    bench.lines._turn()
    assert len(asked) == 1


def test_something_fatal_of_the_live_generation_ends_the_process(bench: Bench) -> None:
    bench.lines._lines[bench.live.id].crew._failure = Fatal("the log was replaced")
    with pytest.raises(Fatal, match="the log was replaced"):
        bench.lines._turn()


@pytest.mark.parametrize("error", [Fatal("its collection is gone"), RuntimeError("CUDA out of memory")])
def test_a_previous_generation_that_fails_is_tried_again_and_takes_nothing_with_it(
    bench: Bench, error: Exception
) -> None:
    id = bench.start()
    bench.turn_until(lambda: id in bench.lines._lines)
    bench.operate(lambda state: transitions.cut_over(state, id, None, time.time(), "a test"))
    bench.turn_until(lambda: bench.state(bench.live.id) == "previous")
    before = bench.lines._lines[bench.live.id]
    before.crew._failure = error
    bench.lines._turn()
    assert f"generation.{bench.live.id}" in bench.parts.health.readyz().reasons
    bench.turn_until(lambda: bench.live.id in bench.lines._lines)
    assert bench.lines._lines[bench.live.id] is not before
    assert f"generation.{bench.live.id}" not in bench.parts.health.readyz().reasons


def test_a_line_that_ended_with_an_outage_is_started_again(bench: Bench) -> None:
    before = bench.lines._lines[bench.live.id]
    before.crew._failure = StoreUnavailable("away")
    bench.turn_until(lambda: bench.lines._lines.get(bench.live.id, before) is not before)


def test_weights_that_are_missing_are_looked_for_again_and_fail_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = bench.models.of

    def missing(spec: GenerationSpec) -> Embedder:
        raise ConfigError("not on this machine", "bring them")

    monkeypatch.setattr(bench.models, "of", missing)
    id = bench.start()
    bench.turn_until(lambda: f"generation.{id}" in bench.parts.health.readyz().reasons)
    assert bench.state(id) == "building"
    monkeypatch.setattr(bench.models, "of", of)
    bench.turn_until(lambda: id in bench.lines._lines)
    assert f"generation.{id}" not in bench.parts.health.readyz().reasons


def test_what_was_aborted_while_its_model_was_loaded_is_not_made_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, aborted = bench.models.of, threading.Event()

    def slow(spec: GenerationSpec) -> Embedder:
        assert aborted.wait(SECONDS)
        return of(spec)

    monkeypatch.setattr(bench.models, "of", slow)
    id = bench.start()
    stale = bench.control.again()
    for _ in range(3):
        bench.lines._try(stale.generations[id])
    bench.operate(lambda state: transitions.abort(state, id, time.time()))
    aborted.set()
    bench.lines._loading[id]._thread.join(SECONDS)
    bench.lines._try(stale.generations[id])
    assert bench.lines._loading == {}
    assert list(bench.lines._lines) == [bench.live.id]
    assert bench.parts.store.names(bench.parts.names.collection(id)) == []


def test_a_member_that_could_not_be_completed_leaves_nobody_in_the_group(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that never polls would keep its partitions from the others."""

    def busy(*arguments: object) -> None:
        raise StoreUnavailable("no room")

    monkeypatch.setattr("pipeline.cli.line.collection_of", busy)
    id = bench.start()
    bench.turn_until(lambda: f"generation.{id}" in bench.parts.health.readyz().reasons)
    monkeypatch.undo()
    bench.put("a")
    bench.put("b")
    bench.turn_until(lambda: bench.documents(id) == 2)


def test_only_one_generation_where_that_is_asked_for(bench: Bench) -> None:
    id = bench.start()
    only = Lines(bench.parts, bench.control, bench.models, ("chunk",), only=id)
    assert only.start_live(bench.control.again()) is None
    until = time.monotonic() + SECONDS
    while not only._lines:
        assert time.monotonic() < until
        only._turn()
        time.sleep(0.02)
    assert list(only._lines) == [id]
    assert list(only._lines[id].workers) == ["chunk"]
    assert only._lines[id].end()


def test_the_alias_follows_whatever_moved_it(bench: Bench) -> None:
    names, store = bench.parts.names, bench.parts.store
    bench.turn_until(lambda: store.alias(names.alias) == names.collection(bench.live.id))


def test_workers_are_told_to_stop_at_once_though_a_look_at_control_hangs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a Kafka that hangs in the middle of a turn, then a worker's drain does not begin when the turn ends."""
    hangs, goes_on, stop = threading.Event(), threading.Event(), threading.Event()

    def control() -> object:
        hangs.set()
        goes_on.wait(SECONDS)
        raise StoreUnavailable("away")

    monkeypatch.setattr(bench.lines, "_control", control)
    (line,) = bench.lines._lines.values()
    running = threading.Thread(target=bench.lines.run, args=(stop,), daemon=True)
    running.start()
    assert hangs.wait(SECONDS)
    stop.set()
    assert line.crew.stop.wait(SECONDS / 2)
    assert not goes_on.is_set()
    goes_on.set()
    running.join(SECONDS)
    assert not running.is_alive()
