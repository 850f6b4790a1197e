"""What a pipeline of some size needs: workers, partitions, memory, disk, hours, cost. Pure reckoning.

Every figure that it rests on stands in :data:`FIGURES` with its source: measured by `make bench`
(docs/benchmarks.md), published by Qdrant or Kafka, or reckoned. docs/sizing.md explains the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Literal

DAY_SECONDS: Final = 86_400.0
HOUR_SECONDS: Final = 3_600.0
MONTH_DAYS: Final = 30
GIBIBYTE: Final = 1 << 30

Source = Literal["measured", "published", "reckoned"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that the reckoning rests on."""

    value: float
    unit: str
    source: Source
    where: str
    """The benchmark, the document or the thought that it comes from."""


_ROOM: Final = "room"
_CLIENT: Final = "pipeline alone on Kafka: processor time of two cores at 424 chunks/s"

FIGURES: Final[Mapping[str, Figure]] = MappingProxyType(
    {
        "minilm_tokens_per_second": Figure(7_400, "tokens/s", "measured", "first sync: best batches alone, 2 cores"),
        "pipeline_share": Figure(0.90, "of the model's speed", "measured", "first sync: pipeline / best"),
        "migration_share": Figure(0.96, "of a first sync's speed", "measured", "migrations"),
        "chunk_fill": Figure(0.648, "of a chunk's most tokens", "measured", f"{_ROOM}: 164.6 of 254"),
        "context_share": Figure(1.02, "tokens embedded / of documents", "measured", _ROOM),
        "bytes_per_token": Figure(2.96, "bytes of text", "measured", f"{_ROOM}; prose has 4 to 5"),
        "change_chunks": Figure(4.37, "chunks a change", "measured", "edits: the costliest kind, insert inside"),
        "connector_documents_per_second": Figure(870, "documents/s", "measured", f"{_CLIENT}, 5 % of it"),
        "chunker_chunks_per_second": Figure(1_630, "chunks/s", "measured", f"{_CLIENT}, 13 % of it"),
        "embedder_chunks_per_second": Figure(
            540, "chunks/s", "measured", f"{_CLIENT}, 39 % of it: whatever the model's speed"
        ),
        "store_points_per_second": Figure(
            4_800,
            "points/s of 384 dimensions",
            "measured",
            "room, at its end: a real server, 2 cores shared with its client",
        ),
        "verified_chunks_per_second": Figure(6_490, "chunks/s", "measured", "verification of a million chunks: 154 s"),
        "payload_beside_text": Figure(
            357, "bytes a chunk", "measured", f"{_ROOM}: its own, and its part of the head's"
        ),
        "payload_index": Figure(
            563, "bytes a chunk", "measured", f"{_ROOM}, on the disk; as much in memory is reckoned"
        ),
        "id_tracker": Figure(34, "bytes a chunk", "measured", _ROOM),
        "record_beside_text": Figure(345, "bytes a document", "measured", _ROOM),
        "memory_factor": Figure(1.5, "times vectors * dimension * 4 bytes", "published", "Qdrant, capacity planning"),
        "int8_share": Figure(0.25, "of float32 in memory", "published", "Qdrant, scalar quantisation"),
        "hnsw_links": Figure(
            132, "bytes a chunk", "reckoned", "m = 16: 32 links of 4 bytes, and those of upper layers"
        ),
        "disk_factor": Figure(1.5, "times what is used", "published", "Qdrant, capacity planning, of payloads"),
        "log_replicas": Figure(3, "copies", "reckoned", "min(3, brokers)"),
        "compaction_days": Figure(7, "days", "reckoned", "max.compaction.lag.ms of the topics"),
        "busy_share": Figure(0.25, "of a day", "reckoned", "all changes of a day come in so much of it"),
        "steady_load": Figure(0.5, "of what workers could do", "measured", "freshness at half load"),
    }
)

#: Partitions are never changed in place: room for twice the workers, and no fewer than the default.
_PARTITIONS_PER_WORKER: Final = 2
_LEAST_PARTITIONS: Final = 8
_FLOAT_BYTES: Final = 4
_MEASURED_DIMENSION: Final = 384
#: Above so many CPU workers a GPU is asked for.
_MANY_WORKERS: Final = 16
#: Above so many nodes vectors are better quantised.
_MANY_NODES: Final = 4


