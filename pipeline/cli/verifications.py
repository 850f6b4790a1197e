"""Verification as JSON in and JSON out: the same code behind ``vectide verify`` and HTTP."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from pipeline.broker.publishing import closed_after
from pipeline.cli.assembly import Followed, Models, Parts
from pipeline.cli.tasks import Task, Tasks
from pipeline.cli.verifying import Examination, Wanted
from pipeline.config import SourceConfig
from pipeline.errors import ConfigError, Refused, Transient, VectideError
from pipeline.generations.control import FOLLOWED, Generation
from pipeline.verification.published import Verified, publish

log = logging.getLogger(__name__)

#: For a publisher to let go of its connections.
_CLOSE_SECONDS: Final = 2.0


class Verifications:
    """One pipeline's verifications.

    Args:
        parts: broker and store, open.
        control: what ``control`` says.
        models: loaded models.
        sources: of this process, by source id.
    """

    def __init__(self, parts: Parts, control: Followed, models: Models, sources: Mapping[str, SourceConfig]) -> None:
        self._parts = parts
        self._control = control
        self._models = models
        self._sources = sources
        self._tasks = Tasks()

    def ask(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """``action``: ``start``, with ``generation`` and what :class:`Wanted` has; or ``task``, with its ``id``.

        Raises:
            ConfigError: an argument is wrong.
            Refused: there is no such generation.
        """
        match arguments.get("action"):
            case "start":
                return self._start(arguments)
            case "task":
                return self._tasks.asked_after(arguments)
        raise ConfigError(f"unknown action {arguments.get('action')!r}", "start or task")

    def close(self) -> None:
        """Give up what still runs."""
        self._tasks.close()

    def _start(self, given: Mapping[str, Any]) -> dict[str, Any]:
        generation, wanted = self._chosen(given.get("generation")), _wanted(given)
        key = json.dumps([generation.id, given], sort_keys=True)
        return self._tasks.begin("verify", lambda task: self._verified(task, generation, wanted), key)

    def _verified(self, task: Task, generation: Generation, wanted: Wanted) -> dict[str, Any]:
        def at(phase: str, done: int, whole: int) -> None:
            if task.stopped():
                raise Transient("the verification was stopped; a full one goes on where it was")
            task.at(phase, done, whole)

        def wait(seconds: float) -> None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                at("looking again", 0, 0)
                time.sleep(min(0.1, seconds))

        report = Examination(self._parts, generation, self._models, self._sources, wanted, at, wait).run()
        told(self._parts, report, "command")
        return report

    def _chosen(self, id: object) -> Generation:
        state = self._control.again()
        found = state.live if id is None else state.generations.get(str(id))
        if found is None and id is None:
            raise Refused("no generation is live yet", "start `vectide up` or the workers once: that founds the first")
        if found is None or found.state not in FOLLOWED:
            names = ", ".join(f"{one.id} ({one.state})" for one in state.followed)
            raise Refused(f"there is no generation {id} that is kept in step", f"there are: {names or 'none'}")
        return found


def told(parts: Parts, report: Mapping[str, Any], by: Any) -> Verified:
    """Say it to ``status``; that it cannot be said is no reason to fail."""
    looked, whole = report["sample"], report["full"]
    findings = {kind: one["count"] for kind, one in report["findings"].items() if one["count"]}
    if looked and looked["wrong"] and not findings:
        # A document that was written between its chunk's look and its own: the sample is all that tells of it.
        findings = {"wrong vector": looked["wrong"]}
    verified = Verified(
        generation=report["generation"],
        at=time.time(),
        seconds=report["seconds"],
        by=by,
        ok=bool((report["again"] or report)["ok"]),
        documents=report["documents"],
        findings=findings,
        vectors=whole["chunks"] if whole else looked["chunks"] if looked else 0,
        repaired=sum((report["repaired"] or {"documents": {}})["documents"].values()),
        covered=report["covered"],
    )
    with closed_after(parts.broker.publisher("verify"), _CLOSE_SECONDS) as publisher:
        try:
            publish(publisher, parts.names, verified)
        except VectideError as error:
            log.debug("outcome not published", extra={"error": str(error)})
    return verified


def _wanted(given: Mapping[str, Any]) -> Wanted:
    wanted = Wanted(
        fix=bool(given.get("fix")),
        full=bool(given.get("full")),
        sample=_number(given, "sample", 0),
        seed=_number(given, "seed", 0),
        sources=bool(given.get("source")),
        strict=bool(given.get("strict")),
        wait_seconds=float(_number(given, "wait", 60)),
    )
    if wanted.full and wanted.sample:
        raise ConfigError("full and sample exclude each other", "a full verification embeds every text again")
    return wanted


def _number(given: Mapping[str, Any], name: str, default: int) -> Any:
    value = given.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ConfigError(f"`{name}` = {value!r} is not a number from 0", f"for example {default}")
    return value
