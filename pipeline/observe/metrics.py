"""Every metric, declared once; docs/metrics.md is made from here.

Counters count effects, after they happened. Labels have bounded sets of values; ``partition``
appears on lag and committed offsets only. What is served has the label ``pipeline`` everywhere: two
pipelines with the same model have generations of the same name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from pipeline.records import STAGES

_FRESHNESS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21600, 86400)
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SHARES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_TOKENS: Final = (16, 64, 256, 1024, 2048, 4096, 8192, 16384, 32768)

RESULTS: Final = (
    "ok",
    "complete",
    "incomplete",
    "failed",
    "omitted",
    "deleted",
    "unchanged",
    "stale",
    "exhausted",
    "dead_letter",
)
REASONS: Final = (
    "malformed_record",
    "not_unicode",
    "bad_metadata",
    "record_too_large",
    "record_refused",
    "chunking_failed",
    "embedding_failed",
    "bad_vector",
    "too_long",
    "attempts_exhausted",
)
#: Why a connector leaves a document out; what a connector of somebody else calls otherwise is `other`.
SKIPPED: Final = ("special", "binary", "no_reader", "archived", "unreadable", "other")
#: Errors that are waited out, by whatever waits; a source that does not answer is `SourceUnavailable` besides.
PASSING: Final = ("Transient", "BrokerUnavailable", "StoreUnavailable", "StoreBusy", "NewerSchema")
TRAFFIC: Final = ("live", "backfill")
#: What work waits for; ``state`` is the disk under what a connector keeps.
DEPENDENCIES: Final = ("broker", "store", "model", "source", "state")
#: What a process can be not ready for: dependencies; a record of a newer schema; a generation that it cannot
#: follow yet; a search that answers from another generation than the live one; its own start and its end.
READINESS: Final = (*DEPENDENCIES, "schema", "generation", "search", "start", "process")
#: Of the stages' and generations' states; see pipeline.points and pipeline.generations.control.
HEADS: Final = ("complete", "incomplete", "failed", "omitted", "deleted")
GENERATIONS: Final = ("building", "ready", "live", "previous", "aborted", "failed")


# When each series was made: a quarter of all lines, and nobody's question.
disable_created_metrics()  # type: ignore[no-untyped-call]


def bounded(value: str, known: tuple[str, ...]) -> str:
    """A label's value: one of a known set, whoever chose it."""
    return value if value in known else "other"


