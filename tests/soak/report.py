"""What a run comes to, as one value for JSON and for people."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.soak.cluster import Cluster
from tests.soak.memory import flatness
from tests.soak.searcher import Searcher
from tests.soak.truth import Truth
from tests.soak.weather import CALM_TARGET, STORM_TARGET

DISK_SKIPPED = "skipped: no file system can be mounted here (it needs root)"


@dataclass(frozen=True)
class Figures:
    """Whatever was counted."""

    minutes: float
    settings: Mapping[str, Any]
    cluster: Cluster
    truth: Truth
    searcher: Searcher
    faults: Mapping[str, int]
    idle: Mapping[str, int]
    proxied: Mapping[str, int]
    migrations: Mapping[str, int]
    drains: Sequence[float]
    storms: int
    starved: float


def report(figures: Figures) -> dict[str, Any]:
    """All of it. Memory that grew is a violation, and found here."""
    cluster, events = figures.cluster, figures.cluster.events
    memory = {name: flatness(worker) for name, worker in cluster.workers.items()}
    for name, found in memory.items():
        if found["grew"]:
            events.violation("memory", f"{name} grew: {found}")
    return {
        **figures.settings,
        "minutes": round(figures.minutes, 1),
        "operations": dict(figures.truth.operations),
        "documents now": len(figures.truth.documents),
        "faults": dict(figures.faults),
        "faults that did nothing": dict(figures.idle),
        "requests that the proxy spoilt": dict(figures.proxied),
        "disk faults": "on" if cluster.small_disk else DISK_SKIPPED,
        "migrations": dict(figures.migrations),
        "storms": figures.storms,
        "quiet points": len(figures.drains),
        "seconds to quiet": {
            "median": round(statistics.median(figures.drains), 1),
            "worst": round(max(figures.drains), 1),
        },
        "searches": dict(figures.searcher.counts),
        "freshness seconds": {
            weather: {**_quantiles(values), "given up": dict(figures.searcher.untimed[weather])}
            for weather, values in figures.searcher.freshness.items()
        },
        "changes not timed, as others were": figures.searcher.passed_over,
        "freshness targets": {"calm": CALM_TARGET, "storm": STORM_TARGET},
        "seconds without a machine": round(figures.starved),
        "memory MiB": memory,
        "restarts that nobody asked for": dict(cluster.restarts),
        "starts": {name: worker.starts for name, worker in cluster.workers.items()},
        "poison planted": len(figures.truth.planted),
        "violations": dict(events.violations),
        "examples": events.examples,
    }


def not_tried(found: Mapping[str, Any]) -> list[str]:
    """What was planned and did not happen, a line each: it stands beside the last one."""
    lines = [f"disk faults were {DISK_SKIPPED}"] if found["disk faults"] == DISK_SKIPPED else []
    idle = [f"{name} {count}" for name, count in sorted(found["faults that did nothing"].items())]
    return [*lines, f"faults that did nothing, and are not counted: {', '.join(idle)}"] if idle else lines


def last_line(found: Mapping[str, Any]) -> str:
    """The one line."""
    counts = (sum(found[name].values()) for name in ("operations", "faults", "violations"))
    return "{} operations, {} faults, {} violations".format(*counts)


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return {"count": len(values)}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {
        "count": len(values),
        "p50": round(cuts[49], 2),
        "p95": round(cuts[94], 2),
        "p99": round(cuts[98], 2),
        "worst": round(max(values), 2),
    }
