"""What the soak finds: forged answers, memory, processes and collections, each just within what may be and beyond."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.config import ChunkingConfig, Config, ModelConfig, PipelineConfig
from pipeline.embedding.generation import chunker, generation_spec
from pipeline.embedding.hashing import HashingEmbedder
from pipeline.embedding.models import tokenizer_of
from pipeline.errors import BrokerUnavailable
from pipeline.identity import chunk_id, occurrences
from pipeline.points import Head, ListedChunk, StoredChunk
from tests.soak import storm, verdict
from tests.soak.cluster import Cluster, Worker
from tests.soak.faults import Fault
from tests.soak.memory import flatness
from tests.soak.report import DISK_SKIPPED, Figures, last_line, not_tried, report
from tests.soak.searcher import Failed, Searcher
from tests.soak.truth import SOURCE, Change, Document, Truth, asked, key_of
from tests.soak.weather import CALM_TARGET, STORM_TARGET, Events, Weather
from tests.support import clock as clock_

CONFIG = Config(
    model=ModelConfig(provider="hashing", name="hashing"),
    pipeline=PipelineConfig(prefix="t", name="p"),
    chunking=ChunkingConfig(max_tokens=96, target_tokens=48),
)
SPEC = generation_spec(CONFIG)
TOKENIZER = tokenizer_of(CONFIG.model)
EMBEDDER = HashingEmbedder(SPEC.model, TOKENIZER)
PROMPTED = HashingEmbedder(SPEC.model.model_copy(update={"document_prompt": "passage: "}), TOKENIZER)
#: A paragraph's words, beside its marker.
WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda my"


class Clock(clock_.Clock):
    """Who sleeps puts it forward, and something may have happened meanwhile."""

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in ("cluster", "searcher", "truth", "verdict", "weather"):
        monkeypatch.setattr(f"tests.soak.{module}.time", made)
    return made


class Dice:
    """Falls as a test wants: the first of everything, and one kind of question."""

    def __init__(self) -> None:
        self.kind = "known"

    def choices(self, population: Sequence[str], weights: Sequence[int]) -> list[str]:
        assert self.kind in population
        return [self.kind]

    def choice(self, population: Sequence[Any]) -> Any:
        return population[0]


class Stage:
    """A searcher, the truth that it knows, and a service that says what it is told."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.clock = clock
        self.weather = Weather()
        self.truth = Truth()
        self.events = Events(folder / "events.jsonl")
        self.dice = Dice()
        self.killed = False
        self.readable = True
        self.said: dict[str, Any] | Failed = Failed("nothing said")
        self.questions: list[tuple[int, str | None]] = []
        cluster: Any = SimpleNamespace(
            parts=SimpleNamespace(config=CONFIG),
            events=self.events,
            control=self._control,
            workers={"serve": SimpleNamespace(away=lambda since, until: self.killed)},
        )
        rng: Any = self.dice
        self.searcher = Searcher(cluster, self.truth, self.weather, rng, 0.001)

    def _control(self) -> Any:
        if not self.readable:
            raise BrokerUnavailable("Kafka is away")
        return SimpleNamespace(generations={SPEC.id: SimpleNamespace(spec=SPEC)})

    def ask(self, marker: int, group: str | None = None) -> dict[str, Any]:
        self.questions.append((marker, group))
        if isinstance(self.said, Failed):
            raise self.said
        return dict(self.said)

    # The writer's part.

    def write(self, path: str, *markers: int, group: str = "g0", why: str = "edit") -> None:
        document = Document("Title", group, 0, tuple((marker, WORDS) for marker in markers))
        self.truth.becoming(path, document)
        self.truth.is_now(path, document, why)

    def delete(self, path: str) -> None:
        self.truth.is_now(path, None, "delete")

    # The service's part.

    def says(self, *hits: dict[str, Any]) -> None:
        self.said = {"hits": list(hits), "generation": SPEC.id}

    def asked(self, marker: int, *hits: dict[str, Any], group: str | None = None) -> dict[str, int]:
        """The violations so far, after a question that is answered so."""
        self.says(*hits)
        assert self.searcher.answered(self, marker, group) is not None  # type: ignore[arg-type]
        return dict(self.events.violations)

    def questioned(self) -> dict[str, int]:
        """The same, after a question of the searcher's own choice."""
        before = len(self.questions)
        self.searcher._question(self)  # type: ignore[arg-type]
        assert len(self.questions) > before
        return dict(self.events.violations)

    def timed(self, change: Change) -> bool:
        return self.searcher._timed(self, change)  # type: ignore[arg-type]


