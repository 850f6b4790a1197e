"""What ``status`` shows: one look at the log, the store and the workers' own reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, TypeVar

from pipeline.cli.assembly import Parts
from pipeline.codec import event_time
from pipeline.deadline import Deadline
from pipeline.errors import CollectionMissing, CollectionUnfinished
from pipeline.generations.control import ControlState
from pipeline.generations.requests import suppressed
from pipeline.ports import Collection as StoredCollection
from pipeline.ports import Record
from pipeline.specs import GenerationSpec
from pipeline.stages import dead_letters
from pipeline.stages.reports import WorkerReport, read_reports
from pipeline.verification.published import last_verified

T = TypeVar("T")

_COUNTERS: Final = ("chunks_embedded", "chunks_reused", "tokens_embedded", "documents_published", "source_skipped")
#: One record of each partition is read to learn its event time; more would only be slower.
_READ_SECONDS: Final = 2.0
#: For the first worker to come from a collection to its indexes, which takes it a second.
_MADE_SECONDS: Final = 10.0


def figures(parts: Parts, control: ControlState) -> dict[str, Any]:
    """The pipeline as it is now.

    Raises:
        BrokerUnavailable, StoreUnavailable: no answer.
    """
    live = None if control.live is None else control.live.spec
    reports = read_reports(parts.broker, parts.names)
    lag, oldest = lag_of(parts, live)
    kept_out = suppressed(control)
    counters = {name: int(sum(report.counters.get(name, 0) for report in reports)) for name in _COUNTERS}
    return {
        **_stored(parts, live),
        "lag": sum(lag.values()),
        "lag_by_stage": lag,
        "oldest_unprocessed_event_age_seconds": oldest,
        "dead_letters": dead_letters.count(parts.broker, parts.names),
        **counters,
        "without_reader": int(sum(report.counters.get("source_skipped.no_reader", 0) for report in reports)),
        "kept_out": {"documents": len(kept_out.documents), "sources": sorted(kept_out.sources)},
        "generation": None if live is None else _described(live),
        "generations": {one.id: one.state for one in control.followed},
        "verified": _verified(parts, control),
        "workers": [_worker(report) for report in reports if report.alive],
        "unattended": _unattended(reports, kept_out.sources),
    }


def _stored(parts: Parts, live: GenerationSpec | None) -> dict[str, Any]:
    empty = {"documents": 0, "chunks": 0, "incomplete": 0, "failed": 0, "omitted": 0}
    if live is None:
        return empty
    collection = parts.names.collection(live.id)
    return once_made(lambda: _counted(parts.store.open(collection))) or empty


def _counted(collection: StoredCollection) -> dict[str, int]:
    states = collection.count_heads()
    return {
        "documents": sum(count for state, count in states.items() if state != "deleted"),
        "chunks": collection.count_chunks(),
        "incomplete": states.get("incomplete", 0),
        "failed": states.get("failed", 0),
        "omitted": states.get("omitted", 0),
    }


def once_made(look: Callable[[], T]) -> T | None:
    """What a look into a collection shows; None where there is none. One that is being made is waited for.

    Raises:
        CollectionUnfinished: it does not get its indexes.
    """
    deadline = Deadline.after(_MADE_SECONDS)
    while True:
        try:
            return look()
        except CollectionMissing:
            return None
        except CollectionUnfinished:
            if deadline.expired:
                raise
            time.sleep(0.1)


def lag_of(parts: Parts, live: GenerationSpec | None) -> tuple[dict[str, int], float]:
    """Records behind, by stage, and the age of the oldest event that is not done in both."""
    if live is None:
        return {"chunk": 0, "embed": 0}, 0.0
    documents, chunks = parts.names.documents(parts.config.pipeline.epoch), parts.names.chunks(live.id)
    there = parts.broker.topics(parts.names.root)
    lag: dict[str, int] = {}
    waiting: list[Record] = []
    for stage, topic in (("chunk", documents), ("embed", chunks)):
        if topic not in there:
            lag[stage] = 0
            continue
        group = parts.names.group("chunk" if stage == "chunk" else "embed", live.id)
        behind = parts.broker.lag(group, topic)
        lag[stage] = sum(behind.values())
        committed = parts.broker.committed(group, topic)
        ends = parts.broker.offsets(topic)
        starts = {
            partition: committed.get(partition, ends[partition].start)
            for partition, records in behind.items()
            if records
        }
        waiting += _first_of_each(parts, topic, starts)
    times = [at for record in waiting if (at := event_time(record)) is not None]
    return lag, max(0.0, time.time() - min(times)) if times else 0.0


def live_lag(parts: Parts, spec: GenerationSpec) -> int:
    """Records of the log that a generation has not committed, wherever its workers run."""
    broker, names = parts.broker, parts.names
    chunk = broker.lag(names.group("chunk", spec.id), names.documents(parts.config.pipeline.epoch))
    chunks = names.chunks(spec.id)
    # The first worker makes it, and senders do not wait for that.
    embed = broker.lag(names.group("embed", spec.id), chunks) if chunks in broker.topics(chunks) else {}
    return sum(chunk.values()) + sum(embed.values())


def _first_of_each(parts: Parts, topic: str, starts: dict[int, int]) -> Iterable[Record]:
    """The first record that is not committed, of each partition that has one."""
    found: dict[int, Record] = {}
    if not starts:
        return []
    until = time.monotonic() + _READ_SECONDS
    # Every other partition starts at its end.
    ends = {partition: bounds.end for partition, bounds in parts.broker.offsets(topic).items()}
    reader = parts.broker.reader(topic, {**ends, **starts})
    try:
        while found.keys() != starts.keys() and time.monotonic() < until and not reader.caught_up():
            for record in reader.poll(0.2, 500):
                if record.partition in starts:
                    found.setdefault(record.partition, record)
    finally:
        reader.close()
    return found.values()


def _verified(parts: Parts, control: ControlState) -> dict[str, Any]:
    """When each generation that is followed was last verified, and what was found; None: not in a week."""
    last = last_verified(parts.broker, parts.names)
    return {one.id: last[one.id].as_json() if one.id in last else None for one in control.followed}


def _unattended(reports: Sequence[WorkerReport], forgotten: Collection[str]) -> dict[str, float]:
    """Sources that some process has kept in step within a week and none does now, and for how many seconds. What is
    indexed of them still answers.
    """
    last: dict[str, float] = {}
    for report in reports:
        for source in report.sources:
            last[source] = max(last.get(source, 0.0), report.reported)
    attended = {source for report in reports if report.alive for source in report.sources}
    now = time.time()
    return {
        source: round(max(0.0, now - at), 1)
        for source, at in sorted(last.items())
        if source not in attended and source not in forgotten
    }


def _described(live: GenerationSpec) -> dict[str, Any]:
    return {
        "id": live.id,
        "state": "live",
        "model": live.model.name,
        "provider": live.model.provider,
        "model_fingerprint": live.model.fingerprint,
        "chunking_fingerprint": live.chunking.fingerprint,
        "dimension": live.model.dimension,
        "max_tokens": live.model.max_tokens,
        "filter_fields": dict(live.filter_fields),
    }


def _worker(report: WorkerReport) -> dict[str, Any]:
    return {
        "worker": report.worker,
        "role": report.role,
        "ready": report.ready,
        "why": report.why,
        "uptime_seconds": round(report.reported - report.started, 1),
    }
