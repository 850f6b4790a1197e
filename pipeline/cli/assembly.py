"""The parts of a process, put together from the configuration; every command starts here."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.broker.opening import open_broker
from pipeline.broker.topics import pipeline_topics
from pipeline.config import Config
from pipeline.deadline import Deadline
from pipeline.embedding.generation import generation_spec
from pipeline.embedding.loading import load
from pipeline.embedding.models import located
from pipeline.embedding.shared import SharedEmbedder
from pipeline.errors import CollectionMissing, ConfigError, Fatal, FingerprintMismatch, Refused
from pipeline.generations import operator, transitions
from pipeline.generations.control import Control, ControlState, LogIdentity, check_log, read
from pipeline.naming import Names
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.patience import Patience
from pipeline.ports import Broker, Collection, CollectionSpec, Embedder, Store
from pipeline.retry import RetryPolicy
from pipeline.search.service import SearchService, Shadow
from pipeline.specs import GenerationSpec, differences
from pipeline.store.opening import open_store

log = logging.getLogger(__name__)

#: How often a follower looks whether another generation is live: within a second of a cutover.
_CONTROL_SECONDS = 0.25


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
    return Parts(config, names, broker, store, health or Health(), metrics or metrics_of(config))


def metrics_of(config: Config) -> Metrics:
    """A process's metrics, which say whose they are."""
    return Metrics(f"{config.pipeline.prefix}.{config.pipeline.name}")


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


def founded(parts: Parts) -> ControlState:
    """What ``control`` says, with a live generation: founded from the configuration if this is the
    first start of all. With ``migrate.on_model_change = "migrate"``, another model or chunking in
    the configuration starts a migration.

    Raises:
        Fatal: there are no topics yet.
        FingerprintMismatch: the configuration proposes another generation than the live one.
        LogDiverged: the documents topic was replaced.
    """
    identity = log_identity(parts)
    state = _control_state(parts)
    if state is None or state.live is None:
        spec = generation_spec(parts.config)
        state = operator.found(
            parts.broker, parts.names, lambda now: transitions.found(now, spec, time.time()), identity
        )
    check_log(state, identity)
    return _proposed(parts, state)


def proposed(config: Config) -> str | None:
    """Fingerprint of the generation that the configuration proposes; None if its model is not on this machine."""
    try:
        return generation_spec(config).fingerprint
    except ConfigError:
        return None


def connector_state(config: Config) -> Path:
    """The folder of what connectors keep; every process on this state folder uses the same."""
    return config.state / "connectors"


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


def same_log(parts: Parts) -> None:
    """Refuse another log than the one that the collections were filled from; asked anew at each call.

    Raises:
        LogDiverged: the documents topic was replaced, or the epoch was changed in place.
        Fatal: there is none.
    """
    identity, state = log_identity(parts), _control_state(parts)
    if state is not None:
        check_log(state, identity)


class Models:
    """Loaded models, each once, ready for several threads.

    Args:
        config: where weights are, device and threads.
        loaded: some that are there already.
        stop: once it is set, no model is waited for.
    """

    def __init__(self, config: Config, loaded: Sequence[Embedder] = (), stop: threading.Event | None = None) -> None:
        self._config = config
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()
        self._loaded = {one.spec.fingerprint: one for one in loaded}

    def of(self, spec: GenerationSpec) -> Embedder:
        """The model of a generation.

        Raises:
            ConfigError: it is not on this machine.
            FingerprintMismatch: what is there is another model.
            Transient: this process is stopping.
        """
        with self._lock:
            found = self._loaded.get(spec.model.fingerprint)
            if found is None:
                place = located(spec, self._config)
                found = SharedEmbedder(lambda: load(place, spec.model), self._stop.is_set)
                self._loaded[spec.model.fingerprint] = found
            return found

    def keep(self, specs: Iterable[GenerationSpec]) -> None:
        """Let go of the models of all other generations."""
        wanted = {spec.model.fingerprint for spec in specs}
        with self._lock:
            self._loaded = {name: one for name, one in self._loaded.items() if name in wanted}


