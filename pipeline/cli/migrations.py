"""Migrations as JSON in and JSON out: the same code behind ``vectide migrate`` and HTTP.

Everything that takes longer than a look runs in a thread of its own and is asked after: the gate,
and the plan. So a command that is killed leaves nothing but a report that nobody reads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from pipeline.cli import clearing
from pipeline.cli.assembly import Followed, Models, Parts
from pipeline.cli.gating import Gating
from pipeline.cli.migration_status import described, migration_status
from pipeline.cli.planning import plan
from pipeline.cli.tasks import Tasks
from pipeline.config import ChunkingConfig, Config, ModelConfig
from pipeline.deadline import Deadline
from pipeline.embedding.generation import generation_spec
from pipeline.errors import (
    ConfigError,
    Fatal,
    LogDiverged,
    Refused,
    Transient,
    VectideError,
)
from pipeline.generations import gate, operator, transitions
from pipeline.generations.control import ControlState, Generation
from pipeline.specs import GenerationSpec

log = logging.getLogger(__name__)

#: Workers look at control four times a second and drain for as long as they are configured to.
_LEAVE_SECONDS: Final = 60.0
#: A command that asks over HTTP waits for a minute.
_SWITCH_SECONDS: Final = 40.0


class Migrations:
    """One pipeline's migrations.

    Args:
        parts: broker and store, open.
        control: what ``control`` says.
        models: loaded models; the gate asks questions with two of them.
    """

    def __init__(self, parts: Parts, control: Followed, models: Models) -> None:
        self._parts = parts
        self._control = control
        self._models = models
        self._gating = Gating(parts, control, models)
        self._tasks = Tasks()

    def ask(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """``action`` and what belongs to it; see the methods.

        Raises:
            ConfigError: an argument is wrong.
            Refused: it must not be done as things are.
        """
        actions: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "plan": self._plan,
            "start": self._start,
            "status": self._status,
            "pause": lambda given: self._change(
                given, lambda state, id, now: transitions.pause(state, id, now, paused=True)
            ),
            "resume": lambda given: self._change(
                given, lambda state, id, now: transitions.pause(state, id, now, paused=False)
            ),
            "throttle": lambda given: self._change(
                given, lambda state, id, now: transitions.throttle(state, id, now, _share(given))
            ),
            "abort": self._abort,
            "gate": self._gate,
            "task": self._tasks.asked_after,
            "cutover": self._cutover,
            "rollback": self._rollback,
            "retire": self._retire,
            "history": self._history,
        }
        action = arguments.get("action")
        if not isinstance(action, str) or action not in actions:
            raise ConfigError(f"unknown action {action!r}", f"one of {', '.join(actions)}")
        return actions[action](arguments)

    def close(self) -> None:
        """Give up what still runs."""
        self._tasks.close()

    # ----------------------------------------------------------------- beginning

    def _plan(self, given: Mapping[str, Any]) -> dict[str, Any]:
        spec, config = self._proposed(given)
        live = self._live()
        price = given.get("price")
        return self._tasks.begin(
            "plan",
            lambda task: plan(self._parts, config, live.spec, spec, self._models, price, task.stopped, task.at),
        )

    def _start(self, given: Mapping[str, Any]) -> dict[str, Any]:
        spec, _ = self._proposed(given)
        again = bool(given.get("again", True))
        state = self._operate(lambda now: transitions.start(now, spec, time.time(), again=again))
        same = [one for one in state.generations.values() if one.spec.fingerprint == spec.fingerprint]
        newest = max(same, key=lambda one: one.spec.life)
        return {"generation": described(newest)}

    def _proposed(self, given: Mapping[str, Any]) -> tuple[GenerationSpec, Config]:
        """The generation that is asked for: the configuration's, with what is given instead."""
        config = self._parts.config
        try:
            if given.get("model") is not None:
                name = str(given["model"])
                of_old = {"device": config.model.device, "threads": config.model.threads}
                provider = given.get("provider") or _provider(name)
                config = config.model_copy(
                    update={"model": ModelConfig.model_validate({"name": name, "provider": provider, **of_old})}
                )
            for section, kind in (("model", ModelConfig), ("chunking", ChunkingConfig)):
                wanted = given.get(f"{section}_settings") or {}
                if not isinstance(wanted, dict):
                    raise ConfigError(f"`{section}_settings` is not an object", "see docs/config.md")
                if wanted:
                    before = getattr(config, section).model_dump()
                    config = config.model_copy(update={section: kind.model_validate({**before, **wanted})})
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", "see docs/config.md") from None
        return generation_spec(config), config

    # ------------------------------------------------------------------- looking

    def _status(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {**migration_status(self._parts, self._control.again()), "task": self._tasks.polled()}

    def _history(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "history": [
                {
                    "generation": one.generation,
                    "state": one.state,
                    "at": one.at,
                    "reason": one.reason,
                    "details": dict(one.details),
                }
                for one in self._control.again().history
            ]
        }

    # ------------------------------------------------------------------ switching

    def _gate(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Start examining the target; ``task`` tells how far it is and what was found. ``seen``: its
        ``transitions`` when the asker looked at it.
        """
        target, live = self._target(given), self._live()
        if given.get("seen", target.transitions) != target.transitions:
            raise Transient(f"generation {target.id} was changed since it was looked at; look again")
        asked = dict(given)
        key = f"gate {target.id} {target.transitions} {asked.get('queries')} {asked.get('qrels')}"
        return self._tasks.begin("gate", lambda task: self._gating.examined(target, live, asked, task), key)

    def _cutover(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """``examined``: as the gate said; or ``force``: why without it."""
        target = self._target(given, also_live=True)
        force = given.get("force")
        if target.state != "live":
            self._refuse_lagging(target, force)
        state = self._operate(
            lambda now: transitions.cut_over(now, target.id, given.get("examined"), time.time(), force)
        )
        self._point_alias(state)
        return {"generation": described(state.generations[target.id])}

    def _rollback(self, given: Mapping[str, Any]) -> dict[str, Any]:
        seen = self._control.again().previous
        if seen is not None:
            self._refuse_lagging(seen, given.get("force"))
        reason = str(given.get("reason") or given.get("force") or "")
        state = self._operate(
            lambda now: transitions.roll_back(
                now, time.time(), reason, seen=None if seen is None else seen.id, again=bool(given.get("again"))
            )
        )
        self._point_alias(state)
        assert state.live is not None  # just made so
        return {"generation": described(state.live)}

    def _refuse_lagging(self, generation: Generation, force: str | None) -> None:
        """By the log's own ends and no clock: what it has now must be applied, which under steady
        writes takes some seconds, and longer if a delete waits for its sweep.
        """
        if force:
            return
        parts, config = self._parts, self._parts.config
        topic, seconds = parts.names.documents(config.pipeline.epoch), min(config.migrate.lag_seconds, _SWITCH_SECONDS)
        try:
            ends = {partition: one.end for partition, one in parts.broker.offsets(topic).items()}
            behind = gate.caught_up(parts.broker, parts.names, generation.id, topic, ends, seconds)
        except LogDiverged:
            raise
        except Fatal as error:
            raise Refused(f"nothing of generation {generation.id} is there: {error}", "build it first") from None
        if behind:
            raise Refused(
                f"generation {generation.id} is {behind} records behind the log, after {seconds:.0f} s",
                "wait until it has caught up, or --force REASON",
            )

    def _point_alias(self, state: ControlState) -> None:
        """For those who read the store directly; control is what counts, and workers repair it."""
        assert state.live is not None  # after a switch
        try:
            self._parts.store.point_alias(self._parts.names.alias, self._parts.names.collection(state.live.id))
        except VectideError as error:
            log.warning("alias not moved", extra={"alias": self._parts.names.alias, "error": str(error)})

    # --------------------------------------------------------------------- ending

    def _abort(self, given: Mapping[str, Any]) -> dict[str, Any]:
        target = self._target(given, also=("aborted",))
        reason = str(given.get("reason") or "")
        self._operate(lambda now: transitions.abort(now, target.id, time.time(), reason))
        return {"generation": target.id, **self._cleared(target.id)}

    def _retire(self, given: Mapping[str, Any]) -> dict[str, Any]:
        state = self._control.again()
        over = [one for one in state.generations.values() if one.state in ("aborted", "failed")]
        default = state.previous or max(over, key=lambda one: one.since, default=None)
        id = given.get("generation") or (None if default is None else default.id)
        if id is None:
            raise Refused("there is no previous generation to retire", "`vectide migrate history` shows what there was")
        self._operate(lambda now: transitions.retire(now, str(id), time.time()))
        return {"generation": id, **self._cleared(str(id))}

    def _cleared(self, id: str) -> dict[str, Any]:
        """Remove what a generation has in Kafka and in the store, once its workers have left."""
        points, size = clearing.stored(self._parts, id)
        clearing.clear(self._parts, id, Deadline.after(_LEAVE_SECONDS))
        return {"points": points, "bytes": size}

    # -------------------------------------------------------------------- private

    def _change(self, given: Mapping[str, Any], decide: Callable[[ControlState, str, float], Any]) -> dict[str, Any]:
        target = self._target(given)
        state = self._operate(lambda now: decide(now, target.id, time.time()))
        return {"generation": described(state.generations[target.id])}

    def _operate(self, decide: operator.Decision) -> ControlState:
        return operator.operate(self._parts.broker, self._parts.names, decide)

    def _live(self) -> Generation:
        live = self._control.again().live
        if live is None:
            raise Refused("no generation is live yet", "start `vectide up` or the workers once: that founds the first")
        return live

    def _target(self, given: Mapping[str, Any], *, also_live: bool = False, also: tuple[str, ...] = ()) -> Generation:
        state = self._control.again()
        id = given.get("generation")
        found = state.target if id is None else state.generations.get(str(id))
        if found is None and also_live and id is None and state.live is not None:
            found = state.live
        if found is None and also:
            ended = [one for one in state.generations.values() if one.state in also]
            found = max(ended, key=lambda one: one.since, default=None)
        if found is None:
            raise Refused("no migration is under way", "`vectide migrate start --model ...` begins one")
        return found


def _share(given: Mapping[str, Any]) -> float:
    share = given.get("share")
    if isinstance(share, bool) or not isinstance(share, int | float):
        raise ConfigError(f"`share` = {share!r} is not a number", "give a part of the time, as 0.25")
    return float(share)


def _provider(name: str) -> str:
    return name if name in ("hashing", "wordllama") else "sentence-transformers"
