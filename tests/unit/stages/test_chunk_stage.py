"""The chunk stage over a real log: what it sends on, what it buries, what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.topics import chunks_topic
from pipeline.chunking.documents import chunked
from pipeline.codec import SCHEMA, decode_chunked, encode_event
from pipeline.config import Config, ModelConfig, PipelineConfig
from pipeline.deadline import Deadline
from pipeline.embedding.generation import chunker, generation_spec
from pipeline.embedding.models import tokenizer_of
from pipeline.errors import BrokerUnavailable, Fatal, Poison
from pipeline.identity import DocumentKey, version_of
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.patience import Patience
from pipeline.ports import NewRecord, Publisher, Written
from pipeline.records import ChunkedDocument, ChunkSpan, DeadLetter, DocumentChanged, DocumentDeleted, Provenance
from pipeline.retry import RetryPolicy
from pipeline.stages import dead_letters
from pipeline.stages.chunk import ChunkStage
from pipeline.stages.worker import Worker, WorkerLimits
from tests.support.workers import NAMES, SECONDS, Working, memory_broker, working

EPOCH = 3
CONFIG = Config(model=ModelConfig(provider="hashing", name="hashing"))
SPEC = generation_spec(CONFIG)
CUT = chunker(SPEC, tokenizer_of(CONFIG.model))
BEHIND = 40


def cut(text: str, media_type: str) -> Sequence[ChunkSpan]:
    """The real chunker, but for one word that it cannot take."""
    if "unthinkable" in text:
        raise IndexError("no such place")
    return CUT(text, media_type)


@dataclass
class Refusing:
    """A publisher that is told what to answer first."""

    inner: Publisher
    refusals: list[Exception] = field(default_factory=list)
    too_large: Callable[[NewRecord], bool] = lambda record: False

    def publish(self, records: Sequence[NewRecord], deadline: Deadline) -> list[Written]:
        if self.refusals:
            raise self.refusals.pop()
        if any(self.too_large(record) for record in records):
            raise Poison("record_too_large", "over the topic's limit")
        return self.inner.publish(records, deadline)

    def close(self, deadline: Deadline) -> None:
        self.inner.close(deadline)


def changed(path: str, text: str | None, partition: int = 0, **more: str) -> NewRecord:
    key = DocumentKey("s", path)
    event = DocumentChanged(key, text, {"a": "b"}, "text/plain", "d", Provenance(12.5), **more)  # type: ignore[arg-type]
    return NewRecord(NAMES.documents(EPOCH), *encode_event(event), partition=partition)


def deleted(path: str) -> NewRecord:
    event = DocumentDeleted(DocumentKey("s", path), Provenance(13.5))
    return NewRecord(NAMES.documents(EPOCH), *encode_event(event), partition=0)


@dataclass
class Running(Working):
    broker: EmbeddedBroker
    publisher: Refusing
    health: Health
    worker: Worker

    def send(self, path: str, text: str | None, partition: int = 0, **more: str) -> NewRecord:
        return self.write(changed(path, text, partition, **more))

    def delete(self, path: str) -> NewRecord:
        return self.write(deleted(path))

    def write(self, *records: NewRecord) -> NewRecord:
        """All at once; the last of them."""
        self.broker.publisher("test").publish(records, Deadline.after(5))
        return records[-1]

    def lag(self, partition: int = 0) -> int:
        return self.broker.lag(NAMES.group("chunk", SPEC.id), NAMES.documents(EPOCH))[partition]

    def sent(self, partition: int = 0) -> list[ChunkedDocument]:
        """What was published, once everything is committed."""
        self.until(lambda: self.lag() == 0)
        reader = self.broker.reader(NAMES.chunks(SPEC.id))
        found = []
        while not reader.caught_up():
            found += reader.poll(0.1, 1000)
        return [decode_chunked(record) for record in found if record.partition == partition]

    def letters(self) -> list[DeadLetter]:
        return list(dead_letters.standing(self.broker, NAMES).values())


@pytest.fixture
def running() -> Iterator[Running]:
    pipeline = PipelineConfig(prefix="t", name="p", partitions=2, epoch=EPOCH)
    with memory_broker(pipeline, chunks_topic(NAMES, SPEC.id, pipeline)) as broker:
        health, metrics = Health(), Metrics()
        publisher = Refusing(broker.publisher("chunk"))
        patience = Patience(RetryPolicy(0.01, 0.05), health, metrics)
        stage = ChunkStage(broker, publisher, NAMES, SPEC, EPOCH, cut, BEHIND, patience, health, metrics)
        consumer = broker.consumer(NAMES.group("chunk", SPEC.id), [NAMES.documents(EPOCH)], "chunk")
        worker = Worker(consumer, stage, WorkerLimits(commit_seconds=0.02, drain_seconds=5), health, metrics)
        made = Running(broker, publisher, health, worker)
        health.set_started()
        with working(worker, made.failure):
            yield made


def test_a_version_is_the_position_in_the_log_and_goes_into_the_same_partition(running: Running) -> None:
    running.send("a", "first")
    running.send("b", "other", partition=1)
    running.send("a", "second")
    running.until(lambda: running.lag(1) == 0)
    assert [(one.key.path, one.version, one.text) for one in running.sent()] == [
        ("a", version_of(EPOCH, 0), "first"),
        ("a", version_of(EPOCH, 1), "second"),
    ]
    (other,) = running.sent(1)
    assert (other.key.path, other.version) == ("b", version_of(EPOCH, 0))


def test_chunks_carry_what_search_needs_and_the_time_of_the_event(running: Running) -> None:
    running.send("a", "first\n\nsecond")
    (sent,) = running.sent()
    assert [sent.text[span.start : span.end] for span in sent.chunks] == ["first\n\nsecond"]
    assert (sent.generation, sent.metadata, sent.provenance.event_time) == (SPEC.id, {"a": "b"}, 12.5)


def test_a_delete_is_sent_on_and_an_omitted_text_says_why(running: Running) -> None:
    running.send("a", None, omitted="12 MB, over the limit of 8 MB")
    running.delete("a")
    omitted, deleted = running.sent()
    assert (omitted.state, omitted.reason, omitted.chunks) == ("omitted", "12 MB, over the limit of 8 MB", ())
    assert (deleted.state, deleted.provenance.event_time) == ("deleted", 13.5)
    assert running.letters() == []


def test_a_null_only_forgets_an_old_delete(running: Running) -> None:
    running.write(NewRecord(NAMES.documents(EPOCH), DocumentKey("s", "a").to_bytes(), None, partition=0))
    running.send("b", "text")
    assert [one.key.path for one in running.sent()] == ["b"]
    assert running.letters() == []


def test_while_building_the_last_of_several_versions_in_one_batch_is_cut(running: Running) -> None:
    """As compaction would. But a null, and what this version cannot read, say nothing about the document."""
    running.worker._stage._pace.set(building=True, paused=False, share=1.0)  # type: ignore[attr-defined]
    null = NewRecord(NAMES.documents(EPOCH), DocumentKey("s", "b").to_bytes(), None, (), 0)
    running.write(*[changed("a", f"version {number}") for number in range(5)], deleted("b"), null)
    assert [(one.key.path, one.text, one.state) for one in running.sent()] == [
        ("a", "version 4", "chunked"),
        ("b", "", "deleted"),
    ]
    record = changed("c", "of tomorrow", partition=1)
    newer = tuple((name, b"9" if name == SCHEMA else value) for name, value in record.headers)
    running.write(changed("c", "its text", partition=1), replace(record, headers=newer))
    running.until(lambda: running.lag(1) == 1)
    assert [one.text for one in running.sent(1)] == ["its text"]


def test_what_cannot_be_cut_is_a_letter_and_a_failed_version(running: Running) -> None:
    """Given a text that breaks the chunker, then readers can tell, and the next document is not held up."""
    running.send("bad", "something unthinkable")
    running.send("good", "something else")
    failed, good = running.sent()
    assert (failed.state, failed.text, failed.chunks) == ("failed", "", ())
    assert failed.reason == "chunking_failed: IndexError: no such place"
    assert good.state == "chunked"
    (letter,) = running.letters()
    assert (letter.stage, letter.reason, letter.version) == ("chunk", "chunking_failed", version_of(EPOCH, 0))
    assert (letter.origin.topic, letter.origin.partition, letter.origin.offset) == (NAMES.documents(EPOCH), 0, 0)


def test_a_truncated_value_fails_its_version_and_an_unreadable_key_is_only_a_letter(running: Running) -> None:
    record = running.send("a", "text")
    running.write(NewRecord(record.topic, record.key, (record.value or b"")[:9], record.headers, 0))
    running.write(NewRecord(record.topic, b"\xff\xff", record.value, record.headers, 0))
    good, failed = running.sent()
    assert (good.state, failed.state, failed.key, failed.version) == ("chunked", "failed", good.key, good.version + 1)
    assert [letter.reason for letter in running.letters()] == ["malformed_record"] * 2


def test_a_newer_schema_waits_not_ready_and_the_other_partition_goes_on(running: Running) -> None:
    record = running.send("a", "text")
    running.until(lambda: running.lag() == 0)
    headers = tuple((name, b"9" if name == "vectide-schema" else value) for name, value in record.headers)
    running.write(NewRecord(record.topic, record.key, record.value, headers, 0))
    running.until(lambda: f"schema.chunk.{SPEC.id}" in running.health.readyz().reasons)
    running.send("b", "text", partition=1)
    running.until(lambda: running.lag(1) == 0)
    assert running.lag() == 1
    assert running.letters() == []


def test_one_record_too_large_for_the_topic_does_not_take_its_batch_with_it(running: Running) -> None:
    topic = NAMES.chunks(SPEC.id)
    running.publisher.too_large = lambda record: record.topic == topic and len(record.value or b"") > 3_000
    for number in range(5):
        running.send(f"d{number}", "word " * (2_000 if number == 2 else 2))
    assert [one.state for one in running.sent()] == ["chunked", "chunked", "failed", "chunked", "chunked"]
    (letter,) = running.letters()
    assert letter.reason == "record_too_large"
    assert letter.record_value is not None


def test_a_record_whose_letter_is_too_large_as_well_is_named_without_its_value(running: Running) -> None:
    running.publisher.too_large = lambda record: len(record.value or b"") > 3_000
    running.send("a", "word " * 2_000)
    (failed,) = running.sent()
    assert failed.state == "failed"
    (letter,) = running.letters()
    assert letter.record_value is None
    assert letter.origin.offset == 0
    with pytest.raises(Fatal, match="without its record"):
        dead_letters.replay(running.publisher, NAMES, letter, {})


def test_an_outage_of_the_broker_is_waited_out_with_nothing_committed(running: Running) -> None:
    running.publisher.refusals = [BrokerUnavailable("away")] * 20
    running.send("a", "text")
    running.until(lambda: "broker" in running.health.readyz().reasons)
    assert running.lag() == 1
    assert running.health.livez().ok
    assert [one.text for one in running.sent()] == ["text"]
    running.until(lambda: running.health.readyz().ok)


def test_reading_pauses_while_the_embed_stage_is_far_behind(running: Running) -> None:
    for number in range(400):
        running.send(f"d{number}", "text")
    group, topic = NAMES.group("embed", SPEC.id), NAMES.chunks(SPEC.id)
    running.until(lambda: running.broker.offsets(topic)[0].end > BEHIND)
    embedder = running.broker.consumer(group, [topic], "embed")
    seen = 0
    # It goes on as the embed stage does, and what that has committed is trimmed
    deadline = Deadline.after(SECONDS)
    while seen < 400:
        assert not deadline.expired
        polled = embedder.poll(0.05, 50)
        for record in polled.records:
            seen += 1
            embedder.commit({record.at: record.offset + 1}, Deadline.after(5))
    running.until(lambda: running.broker.offsets(topic)[0].start > 0)
    running.until(lambda: running.lag() == 0)


def test_a_chunk_letter_is_replayed_at_its_own_version(running: Running) -> None:
    running.send("a", "unthinkable")
    running.send("a", "something newer")
    running.sent()
    (letter,) = running.letters()
    with pytest.raises(Poison, match="no such place"):
        dead_letters.replay(
            running.publisher, NAMES, letter, {SPEC.id: lambda event, version: chunked(event, version, SPEC.id, cut)}
        )
    assert running.letters() == [letter], "it failed in the same way: the letter stays"
    with pytest.raises(Fatal, match="which is gone"):
        dead_letters.replay(running.publisher, NAMES, letter, {})
    mended = {SPEC.id: lambda event, version: chunked(event, version, SPEC.id, CUT)}
    dead_letters.replay(running.publisher, NAMES, letter, mended)
    *_, again = running.sent()
    assert (again.text, again.version, again.replay) == ("unthinkable", version_of(EPOCH, 0), True)
    assert running.letters() == []
