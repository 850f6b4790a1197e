"""Verification in a running process: what is asked of it, and the patrol over what is followed here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.partitioner import partition_of
from pipeline.cli.assembly import Followed, Models, Parts, apply_topics, founded
from pipeline.cli.index import Index
from pipeline.cli.lines import Lines
from pipeline.cli.migrations import Migrations
from pipeline.cli.patrolling import patrol_of
from pipeline.cli.tasks import raised
from pipeline.cli.verifications import Verifications
from pipeline.cli.verify import report_lines
from pipeline.cli.verifying import Examination, Wanted
from pipeline.codec import encode_event
from pipeline.config import (
    Config,
    EmbedConfig,
    ModelConfig,
    PipelineConfig,
    SourceConfig,
    VerifyConfig,
    WorkConfig,
)
from pipeline.deadline import Deadline
from pipeline.embedding.generation import generation_spec
from pipeline.errors import ConfigError, LogDiverged, Refused
from pipeline.generations import operator, transitions
from pipeline.generations.control import Generation
from pipeline.identity import DocumentKey, content_hash, stamp_of
from pipeline.naming import Names
from pipeline.points import Head
from pipeline.ports import NewRecord, Publisher
from pipeline.records import DocumentChanged, Provenance
from pipeline.store.memory import MemoryCollection, MemoryStore
from pipeline.verification import Repaired, Verdict, verify
from pipeline.verification.checkpoint import Checkpoint
from pipeline.verification.findings import Named
from pipeline.verification.full import Full
from pipeline.verification.patrol import Patrol, Stopped
from pipeline.verification.published import last_verified
from pipeline.verification.sources import SourceReport

SECONDS = 20.0
DOCUMENTS = 8
CONFIG = Config(
    pipeline=PipelineConfig(prefix="t", name="p", partitions=2),
    model=ModelConfig(provider="hashing", name="hashing", dimension=32),
    work=WorkConfig(drain_seconds=2.0, commit_seconds=0.05),
    embed=EmbedConfig(flush_seconds=0.05, delete_grace_seconds=0.2),
    verify=VerifyConfig(every_seconds=1e-6, documents_per_second=1e6, sample=5),
)


@dataclass
class Bench:
    parts: Parts
    control: Followed
    models: Models
    lines: Lines
    live: Generation

    @property
    def collection(self) -> MemoryCollection:
        return self.parts.store.open(self.parts.names.collection(self.live.id))  # type: ignore[return-value]

    def publish(self, path: str, text: str | None) -> None:
        key, omitted = DocumentKey("s", path), "" if text else "too big"
        event = DocumentChanged(key, text, {}, "text/plain", "d", Provenance(1.0), omitted=omitted)
        record = NewRecord(self.parts.names.documents(0), *encode_event(event))
        self.parts.broker.publisher("t").publish([record], Deadline.after(5))

    def turn_until(self, true: Callable[[], object]) -> None:
        until = time.monotonic() + SECONDS
        while not true():
            assert time.monotonic() < until, "it never came true"
            self.lines._turn()
            time.sleep(0.02)

    def patrol(self, **verify: object) -> Patrol:
        config = CONFIG.model_copy(update={"verify": CONFIG.verify.model_copy(update=verify)})
        return patrol_of(replace(self.parts, config=config), self.control, self.models, self.lines)

    def metric(self, name: str, id: str | None = None, **labels: str) -> float | None:
        found = self.parts.metrics.registry.get_sample_value
        return found(f"vectide_verify_{name}", {"generation": id or self.live.id, **labels})

    def lose(self, path: str) -> Head:
        """A chunk of a document goes missing."""
        (head,) = self.collection.heads([DocumentKey("s", path).doc]).values()
        self.collection._remove(head.chunks[0].id)
        return head


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for module in ("comparison", "full"):
        monkeypatch.setattr(f"pipeline.verification.{module}.LOOK_SECONDS", 0.01)
    broker = EmbeddedBroker(None)
    parts = Parts(CONFIG, Names("t", "p"), broker, MemoryStore())
    apply_topics(parts)
    live = founded(parts).live
    assert live is not None
    control, models = Followed(parts), Models(CONFIG)
    lines = Lines(parts, control, models, ("chunk", "embed"))
    lines.start_live(control())
    made = Bench(parts, control, models, lines, live)
    for number in range(DOCUMENTS):
        event = DocumentChanged(
            DocumentKey("s", f"d{number}"), f"text of {number}", {}, "text/plain", "d", Provenance(1.0)
        )
        broker.publisher("t").publish([NewRecord(parts.names.documents(0), *encode_event(event))], Deadline.after(5))
    made.turn_until(lambda: made.collection.count_heads().get("complete", 0) == DOCUMENTS)
    made.turn_until(lambda: lines.holds(live.id, 0))
    yield made
    for line in lines._lines.values():
        assert line.end()
    control.close()
    broker.close()


# -------------------------------------------------------------------------- asked for


def ask(bench: Bench, sources: dict[str, SourceConfig] | None = None, **given: object) -> dict[str, Any]:
    """A verification, from beginning to end."""
    return awaited(Verifications(bench.parts, bench.control, bench.models, sources or {}), {"action": "start", **given})


def awaited(asked: Verifications | Migrations, arguments: dict[str, Any]) -> dict[str, Any]:
    """A task, from beginning to end."""
    try:
        task = asked.ask(arguments)
        until = time.monotonic() + SECONDS
        while task["running"]:
            assert time.monotonic() < until
            time.sleep(0.01)
            task = asked.ask({"action": "task", "id": task["id"]})
        return raised(task)
    finally:
        asked.close()


def test_what_is_not_served_is_a_finding_only_if_that_is_asked_for(bench: Bench) -> None:
    bench.publish("big", None)
    bench.turn_until(lambda: bench.collection.count_heads().get("omitted"))
    report = ask(bench)
    assert (report["ok"], report["equal"]) == (True, True)
    assert report["unserved"] == {
        "count": 1,
        "examples": [{"key": "s:big", "state": "omitted", "reason": "too big"}],
    }
    strict = ask(bench, strict=True)
    assert (strict["ok"], strict["equal"]) == (True, False)


def test_a_forged_chunk_that_a_sample_meets_is_told_whole_and_mended(bench: Bench) -> None:
    """Given text, hash and vector that fit each other and not the log, then the sample finds the
    document, a look at all of it says what of it is wrong, and exactly that is written again.
    """
    (head,) = bench.collection.heads([DocumentKey("s", "d3").doc]).values()
    chunk = bench.collection._chunks[head.chunks[0].id]
    vector = bench.models.of(bench.live.spec).embed_documents(["forged"])[0]
    bench.collection._remove(chunk.id)
    bench.collection._put(replace(chunk, text="forged", content_hash=content_hash("forged"), vector=vector))
    report = ask(bench, sample=1000, seed=1)
    assert (report["sample"]["wrong"], report["equal"]) == (1, False)
    assert report["findings"]["wrong text"] == {"count": 1, "examples": ["s:d3"]}
    mended = ask(bench, sample=1000, seed=1, fix=True)
    assert (mended["equal"], mended["repaired"]["embedded"]) == (True, 1)
    assert bench.collection._chunks[chunk.id].text == chunk.text


def test_a_repair_that_mends_nothing_is_not_taken_at_its_word(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cli.verifying.repair", lambda *arguments, **more: Repaired())
    (head,) = bench.collection.heads([DocumentKey("s", "d3").doc]).values()
    chunk = bench.collection._chunks[head.chunks[0].id]
    bench.collection._chunks[chunk.id] = replace(chunk, vector=-chunk.vector)
    report = ask(bench, sample=1000, seed=1, fix=True)
    assert not report["equal"]
    assert report["again"]["findings"]["wrong vector"] == {"count": 1, "examples": ["s:d3"]}


def test_a_point_that_carries_another_s_cells_is_said_and_strictly_different(bench: Bench) -> None:
    """Given a chunk with cells that are not its own, then every document is right, and the counts are not."""
    tally = bench.collection.tally

    def forged(of: Any) -> Any:
        counts = tally(of)
        if of == "chunks":
            counts[counts.argmax()] -= 1
            counts[np.flatnonzero(counts == 0)[0]] += 1
        return counts

    bench.collection.tally = forged  # type: ignore[method-assign]
    report = ask(bench)
    assert (report["equal"], report["unexplained"]) == (True, 2)
    assert "2 counts that no document explains" in list(report_lines(report))[-1]
    assert not ask(bench, strict=True)["equal"]


def test_strict_is_judged_by_what_is_left_after_the_repair(bench: Bench) -> None:
    """Given a document that failed only for want of memory, when the repair can embed it, then nothing is unserved."""
    (head,) = bench.collection.heads([DocumentKey("s", "d3").doc]).values()
    failed = replace(head, state="failed", chunks=(), content_version=-1, reason="no memory")
    bench.collection._heads[head.doc] = failed
    for chunk in head.chunks:
        bench.collection._remove(chunk.id)
    bench.lose("d4")
    report = ask(bench, strict=True)
    assert (report["unserved"]["count"], report["equal"]) == (1, False)
    mended = ask(bench, strict=True, fix=True)
    assert mended["again"]["unserved"]["count"] == 1
    assert not mended["equal"], "a failed document is no finding, and is not run again"
    bench.collection._heads[head.doc] = replace(failed, stamp=head.stamp - 64)
    stale = ask(bench, strict=True, fix=True)
    assert (stale["unserved"]["count"], stale["again"]["unserved"]["count"], stale["equal"]) == (1, 0, True)


def spoil(bench: Bench) -> None:
    """Every chunk has a wrong vector."""
    for one in list(bench.collection._chunks.values()):
        bench.collection._remove(one.id)
        bench.collection._put(replace(one, vector=-np.asarray(one.vector)))


def test_a_sample_that_mends_what_it_met_does_not_speak_for_the_others(bench: Bench) -> None:
    """Given wrong vectors everywhere, when a sample of two is mended, then another sample says that it was not all."""
    spoil(bench)
    report = ask(bench, sample=2, seed=11, fix=True)
    assert report["sample"]["wrong"] == 2
    assert report["again"]["sample"]["wrong"] == 1, "of the two that it has drawn one was mended"
    assert report["again"]["sample"]["seed"] != 11
    assert (report["again"]["ok"], report["equal"], report["repaired"]["embedded"]) == (False, False, 2)
    assert report["again"]["findings"]["wrong vector"]["count"] == 1
    lines = list(report_lines(report))
    assert lines[-1].endswith("--full --fix mends them all")
    assert not last_verified(bench.parts.broker, bench.parts.names)[bench.live.id].ok
    assert ask(bench, full=True, fix=True)["equal"]
    whole = ask(bench, sample=2, seed=11, fix=True)
    assert (whole["equal"], whole["again"]) == (True, None)


def test_more_findings_than_a_checkpoint_keeps_are_all_mended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.verification.checkpoint.KEPT", 3)
    spoil(bench)
    report = ask(bench, full=True, fix=True)
    assert (report["findings"]["wrong vector"]["count"], report["full"]["more"]) == (DOCUMENTS, 0)
    assert (report["repaired"]["embedded"], report["equal"]) == (DOCUMENTS, True)
    assert not any("kill" in line for line in report_lines(report))
    assert ask(bench, full=True)["equal"]


@pytest.mark.parametrize("mended", [False, True])
def test_what_a_kill_has_left_only_as_a_number_is_looked_for_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    """Given a checkpoint behind the last record, of which it names no finding, then that is no equal; after a repair
    of nothing everything is looked at again.
    """
    if not mended:
        spoil(bench)
    of = Examination(bench.parts, bench.live, bench.models, {}, Wanted(), lambda *at: None)
    of._collection = bench.collection
    ends = bench.parts.broker.offsets(bench.parts.names.documents(0))
    reached = {partition: one.end for partition, one in ends.items()}
    left = Checkpoint(None, of._of, reached, documents=DOCUMENTS, more=DOCUMENTS)
    monkeypatch.setattr("pipeline.cli.verifying.Checkpoint.load", lambda path, of: left)
    report = ask(bench, full=True)
    assert (report["ok"], report["equal"], report["full"]["more"]) == (False, False, DOCUMENTS)
    assert any("over a kill" in line for line in report_lines(report))
    again = ask(bench, full=True, fix=True)
    assert (again["equal"], again["again"]["ok"]) == (mended, mended)
    assert again["again"]["findings"]["wrong vector"]["count"] == (0 if mended else DOCUMENTS)


def test_a_patrol_that_mends_says_the_same_to_metrics_and_status(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a seed after which the second sample does not draw those again that the first has mended."""
    monkeypatch.setattr("pipeline.cli.patrolling.secrets.randbelow", lambda below: 11)
    spoil(bench)
    patrol = bench.patrol(repair=True, sample=2)
    patrol.turn(threading.Event())
    last = last_verified(bench.parts.broker, bench.parts.names)[bench.live.id]
    assert (last.ok, last.repaired, last.findings) == (False, 2, {"wrong vector": 2})
    assert bench.metric("findings", kind="wrong vector") == 2