def _figure(name: str) -> float:
    return FIGURES[name].value


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be kept in step.

    Raises:
        ValueError: a number that none of it can have; names it.
    """

    documents: int
    tokens_per_document: float
    changes_per_day: float
    sources: int = 1
    """Each has a connector of its own."""
    bytes_per_token: float = FIGURES["bytes_per_token"].value

    def __post_init__(self) -> None:
        _positive(self, "documents", "tokens_per_document", "sources", "bytes_per_token")
        if not (math.isfinite(self.changes_per_day) and self.changes_per_day >= 0):
            raise ValueError(f"changes_per_day = {self.changes_per_day} is no number from 0")


@dataclass(frozen=True, slots=True)
class Model:
    """An embedding model on one worker.

    Raises:
        ValueError: a number that none of it can have; names it.
    """

    name: str
    dimension: int
    tokens_per_second: float
    """Of the model alone in one worker process, as `vectide migrate plan` measures it."""
    chunk_tokens: int
    """Most tokens of a chunk."""

    def __post_init__(self) -> None:
        _positive(self, "dimension", "tokens_per_second", "chunk_tokens")


@dataclass(frozen=True, slots=True)
class Choices:
    """What the operator decides.

    Raises:
        ValueError: a number that none of it can have; names it.
    """

    hours: float = 24.0
    """A first sync should take no longer; decides the workers where they are not given."""
    workers: int | None = None
    node_memory: float = 64.0
    """GiB of one Qdrant node."""
    replication: int = 1
    """Copies of each point in Qdrant."""
    price_per_million_tokens: float | None = None

    def __post_init__(self) -> None:
        _positive(self, "hours", "node_memory", "replication")
        if self.workers is not None:
            _positive(self, "workers")
        price = self.price_per_million_tokens
        if price is not None and not (math.isfinite(price) and price >= 0):
            raise ValueError(f"price_per_million_tokens = {price} is no number from 0")


@dataclass(frozen=True, slots=True)
class Sizing:
    """What it takes. Bytes are of the whole cluster, with its copies; hours are of the clock."""

    documents: int
    chunks: int
    tokens: int
    """Embedded by a first sync; a migration embeds as many."""
    embed_workers: int
    chunk_workers: int
    partitions: int
    first_sync_hours: float
    first_sync_bound: str
    """What it waits for: ``embed``, ``connector`` or ``store``."""
    migration_hours: float
    verification_hours: float
    qdrant_memory_bytes: int
    qdrant_memory_int8_bytes: int
    """The same with vectors in memory as int8, and the originals on the disk."""
    qdrant_disk_bytes: int
    migration_memory_bytes: int
    """While two generations are kept."""
    migration_disk_bytes: int
    qdrant_nodes: int
    """That hold two generations, and at least one for each copy."""
    qdrant_nodes_int8: int
    kafka_disk_bytes: int
    pipelines: int
    """So that a verification of each takes a day at most."""
    first_sync_cost: float | None
    monthly_cost: float | None
    """Of the changes of 30 days."""
    advice: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values, and the figures that they rest on."""
        return {**asdict(self), "advice": list(self.advice), "figures": {k: asdict(v) for k, v in FIGURES.items()}}


def size(demand: Demand, model: Model, choices: Choices | None = None) -> Sizing:
    """What a pipeline needs.

    Args:
        demand: documents and their changes.
        model: dimension and speed.
        choices: what the operator decides; None: the defaults.
    """
    chosen = choices or Choices()
    largest = _figure("chunk_fill") * model.chunk_tokens
    embedded = demand.tokens_per_document * _figure("context_share")
    per_document = max(1.0, embedded / largest)
    chunks = math.ceil(demand.documents * per_document)
    tokens = math.ceil(demand.documents * embedded)
    memory = _memory(chunks, model.dimension, chosen.replication)
    int8 = _memory(chunks, model.dimension, chosen.replication, _figure("int8_share"))
    disk = _disk(chunks, tokens * demand.bytes_per_token, model.dimension, chosen.replication)
    # Nodes must hold two generations: a migration may come at any time.
    nodes, nodes_int8 = (
        max(float(chosen.replication), 2 * each / (chosen.node_memory * GIBIBYTE)) for each in (memory, int8)
    )

    changed = demand.changes_per_day * min(_figure("change_chunks"), per_document)
    changed_tokens = changed * embedded / per_document
    # Seconds of one worker.
    work = _work(chunks, tokens, model)
    a_day = _work(changed, changed_tokens, model)
    steady = math.ceil(a_day / (DAY_SECONDS * _figure("busy_share") * _figure("steady_load")))
    workers = chosen.workers or max(1, steady, math.ceil(work / (chosen.hours * HOUR_SECONDS)))
    each = 1 / _work(1, largest, model)
    chunkers = math.ceil(workers * each / _figure("chunker_chunks_per_second"))

    points = _figure("store_points_per_second") * min(1.0, _MEASURED_DIMENSION / model.dimension)
    store = chunks * chosen.replication / (points * nodes)
    bounds = {
        "embed": work / workers,
        "connector": demand.documents / (_figure("connector_documents_per_second") * demand.sources),
        "store": store,
    }
    bound = max(bounds, key=lambda name: bounds[name])
    verification = chunks / _figure("verified_chunks_per_second")
    price = chosen.price_per_million_tokens
    made = Sizing(
        documents=demand.documents,
        chunks=chunks,
        tokens=tokens,
        embed_workers=workers,
        chunk_workers=chunkers,
        partitions=_partitions(max(workers, chunkers)),
        first_sync_hours=bounds[bound] / HOUR_SECONDS,
        first_sync_bound=bound,
        migration_hours=max(bounds["embed"] / _figure("migration_share"), store) / HOUR_SECONDS,
        verification_hours=verification / HOUR_SECONDS,
        qdrant_memory_bytes=memory,
        qdrant_memory_int8_bytes=int8,
        qdrant_disk_bytes=disk,
        migration_memory_bytes=2 * memory,
        migration_disk_bytes=2 * disk,
        qdrant_nodes=math.ceil(nodes),
        qdrant_nodes_int8=math.ceil(nodes_int8),
        kafka_disk_bytes=_log(demand),
        pipelines=math.ceil(verification / DAY_SECONDS),
        first_sync_cost=None if price is None else tokens * price / 1e6,
        monthly_cost=None if price is None else changed_tokens * MONTH_DAYS * price / 1e6,
        advice=(),
    )
    return replace(made, advice=tuple(_advice(made, model, chosen, steady)))