def hit(
    path: str, marker: int, asks: int | None = None, group: str = "g0", by: HashingEmbedder = EMBEDDER, **other: Any
) -> dict[str, Any]:
    """A hit with one paragraph, with the score that a model gives it for a question."""
    text = other.pop("text", f"{asked(marker)} {WORDS}.")
    embedded = other.pop("context", "Title\n\n") + text
    score = float(by.embed_documents([embedded])[0] @ by.embed_query(asked(marker if asks is None else asks)))
    found = {
        "key": f"{SOURCE}:{path}",
        "text": text,
        "headings": ["Title"],
        "metadata": {"group": group},
        "score": score,
    }
    return {**found, **other}


@pytest.fixture
def stage(tmp_path: Path, clock: Clock) -> Iterator[Stage]:
    made = Stage(tmp_path, clock)
    yield made
    made.events.close()


# --------------------------------------------------------------- hits that are too old


def deletes(stage: Stage) -> tuple[dict[str, Any], dict[str, int]]:
    stage.write("a.md", 1)
    stage.delete("a.md")
    return hit("a.md", 1), {"deleted": 1, "revoked": 1}


def supersedes(stage: Stage) -> tuple[dict[str, Any], dict[str, int]]:
    stage.write("a.md", 1)
    stage.write("a.md", 2)
    return hit("a.md", 1), {"superseded": 1}


def renames_over(stage: Stage) -> tuple[dict[str, Any], dict[str, int]]:
    stage.write("a.md", 1)
    stage.write("a.md", 2, why="renamed over")
    return hit("a.md", 1), {"superseded": 1}


def revokes(stage: Stage) -> tuple[dict[str, Any], dict[str, int]]:
    stage.write("a.md", 1, group="g0")
    stage.write("a.md", 1, group="g1")
    return hit("a.md", 1, group="g0"), {"revoked": 1}


ENDS = pytest.mark.parametrize("ends", [deletes, supersedes, renames_over, revokes])
Ends = Callable[[Stage], tuple[dict[str, Any], dict[str, int]]]


@ENDS
def test_in_calm_weather_what_ended_may_answer_for_ten_seconds(stage: Stage, ends: Ends) -> None:
    old, violations = ends(stage)
    stage.clock.now += CALM_TARGET - 0.1
    assert stage.asked(1, old) == {}
    assert stage.searcher.counts["hits that were older, within the target"] > 0
    stage.clock.now += 0.2
    assert stage.asked(1, old) == violations


@ENDS
@pytest.mark.parametrize("over", [False, True])
def test_what_a_storm_overlaps_may_answer_for_longer(stage: Stage, ends: Ends, over: bool) -> None:
    """Given a storm that begins after the change, also one that is over before the search."""
    old, violations = ends(stage)
    stage.clock.now += 1
    stage.weather.storm()
    stage.clock.now += 5
    if over:
        stage.weather.calm()
    stage.clock.now += STORM_TARGET - 6.1
    assert stage.asked(1, old) == {}
    stage.clock.now += 0.2
    assert stage.asked(1, old) == violations


@ENDS
def test_a_storm_that_was_over_before_the_change_excuses_nothing(stage: Stage, ends: Ends) -> None:
    stage.weather.storm()
    stage.clock.now += 5
    stage.weather.calm()
    stage.clock.now += 1
    old, violations = ends(stage)
    stage.clock.now += CALM_TARGET + 0.1
    assert stage.asked(1, old) == violations


@ENDS
def test_behind_a_quiet_point_what_ended_before_it_answers_no_more(stage: Stage, ends: Ends) -> None:
    old, violations = ends(stage)
    stage.clock.now += 0.1
    stage.weather.settled(stage.clock.now)
    stage.clock.now += 0.1
    assert stage.asked(1, old) == violations


def test_a_search_that_began_before_the_quiet_point_is_not_held_to_it(stage: Stage) -> None:
    old, _ = deletes(stage)
    stage.weather.settled(stage.clock.now + 1)
    stage.clock.now += 0.5
    assert stage.asked(1, old) == {}


