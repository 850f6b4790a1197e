"""``vectide migrate run``: start, wait, gate, cutover, as one job that can be killed anywhere.

It keeps nothing of its own: every turn looks at ``control`` and does the next thing. Where the
state is embedded and no ``up`` runs, it runs the pipeline itself, without connectors.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from pipeline.cli.access import Ask, reached, running
from pipeline.cli.assembly import opened
from pipeline.cli.gating import refused_by_gate
from pipeline.cli.index import Index
from pipeline.cli.stopping import asked, until_stopped
from pipeline.cli.tasks import raised
from pipeline.config import Config
from pipeline.errors import Backpressure, ConfigError, Refused, Transient
from pipeline.generations.quality import read_qrels, read_queries
from pipeline.observe.logs import printable

_POLL_SECONDS: Final = 1.0
_TASK_SECONDS: Final = 0.3
#: An outage is waited out, the job says so now and then.
_SAY_SECONDS: Final = 30.0
#: Not 0: a Kubernetes Job that was evicted must be started again.
STOPPED: Final = 10


class Job:
    """One migration from start to cutover.

    Args:
        config: of the pipeline.
        proposal: what to migrate to, as ``/migrate`` takes it.
        queries: labelled queries for the gate; None: known-item questions.
        qrels: their labels.
        automatic: cut over when the gate has been passed.
        force: cut over whatever the gate finds, and why.
        quiet: no progress on standard error.

    Raises:
        ConfigError: the labels cannot be read: said now, not after hours of building.
    """

    def __init__(
        self,
        config: Config,
        proposal: Mapping[str, Any],
        queries: Path | None,
        qrels: Path | None,
        *,
        automatic: bool,
        force: str | None,
        quiet: bool,
    ) -> None:
        if (queries is None) != (qrels is None):
            raise ConfigError("queries and qrels belong together", "give both, or neither for known-item questions")
        if queries is not None and qrels is not None:
            read_queries(queries)
            read_qrels(qrels)
        self._config = config
        self._proposal = proposal
        self._labels = {
            "queries": None if queries is None else str(queries.resolve()),
            "qrels": None if qrels is None else str(qrels.resolve()),
        }
        self._automatic = automatic
        self._force = force
        self._quiet = quiet
        self._said = 0.0

    def run(self) -> dict[str, Any]:
        """The generation as it is in the end.

        Raises:
            GateRefused: by the gate.
            Refused: another decision came between: a rollback, an abort, another migration.
            Exit: it was told to stop.
        """
        with until_stopped() as stop, self._reached(stop) as ask:
            begun = self._asked(ask, stop, {"action": "start", **self._proposal})
            id = str(begun["generation"]["id"])
            while True:
                now = self._asked(ask, stop, {"action": "status"})
                done = self._turn(ask, stop, id, now)
                if done is not None:
                    return done
                if stop.wait(_POLL_SECONDS):
                    raise click.exceptions.Exit(STOPPED)

    def _turn(self, ask: Ask, stop: threading.Event, id: str, now: Mapping[str, Any]) -> dict[str, Any] | None:
        """The next thing; the outcome if there is none."""
        found = next((one for one in now["generations"] if one["id"] == id), None)
        if found is None or found["state"] == "previous":
            last = self._history(ask, stop, id)[-1]
            raise Refused(f"generation {id} is {last['state']}: {last['reason']}", "start anew if that is not wanted")
        if found["state"] == "live":
            return {"generation": found}
        self._refuse_rolled_back(ask, stop, id)
        if found["state"] == "ready" and not self._automatic:
            return {"generation": found}
        if found["paused"] or self._far(found):
            self._say(found)
            return None
        self._proved(ask, stop, id, found["transitions"])
        return None

    def _far(self, found: Mapping[str, Any]) -> bool:
        """Under steady writes something is always on its way; the gate itself knows where it began."""
        age = found["oldest_unprocessed_event_age_seconds"]
        return bool(found["lag"]) and age > self._config.migrate.lag_seconds

    def _proved(self, ask: Ask, stop: threading.Event, id: str, seen: int) -> None:
        try:
            report = self._gate(ask, stop, id, seen)
        except (Transient, Backpressure) as error:
            self._say_error(error)
            return
        except Refused:
            if self._moved_on(ask, stop, id, seen):
                return
            raise
        if report["not_yet"]:
            return
        if not report["ok"] and self._force is None:
            raise refused_by_gate(report)
        if not self._automatic:
            return  # the next look finds it ready
        arguments = {"action": "cutover", "generation": id, "examined": report["examined"]}
        if not report["ok"]:
            arguments["force"] = self._force
        try:
            self._asked(ask, stop, arguments)
        except Refused:
            if not self._moved_on(ask, stop, id, report["examined"]):
                raise

    def _moved_on(self, ask: Ask, stop: threading.Event, id: str, seen: int) -> bool:
        """Whether it was rolled back, or cut over by hand or by a job that was killed before its answer came, since so
        many transitions were seen: then the next turn says what of it.
        """
        now = self._asked(ask, stop, {"action": "status"})
        found = next((one for one in now["generations"] if one["id"] == id), None)
        return found is None or bool(found["transitions"] != seen)

    def _gate(self, ask: Ask, stop: threading.Event, id: str, seen: int) -> dict[str, Any]:
        begun = ask("POST", "/migrate", {"action": "gate", "generation": id, "seen": seen, **self._labels})
        while not stop.is_set():
            task = ask("POST", "/migrate", {"action": "task", "id": begun["id"]})
            if not task["running"]:
                return raised(task)
            if not self._quiet and sys.stderr.isatty():
                whole = f" {task['done']} of {task['whole']}" if task["whole"] else ""
                click.echo(f"\rgate: {task['phase']}{whole}          ", nl=False, err=True)
            stop.wait(_TASK_SECONDS)
        raise click.exceptions.Exit(STOPPED)

    def _refuse_rolled_back(self, ask: Ask, stop: threading.Event, id: str) -> None:
        """A job that slept through a rollback, or is started again after it, must not undo it."""
        entries = self._history(ask, stop, id)
        if any(one["state"] == "live" for one in entries):
            raise Refused(
                f"generation {id} was live, and was rolled back: {entries[-1]['reason']}",
                "`vectide migrate cutover` makes it live again, or abort it",
            )

    def _history(self, ask: Ask, stop: threading.Event, id: str) -> list[dict[str, Any]]:
        history = self._asked(ask, stop, {"action": "history"})["history"]
        return [one for one in history if one["generation"] == id]

    def _asked(self, ask: Ask, stop: threading.Event, arguments: Mapping[str, Any]) -> Any:
        """An outage is waited out for as long as it takes."""
        while True:
            try:
                return ask("POST", "/migrate", arguments)
            except (Transient, Backpressure) as error:
                self._say_error(error)
                if stop.wait(_POLL_SECONDS):
                    raise click.exceptions.Exit(STOPPED) from None

    @contextmanager
    def _reached(self, stop: threading.Event) -> Iterator[Ask]:
        config = self._config
        if config.broker != "embedded" or running(config.state) is not None or not (config.state / "log").exists():
            with reached(config) as ask:
                yield ask
            return
        with opened(config, "migrate") as parts:
            try:
                index = Index(parts, {}, stop)
            except Transient:
                if asked():
                    raise click.exceptions.Exit(STOPPED) from None
                raise
            index.start()
            routes = index.operations.routes()
            try:
                yield lambda method, path, arguments: routes[method, path](arguments)
            finally:
                index.close()
                # What a line failed with also stops the job, which would else say only that.
                index.crew.raise_failure()

    def _say(self, found: Mapping[str, Any]) -> None:
        if self._quiet or time.monotonic() < self._said:
            return
        self._said = time.monotonic() + (_POLL_SECONDS if sys.stderr.isatty() else _SAY_SECONDS)
        whole = found["documents_in_live"]
        eta = found.get("eta_seconds")
        left = f", {eta:.0f} s left" if eta is not None else ""
        waits = ", paused" if found["paused"] else ""
        line = f"building: {found['documents']} of {whole} documents, {found['lag']} records behind{left}{waits}"
        click.echo(f"\r{line}      " if sys.stderr.isatty() else line, nl=not sys.stderr.isatty(), err=True)

    def _say_error(self, error: Exception) -> None:
        if time.monotonic() >= self._said:
            self._said = time.monotonic() + _SAY_SECONDS
            click.echo(printable(f"waiting: {error}"), err=True)