def _work(chunks: float, tokens: float, model: Model) -> float:
    """Seconds of one embed worker: of its model, or of all else that it does, which goes on beside it."""
    return max(
        tokens / (model.tokens_per_second * _figure("pipeline_share")), chunks / _figure("embedder_chunks_per_second")
    )


def _memory(chunks: int, dimension: int, replication: int, share: float = 1.0) -> int:
    """Vectors by Qdrant's rule, and payload indexes; payloads lie on the disk, as is its default."""
    vectors = chunks * dimension * _FLOAT_BYTES * share * _figure("memory_factor")
    return math.ceil((vectors + chunks * _figure("payload_index")) * replication)


def _disk(chunks: int, text_bytes: float, dimension: int, replication: int) -> int:
    """Vectors, links, payloads, indexes and ids, with the heads' part, and room to write segments anew."""
    beside = sum(_figure(name) for name in ("payload_beside_text", "payload_index", "id_tracker", "hnsw_links"))
    used = chunks * (dimension * _FLOAT_BYTES + beside) + text_bytes
    return math.ceil(used * _figure("disk_factor") * replication)


def _log(demand: Demand) -> int:
    """The documents topic: one record each, and what is not compacted yet."""
    record = demand.tokens_per_document * demand.bytes_per_token + _figure("record_beside_text")
    dirty = min(float(demand.documents), demand.changes_per_day * _figure("compaction_days"))
    return math.ceil((demand.documents + dirty) * record * _figure("log_replicas"))


def _partitions(workers: int) -> int:
    return int(max(_LEAST_PARTITIONS, 2 ** math.ceil(math.log2(_PARTITIONS_PER_WORKER * workers))))


def _advice(made: Sizing, model: Model, chosen: Choices, steady: int) -> Iterator[str]:
    """What changes at this size."""
    if made.embed_workers < steady:
        yield f"{steady} embed workers follow the changes of a busy hour at half load; {made.embed_workers} are less"
    fastest = math.ceil(made.chunks / (_figure("embedder_chunks_per_second") * chosen.hours * HOUR_SECONDS))
    if made.embed_workers > max(_MANY_WORKERS, 2 * fastest):
        yield (
            f"GPU workers: {max(fastest, 1)} would do if the model were fast enough not to be waited for; measure "
            "yours with `vectide migrate plan` and give --tokens-per-second"
        )
    if made.first_sync_bound == "connector":
        yield "one connector publishes a source: split the documents into more sources (--sources)"
    if made.first_sync_bound == "store":
        yield "the store is what a first sync waits for: more CPUs or nodes there, and no more embed workers"
    if made.qdrant_nodes > chosen.replication:
        yield (
            f"{made.qdrant_nodes} Qdrant nodes of {chosen.node_memory:g} GiB hold two generations: set "
            "qdrant.shard_number to a multiple of that before the first sync"
        )
    if made.qdrant_nodes > _MANY_NODES * chosen.replication:
        yield (
            f"quantise, for {made.qdrant_nodes_int8} nodes: int8 vectors in memory, the originals on the disk; set on "
            "each new collection in Qdrant itself, vectide has no setting for it"
        )
    if made.pipelines > 1:
        yield (
            f"split it into {made.pipelines} pipelines (pipeline.name), each with a collection of its own, so that "
            "a verification of each takes a day at most"
        )


def _positive(value: object, *names: str) -> None:
    for name in names:
        number = getattr(value, name)
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{name} = {number} is no number above 0")