@ENDS
def test_while_the_machine_is_taken_the_target_is_put_off(stage: Stage, ends: Ends) -> None:
    """Given 7 s without a machine, then 15 more are for what piled up, and all of them are added."""
    old, violations = ends(stage)
    stage.clock.now += 8
    stage.weather.starved(stage.clock.now - 7, stage.clock.now)
    stage.clock.now += STORM_TARGET + 7 + 15 - 8.1
    assert stage.asked(1, old) == {}
    stage.clock.now += 0.2
    assert stage.asked(1, old) == violations


def test_news_that_the_machine_was_taken_may_come_a_second_late(stage: Stage) -> None:
    old, _ = deletes(stage)
    stage.clock.now += CALM_TARGET + 1
    stage.clock.meanwhile = lambda: stage.weather.starved(stage.clock.now - 2, stage.clock.now)
    assert stage.asked(1, old) == {}


def test_what_is_so_is_no_violation_however_old(stage: Stage) -> None:
    stage.write("a.md", 1, 2)
    stage.clock.now += 1000
    assert stage.asked(1, hit("a.md", 1), hit("a.md", 2, asks=1), group="g0") == {}


def test_each_hit_is_judged_and_each_of_its_paragraphs(stage: Stage) -> None:
    stage.write("a.md", 1, 2)
    stage.write("b.md", 3)
    stage.write("a.md", 1)
    stage.clock.now += CALM_TARGET + 1
    both = hit("a.md", 1, asks=3, text=f"{asked(1)} {WORDS}\n\n{asked(2)} {WORDS}")
    assert stage.asked(3, hit("b.md", 3), both) == {"superseded": 1}


def test_a_text_that_comes_back_is_not_ended(stage: Stage) -> None:
    stage.write("a.md", 1)
    stage.write("a.md", 2)
    stage.clock.now += 20
    stage.write("a.md", 1)
    assert stage.asked(1, hit("a.md", 1)) == {}


def test_a_filter_that_lets_another_group_through_is_found_at_once(stage: Stage) -> None:
    stage.write("a.md", 1, group="g0")
    stage.write("a.md", 1, group="g1")
    assert stage.asked(1, hit("a.md", 1, group="g1"), group="g0") == {"revoked": 1}


def test_a_group_that_is_asked_for_counts_although_the_hit_does_not_name_it(stage: Stage) -> None:
    stage.write("a.md", 1, group="g0")
    stage.write("a.md", 1, group="g1")
    stage.clock.now += CALM_TARGET + 1
    # By its metadata at once, and by the truth since it is too old.
    assert stage.asked(1, hit("a.md", 1, group="g1"), group="g0") == {"revoked": 2}


@pytest.mark.parametrize("forged", [hit("a.md", 9, asks=1), hit("b.md", 1), hit("a.md", 1, group="g5")])
def test_what_nobody_wrote_is_unknown(stage: Stage, forged: dict[str, Any]) -> None:
    stage.write("a.md", 1)
    assert set(stage.asked(1, forged)) == {"unknown"}


# --------------------------------------------------------------- what must be found


def test_a_text_that_is_not_found_is_one_only_beyond_the_target(stage: Stage) -> None:
    stage.write("a.md", 1)
    stage.says()
    stage.clock.now += CALM_TARGET - 0.1
    assert stage.questioned() == {}
    assert stage.searcher.counts["known documents asked for"] == 0
    stage.clock.now += 0.2
    assert stage.questioned() == {"empty": 1}
    assert stage.searcher.counts["known documents asked for"] == 1


def test_in_a_storm_it_may_be_missing_for_longer(stage: Stage) -> None:
    stage.weather.storm()
    stage.write("a.md", 1)
    stage.says()
    stage.clock.now += STORM_TARGET - 0.1
    assert stage.questioned() == {}
    stage.clock.now += 0.2
    assert stage.questioned() == {"empty": 1}


def test_behind_a_quiet_point_it_must_be_there(stage: Stage) -> None:
    stage.weather.storm()
    stage.write("a.md", 1)
    stage.clock.now += 1
    stage.weather.settled(stage.clock.now)
    stage.says()
    stage.clock.now += 0.1
    assert stage.questioned() == {"empty": 1}


@pytest.mark.parametrize("other", [hit("b.md", 1), hit("a.md", 2, asks=1)], ids=["path", "paragraph"])
def test_another_document_or_paragraph_is_not_what_was_asked_for(stage: Stage, other: dict[str, Any]) -> None:
    stage.write("a.md", 1, 2)
    stage.write("b.md", 1)
    stage.clock.now += CALM_TARGET + 1
    stage.says(other)
    assert stage.questioned() == {"empty": 1}
    stage.says(other, hit("a.md", 1))
    assert stage.questioned() == {"empty": 1}


