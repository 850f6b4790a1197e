"""One soak from its start to its figures: storms, quiet points and calm, one after the other."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.soak.canary import Canary
from tests.soak.cluster import Cluster
from tests.soak.faults import Storm, storms
from tests.soak.migrating import Migration
from tests.soak.report import Figures, report
from tests.soak.searcher import Searcher
from tests.soak.storm import Faults
from tests.soak.truth import Truth, Writer
from tests.soak.verdict import quiet
from tests.soak.weather import Events, Weather


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
    migrations: bool = True
    quiet_seconds: float = 180.0
    """From the end of a storm until nothing lags or differs."""
    sure_seconds: float | None = None
    """What differs for so long although nothing lags is a violation at once: for a mutant, which differs for ever."""
    rest_seconds: float = 0.1
    """Between two questions, so that the pipeline has the machine too."""

    def schedule(self) -> list[Storm]:
        """The storms: more of them than there is time for, since each is followed by a quiet point."""
        count = max(1, int(self.minutes * 60 / (self.storm_seconds + self.calm_seconds)))
        return storms(self.seed, count, self.storm_seconds, self.fault_every_seconds, self.brokers)

    def rng(self, of: str) -> random.Random:
        """Dice of its own for each, so that none disturbs another."""
        return random.Random(f"{of} {self.seed}")


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
    events.note("settings", **vars(settings))
    cluster = Cluster(folder, settings.brokers, events, weather, settings.mutant, settings.seed)
    canary = Canary(weather)
    try:
        return _Soak(settings, cluster, weather, truth).run()
    finally:
        canary.close()
        cluster.close()
        events.close()


class _Soak:
    """What goes on in a run."""

    def __init__(self, settings: Settings, cluster: Cluster, weather: Weather, truth: Truth) -> None:
        self._settings = settings
        self._cluster = cluster
        self._events = cluster.events
        self._weather = weather
        self._truth = truth
        self._writer = Writer(cluster.deployment.documents, truth, settings.rng("writer"), settings.documents)
        self._writing = _Writing(self._writer, settings.per_second, settings.rng("pace"), cluster.events)
        self._searcher = Searcher(cluster, truth, weather, settings.rng("searcher"), settings.rest_seconds)
        self._faults = Faults(cluster)
        self._migrations = Counter[str]()
        self._drains: list[float] = []
        self._storms = 0
        self._started = 0.0

    def run(self) -> dict[str, Any]:
        """All of it; the report."""
        self._writer.fill()
        self._weather.storm()
        self._cluster.start()
        self._quiet()
        self._weather.calm()
        self._started = time.monotonic()
        with self._asked_and_written():
            for storm in () if self._seen_enough else self._settings.schedule():
                time.sleep(self._settings.calm_seconds)
                self._storm(storm)
                if self._seen_enough or time.monotonic() - self._started > 60 * self._settings.minutes:
                    break
            if not self._seen_enough:
                time.sleep(self._settings.calm_seconds)
                self._writing.pause()
                self._quiet()
        return self._reported()

    @contextmanager
    def _asked_and_written(self) -> Iterator[None]:
        self._searcher.start()
        self._writing.start()
        try:
            yield
        finally:
            self._writing.stop()
            self._searcher.stop()

    @property
    def _seen_enough(self) -> bool:
        """There is nothing more to be learnt of a mutant that was found out."""
        return self._settings.mutant is not None and self._events.violations.total() > 0

    def _storm(self, storm: Storm) -> None:
        """Faults, until they are healed and everything is as it must be."""
        self._weather.storm()
        self._events.note("storm", number=self._storms)
        migration = None
        if self._settings.migrations and storm.proposal is not None:
            pauses = self._settings.rng(f"migration {self._storms}")
            migration = Migration(self._cluster, storm.proposal, self._weather, pauses, self._migrations)
            migration.start()
        self._faults.run(storm)
        if migration is not None:
            migration.join()
        self._writing.pause()
        self._quiet()
        if migration is not None:
            migration.retire()
            self._quiet()
        self._weather.calm()
        self._writing.go_on()
        self._say()
        self._storms += 1

    def _quiet(self) -> None:
        self._drains.append(
            quiet(self._cluster, self._truth, self._weather, self._settings.quiet_seconds, self._settings.sure_seconds)
        )
        self._weather.settled(time.monotonic())
        self._events.note("quiet", seconds=round(self._drains[-1], 1))

    def _say(self) -> None:
        print(
            f"{(time.monotonic() - self._started) / 60:6.1f} min  storm {self._storms}  "
            f"{self._truth.operations.total()} operations  {self._faults.counts.total()} faults  "
            f"{self._events.violations.total()} violations  quiet after {self._drains[-1]:.0f} s",
            flush=True,
        )

    def _reported(self) -> dict[str, Any]:
        minutes = (time.monotonic() - self._started) / 60
        proxied = self._cluster.refusals()
        for name, code in self._cluster.stopped().items():
            if code != 0:
                self._events.violation("exit code", f"{name} ended with {code} when it was asked to stop")
        settings = {name: value for name, value in vars(self._settings).items() if name != "minutes"}
        return report(
            Figures(
                minutes=minutes,
                settings=settings,
                cluster=self._cluster,
                truth=self._truth,
                searcher=self._searcher,
                faults=self._faults.counts,
                idle=self._faults.idle,
                proxied=proxied,
                migrations=self._migrations,
                drains=self._drains,
                storms=self._storms,
                starved=self._weather.starved_since(self._started),
            )
        )
