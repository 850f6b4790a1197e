"""The parts of a process, put together from the configuration; every command starts here."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.broker.opening import open_broker
from pipeline.broker.topics import chunks_topic, pipeline_topics
from pipeline.config import Config
from pipeline.deadline import Deadline
from pipeline.embedding.batches import embed_all
from pipeline.embedding.generation import chunker, generation_spec
from pipeline.embedding.loading import load
from pipeline.embedding.models import config_of, tokenizer_of
from pipeline.embedding.recent import RecentVectors
from pipeline.embedding.shared import SharedEmbedder
from pipeline.errors import CollectionMissing, ConfigError, Fatal, FingerprintMismatch
from pipeline.generations.control import Control, ControlState, LogIdentity, check_log, found
from pipeline.naming import Names
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.patience import Patience
from pipeline.ports import Broker, Collection, CollectionSpec, Embedder, Publisher, Store
from pipeline.retry import RetryPolicy
from pipeline.search.service import SearchService
from pipeline.specs import GenerationSpec, ModelSpec
from pipeline.stages.chunk import ChunkStage
from pipeline.stages.embed import EmbedLimits, EmbedStage
from pipeline.stages.worker import Worker, WorkerLimits
from pipeline.store.opening import open_store
from pipeline.sync import Embed

log = logging.getLogger(__name__)

#: How often a follower looks whether another generation is live: within a second of a cutover.
_CONTROL_SECONDS = 0.5
_CLOSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a process works with. Broker and store are open; nothing runs yet."""

    config: Config
    names: Names
    broker: Broker
    store: Store
    health: Health = field(default_factory=Health)
    metrics: Metrics = field(default_factory=Metrics)

    def patience(self) -> Patience:
        """Waits out an outage, by the configured backoff."""
        retry = self.config.retry
        return Patience(RetryPolicy(retry.initial_seconds, retry.maximum_seconds), self.health, self.metrics)

    def close(self) -> None:
        """Flush and close the store, then the broker."""
        try:
            self.store.close()
        finally:
            self.broker.close()


def open_parts(config: Config, client: str, health: Health | None = None, metrics: Metrics | None = None) -> Parts:
    """Open broker and store; the caller closes them.

    Raises:
        StateInUse: another process has the embedded state.
        BrokerUnavailable: Kafka does not answer.
    """
    names = Names(config.pipeline.prefix, config.pipeline.name)
    broker = open_broker(config, client)
    try:
        store = open_store(config)
    except BaseException:
        broker.close()
        raise
    return Parts(config, names, broker, store, health or Health(), metrics or Metrics())


@contextmanager
def opened(config: Config, client: str) -> Iterator[Parts]:
    """Broker and store, open, and closed at the end; see :func:`open_parts`."""
    parts = open_parts(config, client)
    try:
        yield parts
    finally:
        parts.close()


def apply_topics(parts: Parts) -> list[str]:
    """Create the topics of the pipeline that are missing, and check the others; returns the new ones.

    Raises:
        TopicMismatch: a topic has a setting that would lose data.
    """
    return parts.broker.ensure_topics(pipeline_topics(parts.names, parts.config.pipeline))


def live_generation(parts: Parts) -> GenerationSpec | None:
    """The live generation, if one was founded.

    Raises:
        Fatal: there are no topics yet.
    """
    state = _control_state(parts)
    return None if state is None or state.live is None else state.live.spec


def founded(parts: Parts) -> GenerationSpec:
    """The live generation; founded from the configuration if this is the first start of all.

    Raises:
        Fatal: there are no topics yet.
        FingerprintMismatch: the configuration proposes another generation than the live one.
        LogDiverged: the documents topic was replaced.
    """
    identity = log_identity(parts)
    state = _control_state(parts)
    if state is None or state.live is None:
        found(parts.broker, parts.names, generation_spec(parts.config), identity)
        state = _control_state(parts)
        assert state is not None  # just written
    check_log(state, identity)
    assert state.live is not None  # found() returns only then
    spec = state.live.spec
    _refuse_another(parts.config, spec)
    parts.broker.ensure_topics([chunks_topic(parts.names, spec.id, parts.config.pipeline)])
    return spec


def log_identity(parts: Parts) -> LogIdentity:
    """Which documents topic this pipeline reads.

    Raises:
        Fatal: it does not exist.
    """
    epoch = parts.config.pipeline.epoch
    name = parts.names.documents(epoch)
    info = parts.broker.topics(name).get(name)
    if info is None:
        raise Fatal(f"there is no topic {name}", "run `vectide topics apply` first")
    return LogIdentity(epoch, info.id)


def loaded(parts: Parts, spec: ModelSpec) -> Embedder:
    """The model of a generation, ready for several threads.

    Raises:
        ConfigError: it is not on this machine.
        FingerprintMismatch: the files on this machine are of another model.
    """
    return SharedEmbedder(lambda: load(config_of(spec, parts.config.model), spec))


