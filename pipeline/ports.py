"""The seams: what the core needs from a broker, a store, a model, a source and a clock.

Adapters implement these Protocols and are held to one contract suite each (tests/contract).
Nothing above a port knows which adapter it has. All of them raise the errors of
:mod:`pipeline.errors` and nothing else; every call that can wait takes a deadline or has one
set when its adapter was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from pipeline.cells import Counts
from pipeline.deadline import Deadline
from pipeline.identity import Metadata
from pipeline.points import (
    Alignment,
    ChunkPoint,
    Head,
    HeadState,
    ScoredChunk,
    StoredChunk,
    Sweep,
    Vectors,
    Where,
)
from pipeline.specs import Distance, FieldType, ModelSpec

# --------------------------------------------------------------------------------- broker

Headers: TypeAlias = tuple[tuple[str, bytes], ...]


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it was read."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp: float = 0.0
    """When the broker appended it (LogAppendTime), in seconds since 1970."""

    @property
    def at(self) -> TopicPartition:
        """Where it was read."""
        return TopicPartition(self.topic, self.partition)


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to be written."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None
    """None: chosen by murmur2 of the key, as every Kafka client does."""


class Written(NamedTuple):
    """Where a record went."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as we need it."""

    name: str
    partitions: int
    cleanup: Literal["compact", "compact,delete", "delete"]
    max_record_bytes: int
    retention_seconds: float | None = None
    """None: no time limit."""
    max_compaction_lag_seconds: float | None = None
    """How long superseded text can stay in a compacted topic. None: the broker's default."""


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as it is."""

    name: str
    id: str
    """Changes when a topic is deleted and made again under its old name."""
    partitions: int


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long what was superseded or deleted can still be read in a topic, in seconds; None: no limit."""

    superseded: float | None
    """A record that a later one of its key replaces: from the later one on."""
    nulls: float | None
    """A null, once it may be compacted."""
    records: float | None
    """Any record, from when it was appended."""


class OffsetRange(NamedTuple):
    """``start`` is the first offset that is kept, ``end`` the next one."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll brought: records, and what happened to the assignment before them."""

    records: list[Record] = field(default_factory=list)
    assigned: frozenset[TopicPartition] = frozenset()
    revoked: frozenset[TopicPartition] = frozenset()
    """Revoked or lost: forget everything in flight for these, commit nothing for them."""


class Consumer(Protocol):
    """A member of a consumer group; used by one thread. Offsets are committed only by the caller.

    A group without committed offsets starts at the beginning. ``poll`` must be called often even
    while everything is paused: it is what keeps the membership.
    """

    def poll(self, timeout: float, max_records: int) -> Polled:
        """Up to ``max_records`` records, in order within a partition; waits up to ``timeout`` seconds.

        Raises:
            BrokerUnavailable: no answer; call again.
            LogDiverged: a committed offset lies outside the log.
        """
        ...

    def joined(self) -> bool:
        """True while the group counts this member, which may hold no partition: ``poll`` joins."""
        ...

    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions that this member holds, as of the last poll."""
        ...

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Deliver nothing from these until resumed; membership and positions stay."""
        ...

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Deliver from these again."""
        ...

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """The next poll reads ``partition`` from ``offset``."""
        ...

    def position(self, partition: TopicPartition) -> int:
        """The next offset to be read: beyond transaction markers and compacted records, so that
        an idle group's committed position reaches the end.
        """
        ...

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The group's committed offsets; a partition without one is left out."""
        ...

    def commit(self, offsets: Mapping[TopicPartition, int], deadline: Deadline) -> None:
        """Commit the next offset to read, for each partition.

        Raises:
            PartitionsLost: the group moved on; nothing of this call may be relied on.
            BrokerUnavailable: no answer before the deadline; it may or may not be committed.
        """
        ...

    def close(self, deadline: Deadline) -> None:
        """Leave the group. Commits nothing."""
        ...


