"""One soak from its start to its figures: storms, quiet points and calm, one after the other."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.soak.canary import Canary
from tests.soak.cluster import Cluster
from tests.soak.faults import Storm, storms
from tests.soak.memory import flatness
from tests.soak.migrating import Migration
from tests.soak.searcher import Searcher
from tests.soak.storm import Faults
from tests.soak.truth import Truth, Writer
from tests.soak.verdict import quiet
from tests.soak.weather import CALM_TARGET, STORM_TARGET, Events, Weather


@dataclass(frozen=True)
class Settings:
    """What a run is."""

    minutes: float
    seed: int
    brokers: int = 1
    documents: int = 120
    per_second: float = 3.0
    mutant: str | None = None
    storm_seconds: float = 75.0
    calm_seconds: float = 25.0
    fault_every_seconds: float = 6.0
    quiet_seconds: float = 180.0
    """From the end of a storm until nothing lags or differs."""


class _Writing:
    """The writer in a thread, which can be paused."""

    def __init__(self, writer: Writer, per_second: float, rng: random.Random, events: Events) -> None:
        self._writer = writer
        self._per_second = per_second
        self._rng = rng
        self._events = events
        self._stop = threading.Event()
        self._going = threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        self._going.set()
        self._thread.start()

    def pause(self) -> None:
        """On return nothing is being written."""
        self._going.clear()
        with self._turn:
            pass

    def go_on(self) -> None:
        self._going.set()

    def stop(self) -> None:
        self._stop.set()
        self._going.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(self._rng.expovariate(self._per_second)):
            self._going.wait()
            with self._turn:
                if self._going.is_set() and not self._stop.is_set():
                    try:
                        self._writer.change()
                    except Exception as error:
                        self._events.violation("harness", f"writer: {type(error).__name__}: {error}")


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Everything, in a folder of its own; the report."""
    events, weather, truth = Events(folder / "events.jsonl"), Weather(), Truth()
    cycle = settings.storm_seconds + settings.calm_seconds + 15.0
    schedule = storms(
        settings.seed,
        max(1, int(settings.minutes * 60 / cycle) + 1),
        settings.storm_seconds,
        settings.fault_every_seconds,
        settings.brokers,
    )
    events.note("settings", **vars(settings))
    cluster = Cluster(folder, settings.brokers, events, weather, settings.mutant, settings.seed)
    canary = Canary(weather)
    try:
        return _run(settings, cluster, schedule, events, weather, truth)
    finally:
        canary.close()
        cluster.close()
        events.close()


def _run(
    settings: Settings, cluster: Cluster, schedule: list[Storm], events: Events, weather: Weather, truth: Truth
) -> dict[str, Any]:
    rng = random.Random(f"writer {settings.seed}")
    writer = Writer(cluster.deployment.documents, truth, rng, settings.documents)
    writer.fill()
    weather.storm()
    cluster.start()
    drains = [quiet(cluster, truth, weather, settings.quiet_seconds)]
    weather.settled(time.monotonic())
    weather.calm()
    searcher = Searcher(cluster, truth, weather, random.Random(f"searcher {settings.seed}"))
    writing = _Writing(writer, settings.per_second, random.Random(f"pace {settings.seed}"), events)
    faults, counts = Faults(cluster), Counter[str]()
    stop = threading.Event()
    searcher.start()
    writing.start()
    started = time.monotonic()
    done = 0
    for number, storm in enumerate(schedule):
        stop.wait(settings.calm_seconds)
        weather.storm()
        events.note("storm", number=number)
        migration = None
        if storm.proposal is not None:
            pauses = random.Random(f"migration {settings.seed} {number}")
            migration = Migration(cluster, storm.proposal, weather, pauses, counts)
            migration.start()
        faults.run(storm, stop)
        if migration is not None:
            migration.join()
        writing.pause()
        drains.append(quiet(cluster, truth, weather, settings.quiet_seconds))
        weather.settled(time.monotonic())
        if migration is not None:
            migration.retire()
            drains.append(quiet(cluster, truth, weather, settings.quiet_seconds))
        events.note("quiet", number=number, seconds=round(drains[-1], 1))
        done += 1
        weather.calm()
        writing.go_on()
        minutes = (time.monotonic() - started) / 60
        print(
            f"{minutes:6.1f} min  storm {number}  {sum(truth.operations.values())} operations  "
            f"{sum(faults.counts.values())} faults  {sum(events.violations.values())} violations  "
            f"quiet after {drains[-1]:.0f} s",
            flush=True,
        )
        if minutes >= settings.minutes:
            break
    stop.wait(settings.calm_seconds)
    writing.pause()
    drains.append(quiet(cluster, truth, weather, settings.quiet_seconds))
    writing.stop()
    searcher.stop()
    took = (time.monotonic() - started) / 60
    proxied = cluster.refusals()
    codes = cluster.stopped()
    for name, code in codes.items():
        if code != 0:
            events.violation("exit code", f"{name} ended with {code} when it was asked to stop")
    memory = {name: flatness(worker) for name, worker in cluster.workers.items()}
    for name, found in memory.items():
        if found["grew"]:
            events.violation("memory", f"{name} grew: {found}")
    return {
        "seed": settings.seed,
        "minutes": round(took, 1),
        "brokers": settings.brokers,
        "mutant": settings.mutant,
        "operations": dict(truth.operations),
        "documents": len(truth.documents),
        "faults": dict(faults.counts),
        "requests refused, slowed or cut by the proxy": proxied,
        "disk faults": "on" if cluster.small_disk else "skipped: no file system can be mounted here (it needs root)",
        "migrations": dict(counts),
        "storms": done,
        "quiet points": len(drains),
        "seconds to quiet": {"median": round(statistics.median(drains), 1), "worst": round(max(drains), 1)},
        "searches": dict(searcher.counts),
        "freshness seconds": {weather_: _quantiles(values) for weather_, values in searcher.freshness.items()},
        "seconds without a machine": round(weather.starved_since(started)),
        "freshness targets": {"calm": CALM_TARGET, "storm": STORM_TARGET},
        "memory MiB": memory,
        "restarts that nobody asked for": dict(cluster.restarts),
        "starts": {name: worker.starts for name, worker in cluster.workers.items()},
        "dead letters planted": len(truth.planted),
        "violations": dict(events.violations),
        "examples": events.examples,
    }


def _quantiles(values: list[float]) -> dict[str, float]:
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


def last_line(report: dict[str, Any]) -> str:
    """What a run comes to."""
    operations, faults = sum(report["operations"].values()), sum(report["faults"].values())
    return f"{operations} operations, {faults} faults, {sum(report['violations'].values())} violations"