def collection_of(parts: Parts, spec: GenerationSpec) -> Collection:
    """The generation's collection, made if it is not there.

    Raises:
        FingerprintMismatch, ForeignCollection: a collection of that name is not this generation's.
        CollectionMissing: it was there, and is gone.
    """
    names = parts.names
    name = names.collection(spec.id)
    groups = [names.group(stage, spec.id) for stage in ("chunk", "embed")]
    if name not in parts.store.names(name) and any(parts.broker.committed(groups[1], names.chunks(spec.id)).values()):
        # An empty one in its place would stay empty: what is committed is not read again.
        remedy = (
            f"delete the state folder {parts.config.state}: everything is built again from the sources"
            if parts.config.broker == "embedded"
            else f"stop its workers and delete the consumer groups {' and '.join(groups)}: the log fills it again"
        )
        raise CollectionMissing(f"collection {name} was filled before, and is gone", f"restore it; or {remedy}")
    return parts.store.create(
        CollectionSpec(
            name=parts.names.collection(spec.id),
            generation=spec.id,
            dimension=spec.model.dimension,
            distance=spec.model.distance,
            model_fingerprint=spec.model.fingerprint,
            chunking_fingerprint=spec.chunking.fingerprint,
            filter_fields=spec.filter_fields,
        )
    )


def chunk_worker(parts: Parts, spec: GenerationSpec, publisher: Publisher) -> Worker:
    """A member of the chunk stage's group.

    Raises:
        ConfigError, FingerprintMismatch: the generation's tokenizer is not on this machine.
    """
    config, names = parts.config, parts.names
    tokenizer = tokenizer_of(config_of(spec.model, config.model))
    if tokenizer.sha256 != spec.chunking.tokenizer_sha256:
        raise FingerprintMismatch(
            f"model.name = {config.model.name!r} has another tokenizer than generation {spec.id}",
            f"configure {spec.model.name}, the model of the live generation",
        )
    stage = ChunkStage(
        parts.broker,
        publisher,
        names,
        spec,
        config.pipeline.epoch,
        chunker(spec, tokenizer),
        config.chunk.behind_limit_records,
        parts.patience(),
        parts.health,
        parts.metrics,
    )
    consumer = parts.broker.consumer(names.group("chunk", spec.id), [names.documents(config.pipeline.epoch)], "chunk")
    return Worker(consumer, stage, _limits(config), parts.health, parts.metrics)


def embed_worker(
    parts: Parts, spec: GenerationSpec, collection: Collection, embedder: Embedder, publisher: Publisher
) -> Worker:
    """A member of the embed stage's group."""
    config, names, embed = parts.config, parts.names, parts.config.embed
    stage = EmbedStage(
        collection,
        model_runner(parts, embedder),
        publisher,
        names,
        EmbedLimits(
            documents=embed.gather_documents,
            tokens=embed.gather_tokens,
            slice_chunks=embed.slice_chunks,
            delete_grace_seconds=embed.delete_grace_seconds,
            flush_seconds=embed.flush_seconds,
        ),
        parts.patience(),
        parts.health,
        parts.metrics,
        RecentVectors(embed.recent_vectors_bytes),
    )
    consumer = parts.broker.consumer(names.group("embed", spec.id), [names.chunks(spec.id)], "embed")
    return Worker(consumer, stage, _limits(config), parts.health, parts.metrics)


def model_runner(parts: Parts, embedder: Embedder) -> Embed:
    """Texts to vectors in the configured batches, padded tokens measured."""
    embed, observe = parts.config.embed, parts.metrics.tokens_per_batch.observe
    return lambda items: embed_all(embedder, items, embed.batch_tokens, embed.batch_items, observe)


def search_service(
    parts: Parts, live: Callable[[], GenerationSpec | None], load_model: Callable[[ModelSpec], Embedder] | None = None
) -> SearchService:
    """Searches in the live generation."""
    return SearchService(parts.store, parts.names, live, load_model or (lambda spec: loaded(parts, spec)))


class LiveGeneration:
    """The live generation as ``control`` says, looked up at most twice a second; for several threads."""

    def __init__(self, parts: Parts) -> None:
        self._control = Control(parts.broker, parts.names)
        self._lock = threading.Lock()
        self._looked = Deadline.after(0.0)

    def __call__(self) -> GenerationSpec | None:
        """The spec; None before a generation was founded."""
        with self._lock:
            if self._looked.expired:
                self._control.refresh()
                self._looked = Deadline.after(_CONTROL_SECONDS)
            live = self._control.state.live
            return None if live is None else live.spec

    def close(self) -> None:
        """Stop following."""
        with self._lock:
            self._control.close()


def _control_state(parts: Parts) -> ControlState | None:
    if parts.names.control not in parts.broker.topics(parts.names.control):
        return None
    control = Control(parts.broker, parts.names)
    try:
        return control.refresh()
    finally:
        control.close()


def _refuse_another(config: Config, live: GenerationSpec) -> None:
    """Configuration only proposes: what differs from the live generation is named, not followed."""
    try:
        proposed = generation_spec(config)
    except ConfigError:
        return  # a worker without weights takes everything from control
    if proposed.id == live.id:
        return
    ours, theirs = proposed.model_dump(mode="json"), live.model_dump(mode="json")
    differing = [
        f"{part}.{name} is {theirs[part].get(name)!r}, configured is {ours[part].get(name)!r}"
        for part in ("model", "chunking", "filter_fields")
        for name in sorted({*ours[part], *theirs[part]})
        if ours[part].get(name) != theirs[part].get(name)
    ]
    raise FingerprintMismatch(
        f"the live generation {live.id} differs from the configuration: {'; '.join(differing)}",
        "configure what the live generation has, or index anew under another pipeline.name (or --state)",
    )


def _limits(config: Config) -> WorkerLimits:
    work = config.work
    return WorkerLimits(
        in_flight_records=work.in_flight_records,
        in_flight_bytes=work.in_flight_bytes,
        commit_seconds=work.commit_seconds,
        drain_seconds=work.drain_seconds,
    )