class Reader(Protocol):
    """Reads partitions without a group, from the beginning or from given offsets; one thread."""

    def poll(self, timeout: float, max_records: int) -> list[Record]:
        """The next records of committed transactions; an empty list when there are none in time."""
        ...

    def caught_up(self) -> bool:
        """True once everything has been read that was committed when the reader was opened."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


class Publisher(Protocol):
    """An idempotent producer; safe for several threads."""

    def publish(self, records: Sequence[NewRecord], deadline: Deadline) -> list[Written]:
        """Write records, in order per partition; on return all are durable on the in-sync replicas.

        Raises:
            BrokerUnavailable: no answer before the deadline; any of them may have been written.
            Poison: a record is over the topic's size limit (then none of them is written), or the
                broker refuses one for what it is.
        """
        ...

    def close(self, deadline: Deadline) -> None:
        """Flush and release connections."""
        ...


Then: TypeAlias = Callable[[Sequence[Written]], Sequence[NewRecord]]


class TransactionalPublisher(Protocol):
    """The one writer under a transactional id: making a second one fences this one."""

    def publish(self, records: Sequence[NewRecord], deadline: Deadline, then: Then | None = None) -> list[Written]:
        """Write all of the records, or none, in one transaction.

        Args:
            records: at least one, or nothing happens.
            deadline: for all of it.
            then: makes further records of the same transaction from where these went.

        Returns:
            Where all of them went, the further ones last.

        Raises:
            Fenced: another process took this transactional id over.
            BrokerUnavailable: aborted, or the outcome is unknown: make a new publisher, then read
                back what was written.
            Poison: a record is over the topic's size limit; nothing is written.
        """
        ...

    def close(self, deadline: Deadline) -> None:
        """Release connections."""
        ...


class Broker(Protocol):
    """A log of records in topics and partitions, with consumer groups."""

    def consumer(self, group: str, topics: Sequence[str], client: str) -> Consumer:
        """Join ``group``. ``client`` names this member in logs."""
        ...

    def reader(self, topic: str, start: Mapping[int, int] | None = None) -> Reader:
        """Read a topic from the beginning, or each partition from its offset in ``start``."""
        ...

    def publisher(self, client: str) -> Publisher:
        """Make an idempotent producer."""
        ...

    def transactional_publisher(self, transactional_id: str) -> TransactionalPublisher:
        """Take a transactional id over: open transactions of an older writer are aborted, and it
        is fenced before this returns. Read what it wrote only after.
        """
        ...

    def ensure_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        """Create what is missing; return the names that were created.

        Raises:
            TopicMismatch: a topic exists with fewer partitions or with a setting that loses data;
                the text names topic, setting, value and what to do.
        """
        ...

    def topics(self, prefix: str) -> dict[str, TopicInfo]:
        """The topics whose names start with ``prefix``."""
        ...

    def delete_topics(self, names: Sequence[str]) -> None:
        """Delete topics; one that does not exist is no error."""
        ...

    def offsets(self, topic: str, *, uncommitted: bool = False) -> dict[int, OffsetRange]:
        """First kept and next offset of every partition.

        Args:
            topic: which.
            uncommitted: count what open transactions have written; otherwise the end is where the
                first open one begins.
        """
        ...

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """A group's committed offsets; a partition without one is left out."""
        ...

    def lag(self, group: str, topic: str) -> dict[int, int]:
        """How many records a group has not committed, by partition; never below 0. Without a
        commit, everything that is kept. An upper bound where offsets have gaps.
        """
        ...

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Drop everything before these offsets."""
        ...

    def groups(self, prefix: str) -> list[str]:
        """The groups whose names start with ``prefix``: those with members or with offsets."""
        ...

    def delete_group(self, group: str) -> None:
        """Forget a group and its offsets; one that does not exist is no error."""
        ...

    def size(self, topic: str) -> int:
        """Bytes of a topic's records on the disk of one replica, about."""
        ...

    def lifetime(self, topic: str) -> Lifetime:
        """How long the broker lets superseded records lie."""
        ...

    def purge(self, topics: Sequence[str]) -> bool:
        """Compact these now, and leave no byte in the files of what was removed, from these or any
        other topic. False: this broker cannot be told to; :meth:`lifetime` says when it does.
        """
        ...

    def close(self) -> None:
        """Release connections and files."""
        ...


