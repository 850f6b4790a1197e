"""The embed stage over real parts: what fails is small, said, and can be replayed; what is known is not embedded."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.topics import chunks_topic
from pipeline.codec import encode_chunked
from pipeline.config import ModelConfig, PipelineConfig
from pipeline.deadline import Deadline
from pipeline.embedding.batches import embed_all
from pipeline.embedding.loading import load
from pipeline.embedding.recent import RecentVectors
from pipeline.errors import Fatal, StoreUnavailable
from pipeline.identity import DocumentKey, content_hash
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.points import Head, Vectors
from pipeline.ports import CollectionSpec, NewRecord
from pipeline.records import ChunkedDocument, ChunkSpan, Provenance
from pipeline.stages import dead_letters
from pipeline.stages.embed import EmbedLimits, EmbedStage
from pipeline.stages.worker import Worker, WorkerLimits
from pipeline.store.memory import MemoryCollection, MemoryStore
from tests.support.workers import NAMES, SECONDS, Working, embed_stage, memory_broker, working

GENERATION = "g0"


@dataclass
class Model:
    """The hashing embedder, which cannot take texts that hold ``poison``, and counts what it embeds."""

    embedded: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """That a forward pass takes."""
    most: int = 64
    """Texts of one."""
    passed: threading.Event = field(default_factory=threading.Event)
    """A forward pass has begun."""

    def __post_init__(self) -> None:
        self.inner = load(ModelConfig(provider="hashing", name="hashing"))
        self.spec = self.inner.spec
        self.tokenizer = self.inner.tokenizer
        self.batch_tokens = self.inner.batch_tokens

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        vectors = self.inner.embed_documents(texts)
        self.passed.set()
        time.sleep(self.seconds)
        if any("poison" in text for text in texts):
            vectors[[("poison" in text) for text in texts]] = np.nan
        else:
            self.embedded += texts
        return vectors

    def embed_query(self, text: str) -> Vectors:
        return self.inner.embed_query(text)


class Flaky:
    """A collection whose requests fail as often as told."""

    def __init__(self, inner: MemoryCollection) -> None:
        self.inner = inner
        self.failures: list[Exception] = []
        self.torn: set[str] = set()
        """Documents whose head no condition matches."""

    def replace_heads(self, heads: Sequence[Head], read: Mapping[str, int]) -> None:
        self.inner.replace_heads([head for head in heads if head.doc not in self.torn], read)

    def mend(self, docs: Sequence[str]) -> None:
        self.torn -= set(docs)

    def __getattr__(self, name: str) -> object:
        found = getattr(self.inner, name)
        if name in ("heads", "upsert_chunks", "insert_heads") and self.failures:
            raise self.failures.pop()
        return found


@dataclass
class Running(Working):
    broker: EmbeddedBroker
    collection: Flaky
    model: Model
    health: Health
    metrics: Metrics
    worker: Worker
    stage: EmbedStage
    offset: int = 0

    def send(self, path: str, *paragraphs: str, state: str = "chunked", version: int | None = None) -> NewRecord:
        """One version of a document, a chunk for each paragraph."""
        self.offset += 1
        text = "\n\n".join(paragraphs)
        spans, start = [], 0
        for one in paragraphs:
            spans.append(ChunkSpan(start, start + len(one), content_hash(one), len(one.split())))
            start += len(one) + 2
        document = ChunkedDocument(
            DocumentKey("s", path), version or self.offset, GENERATION, state, Provenance(time.time()), text,  # type: ignore[arg-type]
            tuple(spans), {}, "text/plain",
        )  # fmt: skip
        record = NewRecord(NAMES.chunks(GENERATION), *encode_chunked(document), partition=0)
        self.broker.publisher("test").publish([record], Deadline.after(5))
        return record

    def head(self, path: str) -> Head | None:
        doc = DocumentKey("s", path).doc
        return self.collection.inner.heads([doc]).get(doc)

    def until_head(self, path: str, version: int) -> Head:
        self.until(lambda: (head := self.head(path)) is not None and head.version >= version)
        found = self.head(path)
        assert found is not None
        return found

    def letters(self) -> list[str]:
        return [letter.reason for letter in dead_letters.standing(self.broker, NAMES).values()]

    def lag(self) -> int:
        return sum(self.broker.lag(NAMES.group("embed", GENERATION), NAMES.chunks(GENERATION)).values())


@pytest.fixture
def running() -> Iterator[Running]:
    pipeline = PipelineConfig(prefix="t", name="p", partitions=2)
    with memory_broker(pipeline, chunks_topic(NAMES, GENERATION, pipeline)) as broker:
        model, health, metrics = Model(), Health(), Metrics()
        spec = CollectionSpec(NAMES.collection(GENERATION), GENERATION, model.spec.dimension, "cosine", "m", "c")
        collection = Flaky(MemoryStore().create(spec))
        enough = threading.Event()
        stage = embed_stage(
            collection,
            lambda items: embed_all(model, items, 4096, model.most, enough=enough.is_set),
            broker.publisher("embed"),
            health,
            metrics,
            EmbedLimits(delete_grace_seconds=0.2),
            enough,
        )
        consumer = broker.consumer(NAMES.group("embed", GENERATION), [NAMES.chunks(GENERATION)], "embed")
        worker = Worker(consumer, stage, WorkerLimits(commit_seconds=0.02, drain_seconds=5), health, metrics)
        made = Running(broker, collection, model, health, metrics, worker, stage)
        health.set_started()
        with working(worker, made.failure):
            yield made


def test_one_chunk_that_cannot_be_embedded_costs_one_letter_and_nothing_else(running: Running) -> None:
    running.send("other", "a first text", "a second text")
    record = running.send("bad", "good one", "poison here", "good two")
    head = running.until_head("bad", 2)
    assert head.state == "incomplete"
    assert head.missing == (1,)
    assert len(head.chunks) == 2, "the others are served"
    assert running.until_head("other", 1).state == "complete"
    running.until(lambda: running.letters() == ["embedding_failed"])
    running.until(lambda: running.lag() == 0)
    # Redelivered, it is not tried again
    running.broker.publisher("test").publish([record], Deadline.after(5))
    running.until(lambda: running.lag() == 0)
    assert running.letters() == ["embedding_failed"]


def test_a_replayed_letter_completes_its_document_and_undoes_nothing_newer(running: Running) -> None:
    running.send("a", "good one", "poison here")
    running.send("b", "poison there")
    running.until_head("b", 2)
    newer = running.send("b", "a newer text")
    assert newer is not None
    running.until_head("b", 3)
    # The model is mended
    running.model.embed_documents = running.model.inner.embed_documents  # type: ignore[method-assign]
    publisher = running.broker.publisher("replay")
    for letter in dead_letters.standing(running.broker, NAMES).values():
        dead_letters.replay(publisher, NAMES, letter, {})
    running.until(lambda: (head := running.head("a")) is not None and head.state == "complete")
    running.until(lambda: running.lag() == 0)
    head = running.head("b")
    assert head is not None
    assert (head.version, head.state) == (3, "complete")
    assert running.letters() == []


def test_known_text_is_not_embedded_again(running: Running) -> None:
    running.send("old", "the very same text", "and another")
    running.until_head("old", 1)
    running.send("copy", "the very same text")
    running.until_head("copy", 2)
    running.send("old", "the very same text", "and another", "and one more")
    running.until_head("old", 3)
    running.until(lambda: running.lag() == 0)  # what became of it is counted after its head is there
    assert sorted(running.model.embedded) == ["and another", "and one more", "the very same text"]
    assert running.metrics.totals()["chunks_reused"] == 3


def test_a_delete_keeps_its_vectors_for_a_rename_and_then_its_chunks_go(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a stage that remembers no vectors by itself."""
    ahead = [0.0]
    monkeypatch.setattr("pipeline.stages.held.time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0]))
    running.stage._limits = replace(running.stage._limits, delete_grace_seconds=600.0)
    running.stage._repair._grace = 600.0  # nor does the walk go before the sweep
    running.stage._recent = RecentVectors(0)
    running.send("old", "a text that moves")
    running.until_head("old", 1)
    running.send("old", state="deleted")
    running.until(lambda: running.stage.held == 1)
    running.send("new", "a text that moves")
    running.until_head("new", 3)
    assert running.model.embedded == ["a text that moves"]
    assert running.collection.inner.count_chunks() == 2
    ahead[0] = 600.0
    running.until(lambda: running.collection.inner.count_chunks() == 1)
    running.until(lambda: running.lag() == 0)


def test_an_outage_of_the_store_is_waited_out(running: Running) -> None:
    running.collection.failures += [StoreUnavailable("away")] * 20
    running.send("a", "a text")
    running.until(lambda: "store" in running.health.readyz().reasons)
    assert running.health.livez().ok
    assert running.until_head("a", 1).state == "complete"
    running.until(lambda: running.health.readyz().ok)


def test_a_record_that_was_cut_off_becomes_a_letter_and_the_partition_goes_on(running: Running) -> None:
    """Its document's head says so where the headers are whole; what was readable of it stays so."""
    record = running.send("a", "x")
    running.until_head("a", 1)
    whole = tuple((name, b"4" if name == "vectide-version" else value) for name, value in record.headers)
    bare = tuple((name, value) for name, value in record.headers if name != "vectide-version")
    for headers in (whole, bare):
        cut = NewRecord(record.topic, record.key, (record.value or b"")[:20], headers, 0)
        running.broker.publisher("test").publish([cut], Deadline.after(5))
    running.send("b", "y", version=5)
    running.until_head("b", 5)
    assert running.letters() == ["malformed_record", "malformed_record"]
    head = running.until_head("a", 4)
    assert (head.state, head.reason.split(":")[0]) == ("failed", "malformed_record")
    assert running.collection.inner.count_chunks() == 2
    running.until(lambda: running.lag() == 0)


def test_a_newer_schema_parks_its_partition_and_only_that(running: Running) -> None:
    record = running.send("a", "x")
    running.until_head("a", 1)
    headers = tuple((name, b"9" if name == "vectide-schema" else value) for name, value in record.headers)
    publisher = running.broker.publisher("test")
    publisher.publish([NewRecord(record.topic, record.key, record.value, headers, 1)], Deadline.after(5))
    running.until(lambda: f"schema.embed.{GENERATION}" in running.health.readyz().reasons)
    running.send("b", "y")
    running.until_head("b", 2)
    assert running.letters() == []
    lag = running.broker.lag(NAMES.group("embed", GENERATION), NAMES.chunks(GENERATION))
    assert lag[1] == 1, "it waits, uncommitted"


def test_a_fatal_error_of_the_store_stops_the_worker_with_it_uncommitted(running: Running) -> None:
    running.collection.failures.append(Fatal("broken for good"))
    running.send("a", "x")
    deadline = Deadline.after(SECONDS)
    while not running.failure:
        assert not deadline.expired
        time.sleep(0.01)
    assert "broken for good" in str(running.failure[0])
    assert running.lag() == 1


#: Of this drain budget, a second for taking up more; for what is in work then, as much as a busy machine needs.
DRAIN_SECONDS = 60.0


def test_what_is_embedded_when_the_time_to_stop_is_over_is_written(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given more documents than can be done before the drain budget ends, then no text was embedded for nothing."""
    monkeypatch.setattr("pipeline.stages.embed.TAKING_SHARE", 1 / DRAIN_SECONDS)
    running.stage._limits = replace(running.stage._limits, documents=1)
    running.send("first", "a batch that may have begun with other limits")
    running.until(lambda: running.collection.inner.count_chunks() == 1 and running.lag() == 0)
    running.model.embedded.clear()
    running.model.passed.clear()
    running.model.seconds = 0.3
    with running.stage._busy:  # nothing is taken until all are there
        for number in range(40):
            running.send(f"d{number}", f"text number {number}")
    assert running.model.passed.wait(SECONDS)
    running.stage.stop(Deadline.after(DRAIN_SECONDS))
    embedded = len(running.model.embedded)
    assert 0 < embedded < 40, "the rest is the next worker's"
    assert running.collection.inner.count_chunks() == 1 + embedded
    running.until(lambda: running.lag() == 40 - embedded)


def test_a_batch_that_is_longer_than_the_time_to_stop_keeps_what_was_embedded(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given one batch of more passes than the drain budget has room for, then each text that was embedded is in the
    store, none of it counts as done, and the next owner embeds only the rest.
    """
    monkeypatch.setattr("pipeline.stages.embed.TAKING_SHARE", 1 / DRAIN_SECONDS)
    running.model.seconds, running.model.most = 0.3, 1
    with running.stage._busy:  # nothing is taken until all are there
        for number in range(30):
            running.send(f"d{number}", f"text number {number}")
    assert running.model.passed.wait(SECONDS)
    running.stage.stop(Deadline.after(DRAIN_SECONDS))
    embedded = len(running.model.embedded)
    assert 0 < embedded < 30
    assert running.collection.inner.count_chunks() == embedded
    running.until(lambda: running.lag() == 30 - sum(running.collection.inner.count_heads().values()))


def test_a_head_whose_index_was_torn_by_a_kill_is_written_again_and_then_moved(running: Running) -> None:
    """Given a head that no condition matches although it is there, then it does not hold its document up for ever."""
    running.send("a", "a first text")
    head = running.until_head("a", 1)
    running.collection.torn.add(head.doc)
    running.send("a", "a second text")
    running.until_head("a", 2)
    running.until(lambda: running.lag() == 0)
    assert running.collection.torn == set()