def test_a_group_must_find_only_what_has_been_its_own_for_so_long(stage: Stage) -> None:
    stage.dice.kind = "in group"
    stage.write("a.md", 1, group="g0")
    stage.clock.now += 100
    stage.write("a.md", 1, group="g1")
    stage.says()
    stage.clock.now += CALM_TARGET - 0.1
    assert stage.questioned() == {}
    stage.clock.now += 0.2
    assert stage.questioned() == {"empty": 1}
    assert stage.questions[-1] == (1, "g1")


def test_a_full_answer_excuses_only_what_its_score_puts_behind_it(stage: Stage) -> None:
    """Given 20 hits that are worse than the paragraph, then it was lost; given better ones, it does not stand out."""
    stage.write("a.md", 1)
    stage.write("b.md", 2)
    stage.clock.now += CALM_TARGET + 1
    stage.says(*[hit("b.md", 2, asks=1)] * 20)
    assert stage.questioned() == {"empty": 1}
    stage.says(*[hit("b.md", 2, asks=1, text="mk1b mk1c " * 4, context="", headings=[])] * 20)
    assert stage.questioned() == {"empty": 1}
    assert stage.searcher.counts["paragraphs that do not stand out"] == 1


@pytest.mark.parametrize(("kind", "question"), [("ended", (1, None)), ("revoked", (2, "g0"))])
def test_what_has_ended_is_asked_for_again(stage: Stage, kind: str, question: tuple[int, str | None]) -> None:
    stage.write("a.md", 1, group="g0")
    stage.write("a.md", 2, group="g0")
    stage.write("a.md", 2, group="g1")
    stage.dice.kind = kind
    stage.says()
    assert stage.questioned() == {}
    assert stage.questions == [question]


# --------------------------------------------------------------- scores


def test_scores_of_its_own_model_are_right_with_any_context_of_the_headings(stage: Stage) -> None:
    stage.write("a.md", 1, 2)
    deep = hit("a.md", 2, asks=1, context="Title > Part\n\n", headings=["Title", "Part"])
    own = hit("a.md", 2, asks=1, context="Title\n\n", headings=["Title", "Part"])
    bare = hit("a.md", 2, asks=1, context="", headings=[])
    assert stage.asked(1, hit("a.md", 1), deep, own, bare) == {}
    assert stage.searcher.counts["scores checked"] == 4


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("by", [PROMPTED, 0.05, -0.05, float("nan")])
def test_a_score_of_another_space_is_found_at_any_place(stage: Stage, place: int, by: Any) -> None:
    paths = ["a.md", "b.md", "c.md"]
    for path in paths:
        stage.write(path, 1)
    hits = [hit(path, 1) for path in paths]
    assert stage.asked(1, *hits) == {}
    if isinstance(by, HashingEmbedder):
        hits[place] = hit(paths[place], 1, by=by)
    else:
        hits[place]["score"] += by
    assert stage.asked(1, *hits) == {"mixed space": 1}


def test_scores_that_cannot_be_checked_are_counted(stage: Stage) -> None:
    """Given that Kafka is away, then nobody can say of which model a new generation is; later it is said."""
    stage.write("a.md", 1)
    stage.readable = False
    wrong = {**hit("a.md", 1), "score": 0.0}
    assert stage.asked(1, wrong, wrong) == {}
    assert stage.searcher.counts["scores not checked, as control could not be read"] == 2
    assert stage.searcher.counts["scores checked"] == 0
    stage.readable = True
    assert stage.asked(1, wrong, wrong) == {"mixed space": 2}


# --------------------------------------------------------------- searches that fail


@pytest.mark.parametrize("excuse", ["", "killed", "starved"])
def test_a_search_that_fails_needs_an_excuse(stage: Stage, excuse: str) -> None:
    stage.killed = excuse == "killed"
    if excuse == "starved":
        stage.clock.meanwhile = lambda: stage.weather.starved(stage.clock.now - 2, stage.clock.now)
    stage.said = Failed("503")
    assert stage.searcher.answered(stage, 1, None) is None  # type: ignore[arg-type]
    assert stage.events.violations == ({} if excuse else {"search failed": 1})
    why = {"killed": "while the service was killed", "starved": "while the machine was taken"}
    assert stage.searcher.counts == ({f"failed {why[excuse]}": 1} if excuse else {})


