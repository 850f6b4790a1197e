"""Both stages of one generation in this process: documents into an embedded log in memory, heads and chunks out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.topics import chunks_topic
from pipeline.codec import encode_event
from pipeline.config import Config, ModelConfig, PipelineConfig
from pipeline.deadline import Deadline
from pipeline.embedding.batches import embed_all
from pipeline.embedding.generation import chunker, generation_spec
from pipeline.embedding.loading import load
from pipeline.embedding.models import tokenizer_of
from pipeline.errors import Poison
from pipeline.identity import DocumentKey
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.patience import Patience
from pipeline.points import Head
from pipeline.ports import Collection, CollectionSpec, Embedder, NewRecord, Store, Written
from pipeline.records import ChunkSpan, DeadLetter, DocumentChanged, Provenance
from pipeline.retry import RetryPolicy
from pipeline.stages import dead_letters
from pipeline.stages.chunk import ChunkStage
from pipeline.stages.embed import EmbedLimits
from pipeline.stages.worker import Worker, WorkerLimits
from pipeline.store.memory import MemoryStore
from tests.support.workers import NAMES, Working, embed_stage, memory_broker, working

CONFIG = Config(model=ModelConfig(provider="hashing", name="hashing"))
SPEC = generation_spec(CONFIG)
DOCUMENTS, CHUNKS = NAMES.documents(0), NAMES.chunks(SPEC.id)
#: A text with it cannot be cut.
POISON = "unthinkable"
_CUT = chunker(SPEC, tokenizer_of(CONFIG.model))


def cut(text: str, media_type: str) -> Sequence[ChunkSpan]:
    """The real chunker, but for one word."""
    if POISON in text:
        raise Poison("chunking_failed", "it holds what nobody can think")
    return _CUT(text, media_type)


def changed(path: str, text: str, partition: int | None = None) -> NewRecord:
    """A document as a record."""
    event = DocumentChanged(DocumentKey("s", path), text, {}, "text/plain", "d", Provenance(1.0))
    return NewRecord(DOCUMENTS, *encode_event(event), partition=partition)


@dataclass
class RunningPipeline(Working):
    """What a test sees of it."""

    broker: EmbeddedBroker
    collection: Collection
    embedder: Embedder
    health: Health = field(default_factory=Health)
    metrics: Metrics = field(default_factory=Metrics)
    workers: list[Worker] = field(default_factory=list)

    def write(self, records: Sequence[NewRecord]) -> list[Written]:
        """Append records to the log."""
        return self.broker.publisher("test").publish(records, Deadline.after(60))

    def lag(self) -> int:
        """Records of both topics that are not committed."""
        return sum(
            sum(self.broker.lag(NAMES.group(stage, SPEC.id), topic).values())
            for stage, topic in (("chunk", DOCUMENTS), ("embed", CHUNKS))
        )

    def until_quiet(self) -> None:
        """Wait until everything is applied and committed."""
        self.until(lambda: self.lag() == 0)

    def head(self, path: str) -> Head | None:
        """A document's head."""
        return self.head_of(DocumentKey("s", path))

    def head_of(self, key: DocumentKey) -> Head | None:
        """The head of a document of any source."""
        return self.collection.heads([key.doc]).get(key.doc)

    def heads(self) -> list[Head]:
        """All heads."""
        found: list[Head] = []
        after = None
        while True:
            page, after = self.collection.scan_heads(after)
            found += page
            if after is None:
                return found

    def letters(self) -> list[DeadLetter]:
        """Dead letters that stand."""
        return list(dead_letters.standing(self.broker, NAMES).values())


@contextmanager
def pipeline(
    store: Store | None = None,
    partitions: int = 2,
    limits: WorkerLimits | None = None,
    batch: EmbedLimits | None = None,
    behind_limit: int = 10_000,
) -> Iterator[RunningPipeline]:
    """Both workers run; what one fails with is the test's failure."""
    config = PipelineConfig(prefix="t", name="p", partitions=partitions)
    with ExitStack() as ending:
        broker = ending.enter_context(memory_broker(config, chunks_topic(NAMES, SPEC.id, config)))
        embedder = load(CONFIG.model)
        spec = CollectionSpec(
            NAMES.collection(SPEC.id), SPEC.id, embedder.spec.dimension, "cosine", embedder.spec.fingerprint, "c"
        )
        made = RunningPipeline(broker, (store or MemoryStore()).create(spec), embedder)
        made.health.set_started()
        patience = RetryPolicy(0.01, 0.1)
        chunk = ChunkStage(
            broker, broker.publisher("chunk"), NAMES, SPEC, 0, cut, behind_limit,
            Patience(patience, made.health, made.metrics), made.health, made.metrics,
        )  # fmt: skip
        embed = embed_stage(
            made.collection,
            lambda items: embed_all(embedder, items, 4096, 64),
            broker.publisher("embed"),
            made.health,
            made.metrics,
            batch or EmbedLimits(delete_grace_seconds=0.1),
        )
        bounds = limits or WorkerLimits(commit_seconds=0.05, drain_seconds=5)
        for stage, topic in ((chunk, DOCUMENTS), (embed, CHUNKS)):
            consumer = broker.consumer(NAMES.group(stage.name, SPEC.id), [topic], stage.name)
            worker = Worker(consumer, stage, bounds, made.health, made.metrics)
            made.workers.append(worker)
            ending.enter_context(working(worker, made.failure))
        yield made
    assert not made.failure, made.failure