# ---------------------------------------------------------------------------------- store


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """A collection as vectide makes it."""

    name: str
    generation: str
    dimension: int
    distance: Distance
    model_fingerprint: str
    chunking_fingerprint: str
    filter_fields: Mapping[str, FieldType] = field(default_factory=dict)


Tallied: TypeAlias = Literal[
    "heads",  # complete heads, by the cells of the head
    "tombstones",  # heads of deleted documents, likewise
    "documents",  # chunks, by the cells of their document
    "chunks",  # chunks, by the cell of their id
]


class Collection(Protocol):
    """One generation's heads and chunks. Safe for several threads. Every method is one request
    (or few, where a limit of the server forces a split), durable against a killed process when it
    returns, and empty arguments do nothing: an empty condition would match every point. Of several
    points with one id in a call, the one with the highest stamp counts.

    "Stamp not above s" means ``must_not: stamp > s``; a point without a stamp therefore matches.
    """

    @property
    def spec(self) -> CollectionSpec:
        """What it was made with."""
        ...

    def heads(self, docs: Sequence[str], where: Where | None = None) -> dict[str, Head]:
        """The heads of these documents, those that pass ``where``; absent ones are left out."""
        ...

    def existing(self, chunk_ids: Sequence[str]) -> set[str]:
        """Those of the ids that have a point."""
        ...

    def vectors(self, content_hashes: Sequence[str]) -> dict[str, Vectors]:
        """For each content hash that some chunk here has, its vector (shape [dimension])."""
        ...

    def upsert_chunks(self, chunks: Sequence[ChunkPoint], fences: Mapping[str, int]) -> None:
        """Write chunks: absent ones are inserted; a present one is overwritten only if it belongs
        to a document of ``fences`` and does not have a stamp >= that document's fence.
        """
        ...

    def insert_heads(self, heads: Sequence[Head]) -> None:
        """Write heads of documents that have none; present ones stay as they are."""
        ...

    def replace_heads(self, heads: Sequence[Head], read: Mapping[str, int]) -> None:
        """Overwrite each head only if it still has the stamp ``read[doc]``. Never inserts."""
        ...

    def drop_tombstones(self, read: Mapping[str, int]) -> None:
        """Delete each document's head if it is a tombstone and still has the stamp ``read[doc]``."""
        ...

    def sweep(self, sweeps: Sequence[Sweep]) -> None:
        """Delete chunks; see :class:`pipeline.points.Sweep`. Heads are never swept."""
        ...

    def misaligned(self, alignments: Sequence[Alignment]) -> set[str]:
        """The documents for which :meth:`align` would change something."""
        ...

    def align(self, alignments: Sequence[Alignment]) -> None:
        """Set filter fields; see :class:`pipeline.points.Alignment`."""
        ...

    def search(
        self, vector: Vectors, limit: int, where: Where | None = None, without: Sequence[str] = ()
    ) -> list[ScoredChunk]:
        """The chunks nearest to ``vector``, best first, leaving out the documents of ``without``."""
        ...

    def scan_heads(
        self, after: str | None = None, limit: int = 256, states: Sequence[HeadState] | None = None
    ) -> tuple[list[Head], str | None]:
        """A page of all heads, or of those in some states, in a stable order, and where the next
        page starts (None: the end).
        """
        ...

    def scan_chunks(
        self, after: str | None = None, limit: int = 256, docs: Sequence[str] | None = None, vectors: bool = False
    ) -> tuple[list[StoredChunk], str | None]:
        """A page of all chunks, or of those of ``docs``, in a stable order; see scan_heads."""
        ...

    def tally(self, of: Tallied) -> Counts:
        """How many points there are in each cell. A point that a server just moves may count twice: what differs is
        to be asked once more.

        Raises:
            RequestRefused: the store has no such request, or does not allow it.
        """
        ...

    def in_cells(
        self,
        of: Tallied,
        cells: Sequence[int],
        others: Sequence[int] | None = None,
        after: str | None = None,
        limit: int = 256,
    ) -> tuple[list[str], str | None]:
        """The documents of a page of points that are in one of ``cells`` and, if they are given, in
        one of ``others``: one for each point, so that a document may come several times. Without
        cells there are none. See scan_heads.
        """
        ...

    def count_heads(self) -> dict[str, int]:
        """How many heads there are in each state (a state without any is left out)."""
        ...

    def count_chunks(self) -> int:
        """How many chunks there are."""
        ...

    def mend(self, docs: Sequence[str]) -> None:
        """Make the indexes of these documents' points say what the points say. The embedded engine can be torn
        when its process is killed: an index has a write that the point does not, and no condition ever
        holds for it again. Others have nothing to mend.
        """
        ...

    def flush(self) -> None:
        """On return everything written before survives a power cut."""
        ...

    @property
    def flush_each_batch(self) -> bool:
        """True if a write is durable on return (a server); False if only :meth:`flush`, which is
        slow, makes it so (the embedded engine): then flush every few seconds, and commit offsets
        only of what came before.
        """
        ...