def printable_label(value: str) -> str:
    """A label's value that can be served: a source named after a folder may have bytes that are not UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode()


class Metrics:
    """One process's metrics, in a registry of their own.

    Args:
        pipeline: what the name of everything in Kafka and in the store starts with; empty: no label says it.
    """

    def __init__(self, pipeline: str = "") -> None:
        self.registry = CollectorRegistry()
        self._served = _Labelled(self.registry, {"pipeline": pipeline} if pipeline else {})
        self._declared: list[MetricWrapperBase] = []

        self.records_consumed = self._counter("records_consumed", "Records read from the stage's topic.", "stage")
        self.records_processed = self._counter(
            "records_processed", "Records whose effect is done, by what it was.", "stage", "outcome"
        )
        self.documents_published = self._counter(
            "documents_published", "Document events that connectors published.", "kind"
        )
        self.source_skipped = self._counter("source_skipped", "Documents that a connector left out, by why.", "reason")
        self.metadata_left_out = self._counter(
            "metadata_left_out", "Values of metadata that did not fit the type that the configuration gives them."
        )
        self.dead_letters = self._counter("dead_letters", "Records that failed for good.", "reason")
        self.errors = self._counter(
            "errors", "Operations that failed and were tried again, each once.", "error_type", "dependency"
        )
        self.retries = self._counter("retries", "Attempts that were made again.", "dependency")
        self.chunks_embedded = self._counter("chunks_embedded", "Chunks embedded by the model.", "traffic")
        self.chunks_reused = self._counter(
            "chunks_reused", "Chunks whose vector was there already: in the document's own head, or by content.", "from"
        )
        self.tokens_embedded = self._counter("tokens_embedded", "Tokens given to the model.", "traffic")
        self.points_upserted = self._counter("points_upserted", "Points written to the store, heads included.")
        self.points_deleted = self._counter("points_deleted", "Chunks that left a document's list.")
        self.rebalances = self._counter("rebalances", "Changes of the consumer's assignment.")
        self.commits = self._counter("commits", "Offset commits.", "outcome")
        self.searches = self._counter("searches", "Searches answered.", "complete")
        self.search_errors = self._counter("search_errors", "Searches that had no answer.", "error_type")

        place = ("topic", "partition", "group", "stage", "generation")
        self.consumer_lag_records = self._gauge(
            "consumer_lag_records",
            "Records between the committed offset and the log's end; every member says it of the whole group: take the "
            "maximum, not the sum.",
            *place,
        )
        self.consumer_committed_offset = self._gauge(
            "consumer_committed_offset", "The group's committed offset: how fast it grows is how fast it works.", *place
        )
        self.oldest_unprocessed_event_age_seconds = self._gauge(
            "oldest_unprocessed_event_age_seconds",
            "How long the oldest record in flight has been in the log.",
            "stage",
            "generation",
        )
        self.last_commit_timestamp_seconds = self._gauge(
            "last_commit_timestamp_seconds", "When offsets were last committed.", "stage", "generation"
        )
        self.inflight_records = self._gauge("inflight_records", "Records taken and not done.", "stage", "generation")
        self.assigned_partitions = self._gauge(
            "assigned_partitions", "Partitions that this member holds.", "stage", "generation"
        )
        self.paused_partitions = self._gauge(
            "paused_partitions", "Partitions paused for backpressure.", "stage", "generation"
        )
        self.poll_budget_used_ratio = self._gauge(
            "poll_budget_used_ratio",
            "The longest time between two polls in the last minute or two, as a part of what costs the worker its "
            "partitions or its liveness.",
            "stage",
            "generation",
        )
        self.ready = self._gauge("ready", "1 if the process is ready (/readyz).")
        self.dependency_ready = self._gauge(
            "dependency_ready", "0 while the process waits for it and is not ready.", "dependency"
        )

        self.generation_info = self._gauge(
            "generation_info", "1 for each generation followed, with its state.", "generation", "model", "state"
        )
        self.migration_state = self._gauge(
            "migration_state", "1 for the state that a generation is in, 0 for the others.", "generation", "state"
        )
        self.generation_state_timestamp_seconds = self._gauge(
            "generation_state_timestamp_seconds", "Since when a generation is in its state.", "generation", "state"
        )
        self.migration_throttle_ratio = self._gauge(
            "migration_throttle_ratio",
            "Share of the time that building may take; 0 while it is paused. Only while a migration is under way.",
            "generation",
        )
        self.migration_documents = self._gauge(
            "migration_documents",
            "Documents of the generation that a migration builds, by the state of their heads; counted by one embed "
            "worker.",
            "generation",
            "state",
        )
        self.migration_expected_documents = self._gauge(
            "migration_expected_documents",
            "Documents of the live generation, deleted ones left out, at the same moment.",
            "generation",
        )
        self.configuration_mismatch = self._gauge(
            "configuration_mismatch",
            "1 if the process's configuration proposes a model or chunking that is neither live nor being built.",
        )

        self.source_documents = self._gauge(
            "source_documents", "Documents that the last complete scan listed.", "source"
        )
        self.source_last_scan_timestamp_seconds = self._gauge(
            "source_last_scan_timestamp_seconds",
            "When the last complete scan began whose findings are all published; 0: none that this process knows of.",
            "source",
        )
        self.source_scan_duration_seconds = self._gauge(
            "source_scan_duration_seconds", "How long that scan took.", "source"
        )
        self.source_rescan_seconds = self._gauge(
            "source_rescan_seconds", "The configured time between two scans.", "source"
        )

        self.verify_findings = self._gauge(
            "verify_findings",
            "Documents that the last complete verification in the background found wrong, before any repair.",
            "generation",
            "kind",
        )
        self.verify_last_complete_timestamp_seconds = self._gauge(
            "verify_last_complete_timestamp_seconds",
            "When a verification in the background was last complete; 0: not within a week.",
            "generation",
        )
        self.verify_interval_seconds = self._gauge(
            "verify_interval_seconds", "The configured time between two verifications; 0: none here."
        )
        self.verify_coverage_ratio = self._gauge(
            "verify_coverage_ratio",
            "Part of the log's documents that it could prove; the others are incomplete, failed or omitted.",
            "generation",
        )
        self.source_backlog = self._gauge(
            "source_backlog",
            "What the log of a source keeps for its connector: bytes of a replication slot, records of topics.",
            "source",
            "unit",
        )
        self.push_requests = self._counter(
            "push_requests",
            "Requests of senders to a pushed source, by the HTTP status of the answer.",
            "source",
            "status",
        )
        self.push_waiting = self._gauge(
            "push_waiting", "Requests of senders that wait for the next transaction.", "source"
        )
        self.build_info = self._gauge("build_info", "1; the version is a label.", "version")

        self.end_to_end_latency_seconds = self._histogram(
            "end_to_end_latency_seconds", "From the source's event to searchable or gone.", _FRESHNESS, "traffic"
        )
        self.stage_duration_seconds = self._histogram(
            "stage_duration_seconds", "One micro-batch through a stage.", _SECONDS, "stage"
        )
        self.batch_size_records = self._histogram("batch_size_records", "Records of one micro-batch.", _SIZES, "stage")
        self.tokens_per_batch = self._histogram("tokens_per_batch", "Padded tokens of one forward pass.", _TOKENS)
        self.dependency_request_duration_seconds = self._histogram(
            "dependency_request_duration_seconds",
            "One attempt of an operation on a dependency.",
            _SECONDS,
            "dependency",
        )
        self.commit_duration_seconds = self._histogram("commit_duration_seconds", "One offset commit.", _SECONDS)
        self.push_commit_duration_seconds = self._histogram(
            "push_commit_duration_seconds", "One transaction of a pushed source, outages included.", _SECONDS
        )
        self.search_duration_seconds = self._histogram("search_duration_seconds", "One search.", _SECONDS)
        self.shadow_search_duration_seconds = self._histogram(
            "shadow_search_duration_seconds", "One search of the generation being built, behind a live one.", _SECONDS
        )
        self.shadow_overlap = self._histogram(
            "shadow_overlap", "Part of the documents that both answers have.", _SHARES
        )
        self._initialise()

    def exposition(self) -> bytes:
        """Everything, in Prometheus's text format, and what the process takes of the machine."""
        return generate_latest(self._served)

    def forget(self, stage: str, generation: str) -> None:
        """A worker has ended: what it was last must not stand for ever."""
        for gauge in (
            self.poll_budget_used_ratio,
            self.oldest_unprocessed_event_age_seconds,
            self.last_commit_timestamp_seconds,
            self.inflight_records,
            self.assigned_partitions,
            self.paused_partitions,
        ):
            with contextlib.suppress(KeyError):
                gauge.remove(stage, generation)

    def totals(self) -> Mapping[str, float]:
        """Counters summed over their labels, by name without prefix, for ``status``."""
        totals: dict[str, float] = {}
        for metric in self.registry.collect():
            if metric.type == "counter" and metric.name.startswith("vectide_"):
                name = metric.name.removeprefix("vectide_")
                totals[name] = sum(s.value for s in metric.samples if s.name.endswith("_total"))
        # Of these a person can do something about it.
        totals["source_skipped.no_reader"] = (
            self.registry.get_sample_value("vectide_source_skipped_total", {"reason": "no_reader"}) or 0.0
        )
        return totals

    def declared(self) -> list[tuple[str, str, tuple[str, ...], str]]:
        """Name, type, labels and meaning of every metric, in the order of declaration."""
        found = []
        for metric in self._declared:
            described = next(iter(metric.describe()))
            name = described.name + ("_total" if described.type == "counter" else "")
            found.append((name, described.type, tuple(metric._labelnames), described.documentation))  # noqa: SLF001
        return found

    def _initialise(self) -> None:
        # A series that appears only with its first error cannot be alerted on: all start at 0.
        for stage in STAGES:
            for outcome in RESULTS:
                self.records_processed.labels(stage, outcome)
            for one in (
                self.records_consumed,
                self.stage_duration_seconds,
                self.batch_size_records,
            ):
                one.labels(stage)
        for reason in REASONS:
            self.dead_letters.labels(reason)
        for traffic in TRAFFIC:
            self.chunks_embedded.labels(traffic)
            self.tokens_embedded.labels(traffic)
            self.end_to_end_latency_seconds.labels(traffic)
        for source in ("head", "content_hash"):
            self.chunks_reused.labels(source)
        for outcome in ("ok", "failed", "lost"):
            self.commits.labels(outcome)
        for dependency in READINESS:
            self.dependency_ready.labels(dependency).set(1)
        for dependency in DEPENDENCIES:
            self.retries.labels(dependency)
            for error in PASSING:
                self.errors.labels(error, dependency)
            if dependency == "source":
                self.errors.labels("SourceUnavailable", dependency)
            self.dependency_request_duration_seconds.labels(dependency)
        for kind in ("changed", "deleted"):
            self.documents_published.labels(kind)
        for reason in SKIPPED:
            self.source_skipped.labels(reason)
        for error in (*PASSING, "other"):
            self.search_errors.labels(error)
        for complete in ("true", "false"):
            self.searches.labels(complete)
        ProcessCollector(registry=self.registry)
        try:
            self.build_info.labels(version("vectide")).set(1)
        except PackageNotFoundError:
            self.build_info.labels("unknown").set(1)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        metric = Counter(f"vectide_{name}", text, labels, registry=self.registry)
        self._declared.append(metric)
        return metric

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        metric = Gauge(f"vectide_{name}", text, labels, registry=self.registry)
        self._declared.append(metric)
        return metric

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        metric = Histogram(f"vectide_{name}", text, labels, buckets=buckets, registry=self.registry)
        self._declared.append(metric)
        return metric


class _Labelled:
    """A registry's metrics with further labels on every sample."""

    def __init__(self, registry: CollectorRegistry, labels: Mapping[str, str]) -> None:
        self._registry = registry
        self._labels = dict(labels)

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [one._replace(labels={**self._labels, **one.labels}) for one in metric.samples]
            yield metric
