"""The gate: each of its refusals, in their order, and what passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.topics import chunks_topic, pipeline_topics
from pipeline.chunking.documents import chunked
from pipeline.codec import decode_event, encode_event
from pipeline.config import Config, ModelConfig, PipelineConfig
from pipeline.deadline import Deadline
from pipeline.embedding.batches import embed_all
from pipeline.embedding.generation import chunker, generation_spec
from pipeline.embedding.hashing import HashingEmbedder
from pipeline.embedding.models import tokenizer_of
from pipeline.errors import LogDiverged, Transient
from pipeline.generations import gate
from pipeline.generations.quality import Comparison
from pipeline.identity import DocumentKey, version_of
from pipeline.ports import CollectionSpec, NewRecord, Store, TopicPartition
from pipeline.records import DocumentChanged, Provenance
from pipeline.specs import GenerationSpec
from pipeline.store.memory import MemoryCollection, MemoryStore
from pipeline.sync import synchronise
from tests.support.workers import NAMES

HASHING = ModelConfig(provider="hashing", name="hashing")
TOKENIZER = tokenizer_of(HASHING)
PIPELINE = PipelineConfig(prefix=NAMES.prefix, name=NAMES.pipeline, partitions=2)
TOPIC = NAMES.documents(0)


def spec(dimension: int) -> GenerationSpec:
    return generation_spec(Config(model=replace_model(dimension)))


def replace_model(dimension: int) -> ModelConfig:
    return HASHING.model_copy(update={"dimension": dimension})


LIVE, TARGET = spec(64), spec(32)
GOOD = Comparison(True, 1, 0, 0, (), 0.01, 1.0, (), "")


@dataclass
class Bench:
    """A log, a live generation and one that is built, both followed by hand."""

    broker: EmbeddedBroker
    store: Store = field(default_factory=MemoryStore)
    asked: int = 0
    indexing: int = 2
    verdict: Comparison = GOOD

    def collection(self, one: GenerationSpec) -> MemoryCollection:
        return self.store.create(  # type: ignore[return-value]
            CollectionSpec(
                NAMES.collection(one.id),
                one.id,
                one.model.dimension,
                one.model.distance,
                one.model.fingerprint,
                one.chunking.fingerprint,
            )
        )

    def put(self, path: str, text: str | None = "some text") -> None:
        event = DocumentChanged(
            DocumentKey("s", path), text, {}, "text/plain", "d", Provenance(1.0), omitted="" if text else "big"
        )
        self.broker.publisher("t").publish([NewRecord(TOPIC, *encode_event(event))], Deadline.after(5))

    def follow(self, one: GenerationSpec, *, commit: bool = True) -> None:
        cut, model = chunker(one, TOKENIZER), HashingEmbedder(one.model, TOKENIZER)
        reader = self.broker.reader(TOPIC)
        documents = []
        while not reader.caught_up():
            for record in reader.poll(0.0, 100):
                event = decode_event(record)
                assert event is not None
                documents.append(chunked(event, version_of(0, record.offset), one.id, cut))
        synchronise(self.collection(one), documents, lambda items: embed_all(model, items, None, 64))
        if commit:
            self.commit("chunk", TOPIC, one)

    def commit(self, stage: str, topic: str, one: GenerationSpec) -> None:
        consumer = self.broker.consumer(NAMES.group(stage, one.id), [topic], "t")  # type: ignore[arg-type]
        consumer.poll(0.0, 1)
        ends = {TopicPartition(topic, partition): at.end for partition, at in self.broker.offsets(topic).items()}
        consumer.commit(ends, Deadline.after(5))
        consumer.close(Deadline.after(5))

    def examine(self, wait_seconds: float = 0.0, target: GenerationSpec = TARGET) -> gate.Report:
        def quality(on_phase: gate.OnPhase) -> Comparison:
            self.asked += 1
            assert self.indexing == 0, "the index is built before the questions"
            return self.verdict

        def build() -> bool:
            self.indexing -= 1
            return self.indexing == 0

        collections = [self.collection(one) for one in (TARGET, LIVE)]
        return gate.examine(
            self.broker, NAMES, 0, target, 7, collections[0], collections[1], chunker(TARGET, TOKENIZER), build,
            quality, wait_seconds,
        )  # fmt: skip


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr("pipeline.verification.comparison.LOOK_SECONDS", 0.0)
    broker = EmbeddedBroker(None)
    broker.ensure_topics(
        [*pipeline_topics(NAMES, PIPELINE), *(chunks_topic(NAMES, one.id, PIPELINE) for one in (LIVE, TARGET))]
    )
    made = Bench(broker)
    for number in range(5):
        made.put(f"d{number}")
    made.follow(LIVE)
    yield made
    broker.close()


def test_what_equals_the_log_and_answers_as_well_passes(bench: Bench) -> None:
    bench.follow(TARGET)
    report = bench.examine()
    assert report.ok, report.why
    assert (report.examined, bench.asked) == (7, 1)
    assert report.as_json()["verification"]["documents"] == 5


def test_a_collection_of_another_model_is_refused_before_anything_is_read(bench: Bench) -> None:
    report = bench.examine(target=spec(16))
    assert "another model" in report.why[0]
    assert report.verification is None


@pytest.mark.parametrize("stage", ["chunk", "embed"])
def test_a_group_that_is_beyond_its_topic_tells_that_records_are_lost(bench: Bench, stage: str) -> None:
    """Given an empty topic in place of the one that a group has read, then it has not caught up with it: the log is
    another, or what is left of it.
    """
    bench.follow(TARGET)
    topic = TOPIC if stage == "chunk" else NAMES.chunks(TARGET.id)
    end = bench.broker.offsets(topic)[0].end
    bench.broker.log.commit(NAMES.group(stage, TARGET.id), {(topic, 0): end + 1})  # type: ignore[arg-type]
    with pytest.raises(LogDiverged, match="has lost records"):
        bench.examine()


def test_one_that_is_behind_is_refused(bench: Bench) -> None:
    bench.follow(TARGET)
    bench.put("new")
    report = bench.examine()
    assert "behind the log" in report.why[0]
    assert (report.caught_up["behind"], bench.asked) == (1, 0)


def test_the_embed_stage_must_have_caught_up_as_well(bench: Bench) -> None:
    bench.follow(TARGET)
    record = NewRecord(NAMES.chunks(TARGET.id), b"k", b"v", (), 0)
    bench.broker.publisher("t").publish([record], Deadline.after(5))
    assert "behind the log" in bench.examine().why[0]
    bench.commit("embed", NAMES.chunks(TARGET.id), TARGET)
    assert bench.examine().ok


def test_what_is_written_after_the_gate_began_does_not_count(bench: Bench) -> None:
    bench.follow(TARGET)
    bench.verdict = GOOD
    ends = bench.broker.offsets

    def then_written(topic: str, *, uncommitted: bool = False) -> object:
        found = ends(topic)
        if topic == TOPIC:
            bench.broker.offsets = ends  # type: ignore[method-assign]
            bench.put("later")
        return found

    bench.broker.offsets = then_written  # type: ignore[method-assign, assignment]
    assert bench.examine().ok


def test_a_difference_from_the_log_is_refused_and_named(bench: Bench) -> None:
    bench.follow(TARGET)
    doc = DocumentKey("s", "d3").doc
    del bench.collection(TARGET)._heads[doc]
    report = bench.examine()
    assert "1 missing (for example s:d3)" in report.why[0]
    assert bench.asked == 0


def test_more_failed_documents_than_live_has_are_refused(bench: Bench) -> None:
    bench.follow(TARGET)
    collection = bench.collection(TARGET)
    doc = DocumentKey("s", "d3").doc
    collection._heads[doc] = replace(collection._heads[doc], state="failed")
    report = bench.examine()
    assert "incomplete or failed" in report.why[0]
    other = bench.collection(LIVE)
    other._heads[doc] = replace(other._heads[doc], state="failed")
    assert bench.examine().ok, "as many as the live one has"


def test_worse_answers_are_refused(bench: Bench) -> None:
    bench.follow(TARGET)
    bench.verdict = replace(GOOD, why="nDCG@10 falls")
    report = bench.examine()
    assert report.why == ("nDCG@10 falls",)
    assert report.quality is bench.verdict


def test_it_can_be_stopped(bench: Bench) -> None:
    bench.follow(TARGET)
    bench.put("new")
    with pytest.raises(Transient, match="stopped"):
        gate.examine(
            bench.broker, NAMES, 0, TARGET, 7, bench.collection(TARGET), bench.collection(LIVE),
            chunker(TARGET, TOKENIZER), lambda: True, lambda on_phase: GOOD, 60.0, stopped=lambda: True,
        )  # fmt: skip