# --------------------------------------------------------------- what is timed


def change_of(stage: Stage) -> Change:
    return stage.truth.changes.pop()


def test_a_change_is_timed_until_searches_say_so(stage: Stage) -> None:
    stage.write("a.md", 1)
    change = change_of(stage)
    stage.says()
    stage.clock.now += 2
    assert not stage.timed(change)
    stage.says(hit("a.md", 1))
    stage.clock.now += 1
    assert stage.timed(change)
    assert stage.searcher.freshness == {"calm": [3.0], "starved": [], "storm": []}
    stage.delete("a.md")
    change = change_of(stage)
    stage.weather.storm()
    stage.clock.now += 4
    assert not stage.timed(change)
    stage.says()
    assert stage.timed(change)
    assert stage.searcher.freshness == {"calm": [3.0], "starved": [], "storm": [4.0]}
    assert not any(stage.searcher.untimed.values())


def test_a_change_that_is_overtaken_is_counted_and_not_timed(stage: Stage) -> None:
    stage.write("a.md", 1)
    change = change_of(stage)
    stage.delete("a.md")
    stage.says(hit("a.md", 1))
    stage.clock.now += 3
    assert stage.timed(change)
    assert stage.searcher.freshness["calm"] == []
    assert stage.searcher.untimed["calm"] == {"overtaken by another change": 1}


def test_a_change_that_is_not_seen_for_two_minutes_is_counted_and_judged(stage: Stage) -> None:
    stage.write("a.md", 1)
    change = change_of(stage)
    stage.says()
    stage.clock.now += STORM_TARGET
    assert not stage.timed(change)
    stage.clock.now += 0.1
    assert stage.timed(change)
    assert stage.searcher.untimed["calm"] == {"not seen for 120 s": 1}
    assert stage.events.violations == {"empty": 1}


def test_one_that_is_seen_after_two_minutes_is_timed(stage: Stage) -> None:
    stage.weather.storm()
    stage.write("a.md", 1)
    change = change_of(stage)
    stage.says(hit("a.md", 1))
    stage.clock.now += STORM_TARGET + 5
    assert stage.timed(change)
    assert stage.searcher.freshness["storm"] == [STORM_TARGET + 5]
    assert not any(stage.searcher.untimed.values())