def test_what_only_a_sample_has_seen_is_no_equal(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a look at the whole document that finds nothing, for it was written meanwhile."""
    spoil(bench)
    monkeypatch.setattr("pipeline.cli.verifying.full", lambda *arguments: Full(0, 0, resumed=False, more=0))
    report = ask(bench, sample=2, seed=5)
    assert (report["ok"], report["equal"], report["findings"]["wrong vector"]["count"]) == (False, False, 0)
    last = last_verified(bench.parts.broker, bench.parts.names)[bench.live.id]
    assert (last.ok, last.findings) == (False, {"wrong vector": 2})


def test_a_generation_that_is_over_is_not_verified(bench: Bench) -> None:
    spec = generation_spec(CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"dimension": 64})}))
    for decide in (
        lambda state: transitions.start(state, spec, time.time()),
        lambda state: transitions.abort(state, spec.id, time.time()),
    ):
        operator.operate(bench.parts.broker, bench.parts.names, decide)
    with pytest.raises(Refused, match=f"no generation {spec.id} that is kept in step"):
        ask(bench, generation=spec.id)


def test_a_log_that_has_lost_records_is_told_from_a_store_that_is_wrong(bench: Bench) -> None:
    ends = bench.parts.broker.offsets(bench.parts.names.documents(0))
    heads = {
        partition: head
        for head in bench.collection._heads.values()
        for partition in [partition_of(head.key.to_bytes(), len(ends))]
        if head.version < ends[partition].end - 1
    }
    partition, head = next(iter(heads.items()))
    # The version of another document in the same partition: below the ends, and not this one's.
    bench.collection._heads[head.doc] = replace(head, stamp=stamp_of(ends[partition].end - 1))
    report = ask(bench, fix=True)
    assert (report["ahead"], report["equal"]) == (1, False)
    assert report["repaired"]["left"]


def replace_log(parts: Parts) -> None:
    """The documents topic is deleted, and made again without a record."""
    parts.broker.delete_topics([parts.names.documents(parts.config.pipeline.epoch)])
    apply_topics(parts)


def raise_epoch(bench: Bench) -> Bench:
    """As somebody who starts anew and has not built the new generation yet."""
    pipeline = CONFIG.pipeline.model_copy(update={"epoch": 1})
    parts = replace(bench.parts, config=CONFIG.model_copy(update={"pipeline": pipeline}))
    apply_topics(parts)
    return replace(bench, parts=parts)


@pytest.mark.parametrize("fix", [False, True])
def test_another_log_is_refused_before_anything_is_an_orphan(bench: Bench, fix: bool) -> None:
    """Given a topic of a higher epoch, or one made again under the same name, without a record, then the whole
    collection is no orphan: nothing is said of it, and nothing deleted.
    """
    heads, chunks = bench.collection.count_heads(), bench.collection.count_chunks()
    raised_ = raise_epoch(bench)
    with pytest.raises(LogDiverged, match="comes from epoch 0"):
        ask(raised_, fix=fix)
    replace_log(bench.parts)
    with pytest.raises(LogDiverged, match="its offsets start anew"):
        ask(bench, fix=fix)
    assert (bench.collection.count_heads(), bench.collection.count_chunks()) == (heads, chunks)


def test_a_log_that_is_replaced_while_it_is_verified_is_refused_before_the_repair(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verified(*arguments: Any) -> Verdict:
        verdict = verify(*arguments)
        replace_log(bench.parts)
        return verdict

    head = bench.lose("d3")
    monkeypatch.setattr("pipeline.cli.verifying.verify", verified)
    with pytest.raises(LogDiverged):
        ask(bench, fix=True)
    assert bench.collection.heads([head.doc]) == {head.doc: head}


def test_the_gate_examines_no_generation_against_another_log(bench: Bench) -> None:
    spec = generation_spec(CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"dimension": 64})}))
    operator.operate(bench.parts.broker, bench.parts.names, lambda state: transitions.start(state, spec, time.time()))
    bench.turn_until(lambda: bench.lines.holds(spec.id, 0))
    replace_log(bench.parts)
    with pytest.raises(LogDiverged):
        awaited(Migrations(bench.parts, bench.control, bench.models), {"action": "gate"})


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ({"full": True, "sample": 3}, ConfigError, "exclude each other"),
        ({"sample": -1}, ConfigError, "`sample` = -1 is not a number from 0"),
        ({"wait": "soon"}, ConfigError, "`wait` = 'soon'"),
        ({"source": True}, ConfigError, "no source is configured"),
        ({"generation": "gx"}, Refused, "there is no generation gx"),
    ],
)
def test_a_wrong_question_is_told_what_is_wrong_with_it(
    bench: Bench, given: dict[str, object], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        ask(bench, **given)
    with pytest.raises(ConfigError, match="unknown action"):
        Verifications(bench.parts, bench.control, bench.models, {}).ask({"action": "mend"})


def test_a_source_that_cannot_be_reached_is_named_and_keeps_nothing_from_being_mended(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    here = SourceConfig.model_validate({"connector": "filesystem", "path": str(tmp_path / "here")})
    away = SourceConfig.model_validate({"connector": "filesystem", "path": str(tmp_path / "away")})
    report = ask(bench, {"here": here, "away": away}, source=True)
    assert (report["different"], report["unproven"], report["equal"]) == (False, ["away"], False), "nobody knows of all"
    assert [(one["source"], one["ok"]) for one in report["sources"]] == [("here", True), ("away", False)]
    bench.lose("d3")
    alone = ask(bench, {"away": away}, source=True, fix=True)
    assert [one["source"] for one in alone["sources"] if "unreached" in one] == ["away"]
    assert (alone["unproven"], alone["different"], alone["again"]["ok"]) == (["away"], False, True)
    assert alone["repaired"]["documents"] == {"complete": 1}
    (tmp_path / "here" / "new.md").write_text("# New\n")
    unlike = ask(bench, {"here": here, "away": away}, source=True)
    assert (unlike["different"], unlike["unproven"], unlike["equal"]) == (True, ["away"], False)


@pytest.mark.parametrize("unsure", [{"unreadable": Named(1, ("s:x",))}, {"changing": 2}])
def test_a_document_that_cannot_be_held_against_the_log_is_not_proven(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unsure: dict[str, Any]
) -> None:
    here = SourceConfig.model_validate({"connector": "filesystem", "path": str(tmp_path)})
    monkeypatch.setattr(
        "pipeline.cli.verifying.compare_sources", lambda *given: [SourceReport("here", documents=3, **unsure)]
    )
    report = ask(bench, {"here": here}, source=True)
    assert (report["different"], report["unproven"], report["equal"]) == (False, ["here"], False)


# ------------------------------------------------------------------------- the patrol


def test_the_live_generation_is_verified_and_status_can_say_so(bench: Bench) -> None:
    bench.patrol().turn(threading.Event())
    assert bench.metric("coverage_ratio") == 1.0
    assert bench.metric("findings", kind="unfinished") == 0
    last = last_verified(bench.parts.broker, bench.parts.names)[bench.live.id]
    assert (last.by, last.ok, last.documents, last.vectors) == ("patrol", True, DOCUMENTS, 5)


def test_what_is_found_is_shown_and_mended_only_if_that_is_configured(bench: Bench) -> None:
    head = bench.lose("d3")
    bench.patrol().turn(threading.Event())
    assert bench.metric("findings", kind="unfinished") == 1
    assert not bench.collection.existing([head.chunks[0].id])
    assert not last_verified(bench.parts.broker, bench.parts.names)[bench.live.id].ok
    bench.patrol(repair=True).turn(threading.Event())
    assert bench.metric("findings", kind="unfinished") == 1, "as it was found"
    assert bench.collection.existing([head.chunks[0].id])
    last = last_verified(bench.parts.broker, bench.parts.names)[bench.live.id]
    assert (last.ok, last.repaired, last.findings) == (True, 1, {"unfinished": 1})
    bench.patrol(repair=True).turn(threading.Event())
    assert bench.metric("findings", kind="unfinished") == 0


def test_documents_that_are_not_served_lower_the_coverage(bench: Bench) -> None:
    bench.publish("big", None)
    bench.turn_until(lambda: bench.collection.count_heads().get("omitted"))
    bench.patrol().turn(threading.Event())
    assert bench.metric("coverage_ratio") == pytest.approx(DOCUMENTS / (DOCUMENTS + 1))


def test_a_generation_that_is_built_is_left_alone_and_one_that_was_live_costs_no_vectors(bench: Bench) -> None:
    spec = generation_spec(CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"dimension": 64})}))
    operate: Callable[[operator.Decision], object] = lambda decide: operator.operate(  # noqa: E731
        bench.parts.broker, bench.parts.names, decide
    )
    operate(lambda state: transitions.start(state, spec, time.time()))
    bench.turn_until(lambda: bench.lines.holds(spec.id, 0))
    patrol = bench.patrol()
    assert list(patrol.generations()) == [bench.live.id]
    operate(lambda state: transitions.cut_over(state, spec.id, None, time.time(), "a test"))
    bench.turn_until(lambda: bench.control.again().live.id == spec.id)  # type: ignore[union-attr]
    time.sleep(0.3)  # what control said is looked up a few times a second
    assert sorted(patrol.generations()) == sorted([bench.live.id, spec.id])
    patrol.turn(threading.Event())
    last = last_verified(bench.parts.broker, bench.parts.names)
    assert (last[spec.id].vectors, last[bench.live.id].vectors) == (5, 0)


def test_the_patrol_closes_the_publisher_of_its_verdict(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a thread and a connection to Kafka."""
    opened: list[str] = []
    closed: list[str] = []
    publisher = bench.parts.broker.publisher

    def counted(client: str) -> Publisher:
        made = publisher(client)
        opened.append(client)
        monkeypatch.setattr(made, "close", lambda deadline: closed.append(client))
        return made

    monkeypatch.setattr(bench.parts.broker, "publisher", counted)
    bench.patrol().verify(bench.live.id, threading.Event())
    assert opened == closed == ["verify"]


def test_the_patrol_makes_room_after_each_document_that_it_cuts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of the log at once would hold up every edit that comes meanwhile."""
    for number in range(20):
        bench.publish(f"d{number}", f"text {number}")
    bench.turn_until(lambda: bench.collection.count_heads().get("complete", 0) >= 20)
    pauses: list[int] = []
    monkeypatch.setattr("pipeline.verification.patrol.Pacer.pause", lambda pacer, done: pauses.append(done))
    bench.patrol().verify(bench.live.id, threading.Event())
    assert pauses.count(1) >= 20


def test_who_does_not_hold_the_first_partition_verifies_nothing(bench: Bench) -> None:
    assert bench.lines.holds(bench.live.id, 0)
    assert not bench.lines.holds(bench.live.id, 2)
    assert not bench.lines.holds("gx", 0)
    chunkers = Lines(bench.parts, bench.control, bench.models, ("chunk",))
    assert list(patrol_of(bench.parts, bench.control, bench.models, chunkers).generations()) == []


def test_up_verifies_what_is_live_in_the_background(tmp_path: Path) -> None:
    """Given an ``up`` that nobody asks for anything, then it is verified all the same."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "one.md").write_text("# One\n\nThe only document.\n")
    config = CONFIG.model_copy(update={"state": tmp_path / "state"})
    parts = Parts(config, Names("t", "p"), EmbeddedBroker(None), MemoryStore())
    source = SourceConfig.model_validate({"connector": "filesystem", "path": str(folder)})
    index = Index(parts, {"docs": source}, threading.Event())
    index.start()
    try:
        until = time.monotonic() + SECONDS
        while not (last := last_verified(parts.broker, parts.names).get(index.spec.id)) or not last.documents:
            assert time.monotonic() < until, "it was never verified"
            index.crew.raise_failure()
            time.sleep(0.02)
        assert (last.by, last.ok, last.documents) == ("patrol", True, 1)
    finally:
        assert index.close()
        parts.broker.close()


def test_a_process_that_ends_waits_for_no_generation_to_catch_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in bench.lines._lines.values():
        assert line.end()
    bench.publish("never applied", "text")
    rests: list[float] = []
    monkeypatch.setattr("pipeline.verification.patrol.Pacer.rested", lambda pacer: rests.append(1.0))
    stop = threading.Event()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    with pytest.raises(Stopped):
        bench.patrol().verify(bench.live.id, stop)
    timer.join()
    assert rests, "to wait is no work"


def test_a_process_that_ends_gives_the_verification_up(bench: Bench) -> None:
    stop = threading.Event()
    patrol = bench.patrol()
    stop.set()
    with pytest.raises(Stopped):
        patrol.verify(bench.live.id, stop)
    assert last_verified(bench.parts.broker, bench.parts.names) == {}