class Store(Protocol):
    """Collections by name."""

    def create(self, spec: CollectionSpec) -> Collection:
        """Make a collection with its payload indexes, or open the one that is there.

        Raises:
            FingerprintMismatch: it exists for another model, chunking or dimension.
            ForeignCollection: it exists, and vectide did not make it.
        """
        ...

    def open(self, name: str) -> Collection:
        """Open a collection.

        Raises:
            CollectionMissing: there is none of that name.
            ForeignCollection: vectide did not make it.
        """
        ...

    def names(self, prefix: str) -> list[str]:
        """The collections whose names start with ``prefix``."""
        ...

    def drop(self, name: str) -> None:
        """Delete a collection; one that does not exist is no error."""
        ...

    def defer_index(self, name: str) -> None:
        """Build no vector index while a collection is loaded; searches scan, and are exact."""
        ...

    def build_index(self, name: str) -> bool:
        """Build what was deferred; called again until it is True: nothing is left to build. Does
        nothing where indexes are never built.
        """
        ...

    def size(self, name: str) -> int:
        """Bytes that dropping it gives back, at least: files where they are ours, else its vectors."""
        ...

    def purge(self, name: str) -> bool:
        """Leave no byte in the files of points that were deleted. Everything stands still meanwhile,
        for as long as it takes to write the collection anew. False: this store cannot be told to.
        """
        ...

    def point_alias(self, alias: str, name: str) -> None:
        """Make ``alias`` mean ``name`` in one atomic step."""
        ...

    def alias(self, alias: str) -> str | None:
        """The collection that ``alias`` means."""
        ...

    def check(self) -> None:
        """Reach the store once.

        Raises:
            StoreUnavailable: no answer.
            Fatal: it answers, but is too old (server < 1.19) or refuses the API key.
        """
        ...

    def close(self) -> None:
        """Flush and release connections and files."""
        ...


# ---------------------------------------------------------------------------------- model


class Tokenizer(Protocol):
    """A model's own tokens, without torch."""

    @property
    def sha256(self) -> str:
        """Over the canonical definition; part of the specs."""
        ...

    @property
    def special_tokens(self) -> int:
        """How many tokens the model adds to each text, whatever the text."""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens excluded, nothing truncated."""
        ...

    def offsets(self, text: str) -> Iterable[tuple[int, int]]:
        """The span of each token in code points of ``text``, special tokens excluded, in order."""
        ...


class Embedder(Protocol):
    """A loaded model. Used by one thread at a time."""

    @property
    def spec(self) -> ModelSpec:
        """What it is; its fingerprint names the vector space."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model."""
        ...

    @property
    def batch_tokens(self) -> int:
        """Padded tokens of a forward pass that suit the model's device; any other number works too."""
        ...

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """float32 [len(texts), dimension], in order, the document prompt applied.

        The caller has already made the batch: one call is one forward pass.
        """
        ...

    def embed_query(self, text: str) -> Vectors:
        """float32 [dimension], the query prompt applied; a text over the limit is truncated."""
        ...


# --------------------------------------------------------------------------------- source