def collection_of(parts: Parts, spec: GenerationSpec) -> Collection:
    """The generation's collection, made if it is not there.

    Raises:
        FingerprintMismatch, ForeignCollection: a collection of that name is not this generation's.
        CollectionMissing: it was there, and is gone.
    """
    names = parts.names
    name = names.collection(spec.id)
    groups = [names.group(stage, spec.id) for stage in ("chunk", "embed")]
    committed = parts.broker.committed(groups[1], names.chunks(spec.id))
    # In this order: another worker may make it and fill it between two looks.
    if any(committed.values()) and name not in parts.store.names(name):
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


class Followed:
    """What ``control`` says, looked up at most a few times a second; for several threads."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._control = Control(parts.broker, parts.names)
        self._lock = threading.Lock()
        self._looked = Deadline.after(0.0)

    def __call__(self) -> ControlState:
        """As of a moment ago."""
        with self._lock:
            if self._looked.expired:
                self._control.refresh()
                self._looked = Deadline.after(_CONTROL_SECONDS)
            return self._control.state

    def again(self) -> ControlState:
        """As of now: what was written before the call is in it."""
        # A reader knows the end that the topic had when it was opened, so a new one is; without the
        # lock, which every search takes.
        return read(self._parts.broker, self._parts.names)

    def close(self) -> None:
        """Stop following."""
        with self._lock:
            self._control.close()


@dataclass(frozen=True, slots=True)
class Searched:
    """The generations as a search sees them."""

    live: GenerationSpec | None
    standby: list[GenerationSpec]
    target: GenerationSpec | None


def search_service(
    parts: Parts, control: Callable[[], ControlState], models: Models, *, alone: bool = False
) -> SearchService:
    """Searches in the live generation.

    Args:
        parts: the store is open.
        control: what ``control`` says.
        models: loaded models.
        alone: nobody else in this process uses them.
    """

    def searched() -> Searched:
        state = control()
        standby = [one.spec for one in state.followed if one.state in ("ready", "previous")]
        live, target = state.live, state.target
        return Searched(None if live is None else live.spec, standby, None if target is None else target.spec)

    def observe(seconds: float, overlap: float) -> None:
        parts.metrics.shadow_search_duration_seconds.observe(seconds)
        parts.metrics.shadow_overlap.observe(overlap)

    share = parts.config.migrate.shadow_share
    shadow = Shadow(share, observe) if share else None
    keep = models.keep if alone else lambda specs: None
    return SearchService(parts.store, parts.names, searched, models.of, shadow, keep)


def _control_state(parts: Parts) -> ControlState | None:
    if parts.names.control not in parts.broker.topics(parts.names.control):
        return None
    return read(parts.broker, parts.names)


def _proposed(parts: Parts, state: ControlState) -> ControlState:
    """Configuration only proposes: what differs from all that is followed is refused, or migrated to."""
    config, live = parts.config, state.live
    assert live is not None  # founded before
    try:
        proposed = generation_spec(config)
    except ConfigError:
        return state  # a worker without weights takes everything from control
    if any(one.spec.fingerprint == proposed.fingerprint for one in state.followed):
        return state
    if any(one.spec.fingerprint == proposed.fingerprint for one in state.generations.values()):
        # An operator has migrated away from it: that counts, and a pod of yesterday must not undo it.
        log.warning(
            "the configuration names a generation that is over; the live one is followed",
            extra={"configured": proposed.id, "live": live.id, "model": live.spec.model.name},
        )
        return state
    if config.migrate.on_model_change == "migrate":
        try:
            state = operator.operate(
                parts.broker, parts.names, lambda now: transitions.start(now, proposed, time.time(), again=False)
            )
            log.info("migration started: the configuration asks for it", extra={"generation": proposed.id})
        except Refused as error:
            # Another migration is under way: this one's turn is another start.
            log.warning("the configured migration was not started", extra={"error": str(error)})
        return state
    differing = [
        f"{field} is {theirs!r}, configured is {ours!r}"
        for field, (theirs, ours) in differences(live.spec, proposed).items()
    ]
    raise FingerprintMismatch(
        f"the live generation {live.id} differs from the configuration: {'; '.join(differing)}",
        "`vectide migrate run` migrates to what is configured (or set migrate.on_model_change, and the workers begin "
        "it); to stay, configure what the live generation has",
    )