def test_changes_that_nobody_had_time_for_are_counted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given ten at once and a run that ends with the first question: four were begun, one of them seen."""
    for number in range(10):
        stage.write(f"{number}.md", number)

    def ask(marker: int, group: str | None = None) -> dict[str, Any]:
        stage.searcher._stop.set()
        return {"hits": [hit(f"{marker}.md", marker)], "generation": SPEC.id}

    monkeypatch.setattr("tests.soak.searcher.Searches", lambda _: SimpleNamespace(ask=ask, close=lambda: None))
    stage.searcher._timing()
    assert stage.searcher.passed_over == 6
    assert stage.searcher.freshness["calm"] == [0.0]
    assert stage.searcher.untimed["calm"] == {"the run ended": 3}


def test_timing_that_breaks_is_a_violation_and_goes_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.write("a.md", 1)
    stage.write("b.md", 2)
    asks: list[int] = []

    def ask(marker: int, group: str | None = None) -> dict[str, Any]:
        asks.append(marker)
        if len(asks) == 1:
            raise ValueError("not JSON")
        stage.searcher._stop.set()
        return {"hits": [hit("a.md", marker)], "generation": SPEC.id}

    monkeypatch.setattr("tests.soak.searcher.Searches", lambda _: SimpleNamespace(ask=ask, close=lambda: None))
    stage.searcher._timing()
    assert asks == [2, 1]
    assert stage.events.violations == {"harness": 1}


# --------------------------------------------------------------- memory


def lived(*lives: Sequence[float]) -> Any:
    return SimpleNamespace(memory=[list(one) for one in lives], starts=len(lives))


def rising(start: float, end: float, count: int = 200) -> list[float]:
    """Samples five seconds apart: 200 are 16.7 minutes."""
    return [float(one) for one in np.linspace(start, end, count)]


@pytest.mark.parametrize(
    ("lives", "grew"),
    [
        pytest.param([rising(100, 100)], False, id="flat"),
        pytest.param([rising(100, 135)], True, id="grows by a sixth and 17 MiB from quarter to quarter"),
        pytest.param([rising(100, 128)], False, id="less than 16 MiB"),
        pytest.param([rising(20, 48)], False, id="much of little"),
        pytest.param([rising(200, 240)], False, id="little of much"),
        pytest.param([rising(100, 135, 170)], False, id="still warming up"),
        pytest.param([rising(60, 100, 50) + rising(100, 100, 150)], False, id="warms up and is flat"),
        pytest.param([rising(100, 100), rising(100, 135, 100)], False, id="the longest life counts"),
        pytest.param([rising(100, 100, 150), rising(100, 135)], True, id="also where it is the last"),
        pytest.param([[*rising(100, 100, 100), 165.0, *rising(100, 100, 100)]], True, id="leaps once"),
        pytest.param([[*rising(100, 100, 100), 163.0, *rising(100, 100, 100)]], False, id="leaps by less than 64"),
        pytest.param([rising(100, 100), [100.0, 165.0, 100.0]], True, id="leaps in a short life"),
        pytest.param([[100.0, 165.0]], True, id="leaps in the only life, a short one"),
        pytest.param([[], []], False, id="never ready"),
        pytest.param([], False, id="never begun"),
    ],
)
def test_memory_that_grows_or_leaps_is_found(lives: list[list[float]], grew: bool) -> None:
    assert flatness(lived(*lives))["grew"] is grew


# --------------------------------------------------------------- processes that end


class Program:
    """A command that runs until a test says otherwise."""

    def __init__(self, folder: Path) -> None:
        self.code: int | None = None
        self._errors = (folder / f"{id(self)}.log").open("w+")
        self._errors.write("why it ended")
        self._errors.flush()
        self.process = SimpleNamespace(poll=lambda: self.code, stdout=io.StringIO(""))

    def kill(self) -> None:
        self.code = -9
        self._end()

    def _end(self) -> None:
        self._errors.close()


class Watched:
    """A cluster of one worker, without anything else."""

    def __init__(self, folder: Path) -> None:
        self.programs: list[Program] = []
        self.events = Events(folder / "events.jsonl")
        self.cluster = Cluster.__new__(Cluster)
        self.cluster.events, self.cluster.restarts = self.events, Counter()

        def begin(more: Mapping[str, str]) -> Any:
            self.programs.append(Program(folder))
            return self.programs[-1]

        self.worker = Worker("chunk-0", begin, folder, self.events, Weather())
        self.worker.start()

    def looked(self) -> tuple[int, dict[str, int]]:
        """How often it was started, and the violations."""
        self.cluster._revive(self.worker)
        return len(self.programs), dict(self.events.violations)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path)
    yield made
    for program in made.programs:
        program.kill()
    made.events.close()


@pytest.mark.parametrize("code", [0, 4, -9])
def test_a_process_that_ends_by_itself_is_a_violation_and_started_again(watched: Watched, code: int) -> None:
    assert watched.looked() == (1, {})
    watched.programs[-1].code = code
    assert watched.looked() == (2, {"restart": 1})
    assert watched.cluster.restarts == {"chunk-0": 1}
    assert watched.looked() == (2, {"restart": 1})


def test_one_that_the_soak_killed_is_started_again_and_not_counted(watched: Watched) -> None:
    assert watched.worker.kill()
    assert watched.looked() == (2, {})
    assert watched.cluster.restarts == {}
    watched.programs[-1].code = 1
    assert watched.looked() == (3, {"restart": 1})


def test_one_that_does_not_answer_six_probes_is_a_violation_unless_it_hangs_by_the_soak(watched: Watched) -> None:
    watched.worker.silent = 5
    assert watched.looked() == (1, {})
    watched.worker.silent, watched.worker.paused = 6, 1
    assert watched.looked() == (1, {})
    watched.worker.paused = 0
    assert watched.looked() == (2, {"restart": 1})
    assert watched.programs[0].code == -9


# --------------------------------------------------------------- quiet points

DOCUMENTS = {
    "a.md": Document("Title", "g0", 1, tuple((marker, f"{WORDS} {'more ' * 4}") for marker in (1, 2, 3))),
    "b.md": Document("Other", "g1", 2, ((4, WORDS),)),
}


class Stored:
    """A collection that is what the writer has written, until a test changes it."""

    def __init__(self) -> None:
        self.heads: dict[str, Head] = {}
        self.chunks: dict[str, list[StoredChunk]] = {}
        cut = chunker(SPEC, TOKENIZER)
        for path, document in DOCUMENTS.items():
            key = key_of(path)
            filters = {
                "source": SOURCE,
                "media_type": "text/markdown",
                "group": document.group,
                "level": document.level,
            }
            listed, stored = [], []
            spans = cut(document.text, "text/markdown")
            for span, occurrence in zip(spans, occurrences([one.content_hash for one in spans]), strict=True):
                text = span.context + document.text[span.start : span.end]
                id = chunk_id(key, span.content_hash, occurrence)
                listed.append(ListedChunk(id, span.start, span.end, span.tokens))
                (vector,) = EMBEDDER.embed_documents([text])
                stored.append(StoredChunk(id, key.doc, 1, span.content_hash, text, filters, "h", vector))
            self.heads[path] = Head(
                key, 1, "complete", 1, 0.0, tuple(listed), dict(document.metadata), filters, filter_hash="h"
            )
            self.chunks[path] = stored
        assert len(self.chunks["a.md"]) > 1, "one of several chunks is changed below"

    def scan_heads(self, after: Any) -> tuple[list[Head], None]:
        return list(self.heads.values()), None

    def scan_chunks(self, after: Any, vectors: bool) -> tuple[list[StoredChunk], None]:
        return [chunk for stored in self.chunks.values() for chunk in stored], None

    def head(self, **changes: Any) -> None:
        self.heads["a.md"] = replace(self.heads["a.md"], **changes)

    def chunk(self, **changes: Any) -> None:
        self.chunks["a.md"][1] = replace(self.chunks["a.md"][1], **changes)

    def deleted(self, state: Any) -> None:
        key = key_of("c.md")
        self.heads["c.md"] = Head(key, 1, state, 1, 0.0)


def compared(stored: Stored) -> list[str]:
    collection: Any = stored
    return verdict.against_truth(collection, SPEC, DOCUMENTS)[0]


def test_a_store_that_is_the_truth_differs_in_nothing() -> None:
    stored = Stored()
    stored.deleted("deleted")
    assert compared(stored) == []


NOT_A_NUMBER = np.full(SPEC.model.dimension, np.nan, dtype=np.float32)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda stored: stored.chunk(vector=NOT_A_NUMBER), "another vector"),
        (lambda stored: stored.chunk(vector=None), "another vector"),
        (lambda stored: stored.chunk(vector=stored.chunks["a.md"][0].vector), "another vector"),
        (lambda stored: stored.chunk(text="else"), "another text"),
        (lambda stored: stored.chunk(filters={**stored.chunks["a.md"][1].filters, "group": "g5"}), "has filters"),
        (lambda stored: stored.chunk(filter_hash="other"), "has filters"),
        (lambda stored: stored.chunks["a.md"].pop(), "0 orphans, 1 lost"),
        (lambda stored: stored.chunks["a.md"].append(replace(stored.chunks["a.md"][0], id="x")), "1 orphans, 0 lost"),
        (lambda stored: stored.head(chunks=stored.heads["a.md"].chunks[::-1]), "in this order"),
        (lambda stored: stored.head(chunks=stored.heads["a.md"].chunks[:1]), "in this order"),
        (lambda stored: stored.head(metadata={**stored.heads["a.md"].metadata, "title": "x"}), "metadata"),
        (lambda stored: stored.head(filters={}), "filters {}"),
        (lambda stored: stored.head(state="failed", reason="x"), "head is failed, not complete"),
        (lambda stored: stored.heads.pop("a.md"), "no head"),
        (lambda stored: stored.deleted("complete"), "is gone, but its head is complete"),
        (
            lambda stored: (
                stored.deleted("deleted"),
                stored.chunks.update({"c.md": [replace(stored.chunks["a.md"][0], doc=key_of("c.md").doc)]}),
            ),
            "is gone, but 1 chunks",
        ),
        (
            lambda stored: stored.chunks.update({"c.md": [replace(stored.chunks["a.md"][0], doc="nobody")]}),
            "nobody: 1 chunks without a head",
        ),
    ],
)
def test_whatever_is_not_the_truth_is_found(changed: Callable[[Stored], Any], said: str) -> None:
    stored = Stored()
    changed(stored)
    assert any(said in text for text in compared(stored)), compared(stored)


@pytest.mark.parametrize("heals", [True, False])
def test_a_difference_is_waited_for_and_then_a_violation(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, heals: bool
) -> None:
    events = Events(tmp_path / "events.jsonl")
    began = clock.now
    monkeypatch.setattr(
        verdict, "_differences", lambda *_: {} if heals and clock.now > began + 20 else {"lag": ["some"]}
    )
    cluster: Any = SimpleNamespace(ready=lambda: True, brokers=[], events=events)
    taken = verdict.quiet(cluster, Truth(), Weather(), 30.0)
    assert events.violations == ({} if heals else {"lag": 1})
    assert taken == (21 if heals else 31)
    events.close()


# --------------------------------------------------------------- faults, and the report


def elected(*codes: int) -> Any:
    results = [SimpleNamespace(partition_result=[SimpleNamespace(error_code=code)]) for code in codes]
    return SimpleNamespace(replica_election_results=results)


@pytest.mark.parametrize(
    ("answer", "counted"),
    [
        (elected(84, 0, 84), True),
        (elected(84, 84), False),  # not needed: who is preferred leads
        (elected(80), False),  # who is preferred is dead
        (elected(), False),
        (storm.KafkaError("nobody answers"), False),
    ],
)
def test_an_election_is_a_fault_only_where_a_leader_has_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, counted: bool
) -> None:
    class Admin:
        def __init__(self, **_: Any) -> None:
            pass

        def elect_leaders(self, kind: int, raise_errors: bool) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        def close(self) -> None:
            pass

    monkeypatch.setattr(storm, "KafkaAdminClient", Admin)
    events = Events(tmp_path / "events.jsonl")
    cluster: Any = SimpleNamespace(bootstrap="", events=events)
    faults = storm.Faults(cluster)
    faults._one(Fault(0.0, "leaders", "all", 0.0))
    assert (faults.counts, faults.idle) == (({"leaders": 1}, {}) if counted else ({}, {"leaders": 1}))
    assert events.violations == {}
    events.close()


def test_a_disk_that_is_not_its_own_is_not_filled_and_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[Path] = []
    monkeypatch.setattr(storm, "_fill", filled.append)
    events = Events(tmp_path / "events.jsonl")
    cluster: Any = SimpleNamespace(small_disk=False, state=tmp_path, events=events)
    faults = storm.Faults(cluster)
    faults._one(Fault(0.0, "disk", "connect", 0.0))
    assert (faults.counts, faults.idle, filled) == ({}, {"disk": 1}, [])
    events.close()


def reported(stage: Stage, worker: Any, small_disk: bool = True, idle: Mapping[str, int] | None = None) -> Any:
    cluster: Any = SimpleNamespace(
        events=stage.events, workers={"chunk-0": worker}, small_disk=small_disk, restarts=Counter()
    )
    return report(
        Figures(
            minutes=1.0,
            settings={},
            cluster=cluster,
            truth=stage.truth,
            searcher=stage.searcher,
            faults={"kill embed-0": 2},
            idle=idle or {},
            proxied={},
            migrations={},
            drains=[1.0],
            storms=1,
            starved=0.0,
        )
    )


@pytest.mark.parametrize("end", [100, 135])
def test_memory_that_grew_is_a_violation_of_the_report(stage: Stage, end: float) -> None:
    found = reported(stage, lived(rising(100, end)))
    assert found["violations"] == ({"memory": 1} if end > 100 else {})
    assert last_line(found) == f"0 operations, 2 faults, {int(end > 100)} violations"


def test_the_report_says_what_was_not_timed_beside_what_was(stage: Stage) -> None:
    stage.searcher.freshness["storm"] += [1.0, 2.0]
    stage.searcher.untimed["storm"]["overtaken by another change"] += 3
    stage.searcher.passed_over = 4
    found = reported(stage, lived(rising(100, 100)))
    assert found["freshness seconds"]["storm"]["worst"] == 2.0
    assert found["freshness seconds"]["storm"]["given up"] == {"overtaken by another change": 3}
    assert found["freshness seconds"]["calm"] == {"count": 0, "given up": {}}
    assert found["changes not timed, as others were"] == 4


def test_what_was_planned_and_not_done_stands_beside_the_last_line(stage: Stage) -> None:
    worker = lived(rising(100, 100))
    assert not_tried(reported(stage, worker)) == []
    found = reported(stage, worker, small_disk=False, idle={"leaders": 2, "disk": 3})
    assert not_tried(found) == [
        f"disk faults were {DISK_SKIPPED}",
        "faults that did nothing, and are not counted: disk 3, leaders 2",
    ]
    assert last_line(found) == "0 operations, 2 faults, 0 violations"
