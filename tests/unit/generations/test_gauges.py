"""What control says, as metrics: every state of a migration, and nothing of what is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from pipeline.config import ChunkingConfig, Config, ModelConfig
from pipeline.embedding.generation import generation_spec
from pipeline.errors import CollectionMissing, StoreUnavailable
from pipeline.generations import transitions
from pipeline.generations.control import ControlState
from pipeline.generations.gauges import GenerationGauges
from pipeline.observe.metrics import GENERATIONS, Metrics
from pipeline.specs import GenerationSpec

HASHING = ModelConfig(provider="hashing", name="hashing")


def spec(tokens: int) -> GenerationSpec:
    return generation_spec(Config(model=HASHING, chunking=ChunkingConfig(target_tokens=tokens)))


OLD, NEW, OTHER = spec(32), spec(64), spec(96)


@dataclass
class Bench:
    """Gauges over a state that changes as commands change it."""

    proposed: str | None = OLD.fingerprint
    now: float = 0.0
    metrics: Metrics = field(default_factory=Metrics)
    state: ControlState = field(default_factory=ControlState)

    def __post_init__(self) -> None:
        self.gauges = GenerationGauges(self.metrics, self.proposed, lambda: self.now, lambda run: run())
        self.apply(transitions.found(self.state, OLD, 1.0))

    def apply(self, changes: object) -> str:
        last = ""
        for change in changes:  # type: ignore[attr-defined]
            last = change.generation.id
            generations = {**self.state.generations, last: change.generation}
            self.state = ControlState(None, generations, (*self.state.history, change.transition))
        self.gauges.show(self.state)
        return last

    def start(self, wanted: GenerationSpec = NEW, now: float = 10.0) -> str:
        return self.apply(transitions.start(self.state, wanted, now))

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"vectide_{name}", labels)

    def series(self, name: str) -> list[dict[str, str]]:
        (found,) = (one for one in self.metrics.registry.collect() if one.name == f"vectide_{name}")
        return [sample.labels for sample in found.samples]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def live(bench: Bench) -> str:
    assert bench.state.live is not None
    return bench.state.live.id


def test_a_generation_is_in_one_state_and_says_since_when(bench: Bench) -> None:
    id = bench.start()
    assert {name for name in GENERATIONS if bench.value("migration_state", generation=id, state=name)} == {"building"}
    assert bench.value("migration_state", generation=id, state="ready") == 0, "a state it may take starts at 0"
    assert bench.value("generation_state_timestamp_seconds", generation=id, state="building") == 10
    bench.apply(transitions.pass_gate(bench.state, id, 1, 20.0, {}))
    assert bench.value("generation_state_timestamp_seconds", generation=id, state="ready") == 20
    assert bench.value("generation_state_timestamp_seconds", generation=id, state="building") is None
    assert {name for name in GENERATIONS if bench.value("migration_state", generation=id, state=name)} == {"ready"}


def test_a_pause_and_a_throttle_are_the_share_of_the_time(bench: Bench) -> None:
    assert bench.series("migration_throttle_ratio") == []
    id = bench.start()
    assert bench.value("migration_throttle_ratio", generation=id) == 1
    bench.apply(transitions.throttle(bench.state, id, 11.0, 0.25))
    assert bench.value("migration_throttle_ratio", generation=id) == 0.25
    bench.apply(transitions.pause(bench.state, id, 12.0, paused=True))
    assert bench.value("migration_throttle_ratio", generation=id) == 0
    bench.apply(transitions.abort(bench.state, id, 13.0))
    assert bench.series("migration_throttle_ratio") == []


def test_what_failed_stands_until_it_is_retired_and_only_the_newest_of_many(bench: Bench) -> None:
    id = bench.start()
    bench.apply(transitions.fail(bench.state, id, 20.0, "no weights"))
    assert bench.value("migration_state", generation=id, state="failed") == 1
    bench.apply(transitions.retire(bench.state, id, 21.0))
    assert bench.value("migration_state", generation=id, state="failed") is None
    for number in range(10):
        ended = bench.start(now=30.0 + number)
        bench.apply(transitions.abort(bench.state, ended, 30.5 + number))
    assert len(bench.series("migration_state")) == 6 * len(GENERATIONS), "the live one, and five of ten"
    assert bench.value("migration_state", generation=ended, state="aborted") == 1


def test_a_configuration_of_neither_the_live_one_nor_of_one_being_built_is_a_mismatch(bench: Bench) -> None:
    assert bench.value("configuration_mismatch") == 0
    id = bench.start()
    bench.apply(transitions.cut_over(bench.state, id, None, 20.0, "a test"))
    assert bench.value("configuration_mismatch") == 1, "configured is the previous one"
    after = Bench(proposed=NEW.fingerprint)
    assert after.value("configuration_mismatch") == 1
    after.start()
    assert after.value("configuration_mismatch") == 0, "it is being built"
    unknown = Bench(proposed=None)
    unknown.start()
    assert unknown.value("configuration_mismatch") == 0


def test_documents_of_a_migration_are_counted_from_time_to_time_by_one_process(bench: Bench) -> None:
    looks: list[str] = []

    def heads(id: str) -> dict[str, int]:
        looks.append(id)
        return {"complete": 8, "deleted": 3, "failed": 1} if id == live(bench) else {"complete": 4, "deleted": 2}

    bench.gauges.count(bench.state, heads)
    assert looks == [], "there is no migration"
    id = bench.start()
    bench.gauges.count(bench.state, heads)
    assert bench.value("migration_documents", generation=id, state="complete") == 4
    assert bench.value("migration_documents", generation=id, state="failed") == 0
    assert bench.value("migration_expected_documents", generation=id) == 9
    bench.now = 29.0
    bench.gauges.count(bench.state, heads)
    assert len(looks) == 2, "it costs the store a look at all heads"
    bench.now = 30.0
    bench.gauges.count(bench.state, heads)
    assert len(looks) == 4
    bench.gauges.count(bench.state, None)
    assert bench.series("migration_documents") == bench.series("migration_expected_documents") == []


def test_a_count_that_takes_long_holds_nothing_up_and_is_forgotten_when_its_migration_is_over(bench: Bench) -> None:
    waiting: list[Callable[[], None]] = []
    bench.gauges = GenerationGauges(bench.metrics, None, lambda: bench.now, waiting.append)
    bench.start()
    for bench.now in (10.0, 100.0, 200.0):
        bench.gauges.count(bench.state, lambda id: {"complete": 4})
    assert len(waiting) == 1, "one at a time"
    bench.gauges.count(bench.state, None)
    waiting[0]()
    assert bench.series("migration_documents") == bench.series("migration_expected_documents") == []
    bench.gauges.count(bench.state, lambda id: {"complete": 4})
    waiting[1]()
    assert bench.series("migration_documents") != []


@pytest.mark.parametrize("error", [StoreUnavailable("away"), CollectionMissing("not there yet")])
def test_a_store_that_does_not_answer_is_no_news_here(bench: Bench, error: Exception) -> None:
    def heads(id: str) -> dict[str, int]:
        raise error

    bench.start()
    bench.gauges.count(bench.state, heads)
    assert bench.series("migration_documents") == []


def test_a_scrape_never_finds_a_generation_gone_that_is_there(bench: Bench) -> None:
    """Given a look at control, then what stays is set and not removed first."""
    gauge, removed = bench.metrics.generation_info, []
    take_away = gauge.remove
    gauge.remove = lambda *labels: (removed.append(labels), take_away(*labels))  # type: ignore[method-assign]
    bench.gauges.show(bench.state)
    id = bench.start()
    assert removed == []
    bench.apply(transitions.abort(bench.state, id, 11.0))
    assert [labels[0] for labels in removed] == [id]