@dataclass(frozen=True, slots=True)
class Listed:
    """A document that a source has, and what tells whether it changed since (mtime, etag, LSN ...)."""

    path: str
    revision: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """A document's content."""

    path: str
    revision: str
    text: str | None
    digest: str
    media_type: str
    metadata: Metadata
    event_time: float
    """When it last changed at the source, in seconds since 1970."""
    size: int = 0
    omitted: str = ""
    """Why there is no text."""
    found: Mapping[str, Any] = field(default_factory=dict)
    """What else the source knows of it, nested as JSON is: only a mapping of metadata sees it."""
    unfit: tuple[str, ...] = ()
    """Names of metadata whose values did not fit their types and are left out."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """There is something at a path, but no document: binary, a device ... A document that was
    there before is gone.
    """

    path: str
    revision: str
    reason: str
    """A short label of a bounded set, used in metrics."""


@dataclass(frozen=True, slots=True)
class Expired:
    """There was a document at a path, and its source cannot say any more what it is, nor that it is gone: what
    was published stays as it is.
    """

    path: str


@dataclass(frozen=True, slots=True)
class Hint:
    """Something may have happened to a path and to what is below it (``path/...``), or, where the
    path is None, anywhere: scan again.
    """

    path: str | None
    at: float | None = None
    """When it was noticed, in seconds since 1970. None: now."""


class Source(Protocol):
    """One place where documents live. Used by one thread, but for :meth:`close`."""

    @property
    def id(self) -> str:
        """The source id of its document keys."""
        ...

    def scan(self) -> Iterator[Listed | None]:
        """Everything that exists now, cheaply: no content is read. What is missing from it is
        fetched once more before it counts as deleted.

        None is a pause, and says nothing of any document: the runner shows that it lives, does what is due and may
        stop. A source that can be busy for seconds without a document to list (it passes over what is excluded)
        yields one at least with every request.

        Raises:
            SourceUnavailable: it cannot be listed now; what was listed so far says nothing.
        """
        ...

    def hints(self, timeout: float) -> list[Hint]:
        """What may have changed since the last call; waits up to ``timeout`` seconds.

        Watching starts before the first scan, so that nothing falls between.

        Raises:
            SourceUnavailable: it cannot be told now; what changes meanwhile is told later. The runner is not ready,
                asks again, and goes on with scans that are due.
        """
        ...

    def fetch(self, path: str) -> Fetched | Skipped | Expired | None:
        """The document now; None only if it certainly does not exist (any more).

        Raises:
            SourceUnavailable: nothing can be read now, so that nothing counts as deleted.
            Transient: this one may be there but cannot be read now; the runner tries again.
            Poison: it can never be read as it is; published without its text.
        """
        ...

    def close(self) -> None:
        """Stop watching; wakes a waiting :meth:`hints`."""
        ...


def without_pauses(scan: Iterable[Listed | None]) -> Iterator[Listed]:
    """The documents that a scan lists."""
    return (one for one in scan if one is not None)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a source's log keeps for a reader that has not acknowledged it."""

    amount: int
    unit: Literal["bytes", "records"]


@runtime_checkable
class LogSource(Source, Protocol):
    """A source with a log of its own, a replication slot or a topic: after a restart its hints go on
    where they were, without a scan. A position is text of its own making, of a few kilobytes at most.
    """

    def resume(self, position: str | None) -> bool:
        """Go on behind ``position``; called once, before everything else.

        Args:
            position: up to where everything that was hinted is published; None: nothing is known.

        Returns:
            True if hints will tell all that changed since. False: only a scan tells; what changes
            from now on is hinted.

        Raises:
            SourceUnavailable: it cannot be told now; call again.
        """
        ...

    def caught_up(self) -> bool:
        """True once all was hinted that the log had when it was resumed."""
        ...

    def position(self) -> str:
        """Where the hints end that were returned so far."""
        ...

    def acknowledge(self, position: str) -> None:
        """All that was hinted up to there is published: the log need not keep it. What is lost of this
        is made good by the next one.
        """
        ...

    def backlog(self) -> Backlog | None:
        """As of its last look; None: it has not looked yet."""
        ...
