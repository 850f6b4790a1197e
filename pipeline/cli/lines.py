"""Lines: the stages of each generation that this process follows, started and ended as ``control`` says.

What can fail: a line of a generation that is being built meets something fatal (the generation is
failed, with the reason, and live goes on); its model is not on this machine, or the line of a ready or
previous one fails (it waits, says so and is tried again); the live one's line meets something fatal
(the process stops with it).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Hashable
from typing import Final

from pipeline.cli import clearing
from pipeline.cli.assembly import Followed, Models, Parts
from pipeline.cli.line import END_SECONDS, Line
from pipeline.errors import (
    Backpressure,
    CollectionMissing,
    ConfigError,
    Fatal,
    FingerprintMismatch,
    NotAllowed,
    Transient,
)
from pipeline.generations import operator, transitions
from pipeline.generations.control import FOLLOWED, UNDER_WAY, ControlState, Generation
from pipeline.generations.gauges import GenerationGauges
from pipeline.records import STAGES, Stage
from pipeline.specs import GenerationSpec
from pipeline.stages.pace import LiveTraffic

log = logging.getLogger(__name__)

#: What a person can mend on this machine alone: another may have the weights.
_PUT_THERE: Final = (ConfigError, FingerprintMismatch)

_LOOK_SECONDS: Final = 0.25
_SAMPLE_SECONDS: Final = 0.5
_ALIAS_SECONDS: Final = 5.0
#: A model that is missing may be put there by a person, or by a volume that is still filled.
_RETRY_SECONDS: Final = 15.0
#: Who holds this partition of a generation's chunks topic counts what a migration has built.
_COUNTED: Final = 0


class Lines:
    """The lines of this process; run it in a thread.

    Args:
        parts: broker and store, open.
        control: what ``control`` says.
        models: loaded models.
        stages: which stages run here.
        only: one generation; None for all that are followed.
        on_state: told what ``control`` says, at every look.
        proposed: fingerprint of what the configuration proposes; None if that cannot be known here.
    """

    def __init__(
        self,
        parts: Parts,
        control: Followed,
        models: Models,
        stages: Collection[Stage],
        only: str | None = None,
        on_state: Callable[[ControlState], None] = lambda state: None,
        proposed: str | None = None,
    ) -> None:
        self._parts = parts
        self._control = control
        self._models = models
        self._stages = stages
        self._only = only
        self._on_state = on_state
        self._gauges = GenerationGauges(parts.metrics, proposed)
        # A delete stays uncommitted for its grace, a flush gathers, and commits come twice a second.
        embed, work = parts.config.embed, parts.config.work
        self._traffic = LiveTraffic(embed.delete_grace_seconds + embed.flush_seconds + 2 * work.commit_seconds)
        self._lines: dict[str, Line] = {}
        self._later: dict[str, float] = {}
        """When to try again to start a line that could not be."""
        self._loading: dict[str, _Loading] = {}
        self._ending: list[threading.Thread] = []
        self._next_sample = 0.0
        self._next_alias = 0.0
        # Only where the store is worked with anyway: a chunk worker needs no key for it.
        self._leftovers = clearing.Leftovers(parts) if "embed" in stages else None

    def start_live(self, state: ControlState) -> Line | None:
        """Start the live generation's line now, and raise what is wrong with it; None if it is not
        to run here.

        Raises:
            Fatal: its model or its collection is not what it must be.
            Transient: broker or store does not answer.
        """
        live = state.live
        if live is None or (self._only is not None and live.id != self._only):
            return None
        try:
            return self._begin(live)
        except Fatal:
            # Retired since that look at control: its collection is gone, and nothing is wrong with it.
            if self._still(live) is not None:
                raise
            return None

    @property
    def busy(self) -> bool:
        """Some line has records in work; from any thread."""
        return any(line.busy for line in list(self._lines.values()))

    def holds(self, id: str, partition: int) -> bool:
        """This process embeds that partition of a generation; from any thread."""
        line = self._lines.get(id)
        worker = None if line is None else line.workers.get("embed")
        return worker is not None and partition in worker.moving

    def run(self, stop: threading.Event) -> None:
        """Follow ``control`` until ``stop`` is set; then end all lines.

        Raises:
            Exception: what the live generation's line failed with.
        """
        threading.Thread(target=self._stop_with, args=(stop,), name="stop lines", daemon=True).start()
        try:
            while not stop.is_set():
                try:
                    self._turn()
                except (Transient, Backpressure) as error:
                    log.debug("generations not looked at", extra={"error": str(error)})
                stop.wait(_LOOK_SECONDS)
        finally:
            for line in self._lines.values():
                line.crew.stop.set()  # all at once: each has its own drain budget
            for line in self._lines.values():
                line.end()
            for thread in self._ending:
                thread.join(END_SECONDS)

    def _stop_with(self, stop: threading.Event) -> None:
        """At once: a turn can wait for a Kafka that hangs, and its workers have a budget of their own."""
        stop.wait()
        for line in list(self._lines.values()):
            line.crew.stop.set()

    def _turn(self) -> None:
        state = self._control()
        followed = {one.id: one for one in state.followed if self._only is None or one.id == self._only}
        for id in [id for id in self._lines if id not in followed]:
            self._end(id)
        for id in [id for id in self._later if id not in followed]:
            self._given_up(id)
        for id, generation in followed.items():
            line = self._lines.get(id)
            if line is None:
                self._try(generation)
            else:
                line.follow(generation)
                self._look(generation, line)
        live = self._lines.get(state.live.id) if state.live is not None else None
        busy = None if live is None else lambda: live.busy
        self._traffic.serve(busy, whole=live is not None and len(live.workers) == len(STAGES))
        self._point_alias(live)
        if self._leftovers is not None:
            self._leftovers.remove(state, self._lines)
        self._sample(state)
        self._describe(state)
        for line in self._lines.values():
            line.tick()
        self._on_state(state)

    def _try(self, generation: Generation) -> None:
        """Start a line if all is there that it needs; its model is loaded apart, for that takes seconds."""
        if time.monotonic() < self._later.get(generation.id, 0.0):
            return
        try:
            if "embed" in self._stages and not self._loaded(generation):
                return
            # Loading took its time: what was aborted meanwhile must not be made again.
            now = self._still(generation)
            if now is not None:
                self._begin(now)
        except Exception as error:
            still = self._still(generation)
            if still is None:
                return
            if still.state == "live" and isinstance(error, Fatal):
                raise
            if generation.state in UNDER_WAY and isinstance(error, Fatal) and not isinstance(error, _PUT_THERE):
                self._fail(generation, error)
                return
            self._wait_with(generation, error)

    def _still(self, generation: Generation) -> Generation | None:
        """It as it is now; None if it is over: its collection may go before the news of it come."""
        now = self._control.again().generations.get(generation.id)
        return now if now is not None and now.state in FOLLOWED else None

    def _loaded(self, generation: Generation) -> bool:
        """True once the generation's model is loaded.

        Raises:
            Exception: what loading it failed with.
        """
        loading = self._loading.get(generation.id)
        if loading is None:
            loading = self._loading[generation.id] = _Loading(lambda: self._models.of(generation.spec))
        if not loading.done:
            return False
        del self._loading[generation.id]
        loading.raise_failure()
        return True

    def _wait_with(self, generation: Generation, error: Exception) -> None:
        """Not now: its weights are not on this machine, or something does not answer."""
        if generation.id not in self._later:
            log.warning("generation not followed yet", extra={"generation": generation.id, "error": str(error)})
        self._later[generation.id] = time.monotonic() + _RETRY_SECONDS
        self._parts.health.set_ready(f"generation.{generation.id}", False, str(error))

    def _begin(self, generation: Generation) -> Line:
        line = Line(self._parts, generation, self._stages, self._models, self._traffic)
        line.start()
        self._lines[generation.id] = line
        self._given_up(generation.id)
        log.info("generation followed", extra={"generation": generation.id, "state": generation.state})
        return line

    def _given_up(self, id: str) -> None:
        self._loading.pop(id, None)
        if self._later.pop(id, None) is not None:
            self._parts.health.set_ready(f"generation.{id}", True, "")

    def _look(self, generation: Generation, line: Line) -> None:
        """Has its line failed? Only the live one takes the process with it."""
        try:
            line.crew.raise_failure()
        except Exception as error:
            now = self._still(generation)
            if now is None:
                return
            passing = isinstance(error, Transient | Backpressure)
            if now.state == "live" and not passing:
                raise
            if now.state in UNDER_WAY and isinstance(error, Fatal):
                self._fail(now, error)
                return
            self._end(now.id)
            self._wait_with(now, error)

    def _fail(self, generation: Generation, error: Fatal) -> None:
        log.error("generation failed", extra={"generation": generation.id, "error": str(error)})
        try:
            operator.operate(
                self._parts.broker,
                self._parts.names,
                lambda state: transitions.fail(state, generation.id, time.time(), str(error)),
            )
        except NotAllowed:
            # A worker need not have the right to decide; an operator sees why it is not ready.
            self._wait_with(generation, error)
        if generation.id in self._lines:
            self._end(generation.id)

    def _end(self, id: str) -> None:
        line = self._lines.pop(id)
        log.info("generation left", extra={"generation": id})
        thread = threading.Thread(target=line.end, name=f"end {id}", daemon=True)
        self._ending = [one for one in self._ending if one.is_alive()]
        self._ending.append(thread)
        thread.start()

    def _sample(self, state: ControlState) -> None:
        """How far behind the live generation is, while another is being built here."""
        if time.monotonic() < self._next_sample or not any(line.building for line in self._lines.values()):
            return
        self._next_sample = time.monotonic() + _SAMPLE_SECONDS
        if self._traffic.here:
            self._traffic.behind_seconds  # noqa: B018 - a look; who is never seen idle is behind
        elif state.live is not None:
            with contextlib.suppress(Fatal):  # no longer live, and its topic removed
                self._traffic.sampled(*_places(self._parts, state.live.spec))

    def _point_alias(self, live: Line | None) -> None:
        """For those who read the store directly; and what was forced past the gate is indexed."""
        if live is None or live.collection is None or time.monotonic() < self._next_alias:
            return
        self._next_alias = time.monotonic() + _ALIAS_SECONDS
        store, alias, collection = self._parts.store, self._parts.names.alias, live.collection.spec.name
        with contextlib.suppress(CollectionMissing):  # no longer live, and removed
            if store.alias(alias) != collection:
                store.point_alias(alias, collection)
            store.build_index(collection)

    def _describe(self, state: ControlState) -> None:
        self._gauges.show(state)
        target, store, names = state.target, self._parts.store, self._parts.names
        counts = target is not None and self.holds(target.id, _COUNTED)
        self._gauges.count(state, (lambda id: store.open(names.collection(id)).count_heads()) if counts else None)


class _Loading:
    """A model being loaded in a thread of its own."""

    def __init__(self, load: Callable[[], object]) -> None:
        self._load = load
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._load()
        except Exception as error:  # raised again by who asks
            self._failure = error


def _places(parts: Parts, spec: GenerationSpec) -> tuple[dict[Hashable, int], dict[Hashable, int]]:
    """Where a generation's topics end, and what its groups have committed, by stage and partition."""
    broker, names = parts.broker, parts.names
    ends: dict[Hashable, int] = {}
    committed: dict[Hashable, int] = {}
    topics: tuple[tuple[Stage, str], ...] = (
        ("chunk", names.documents(parts.config.pipeline.epoch)),
        ("embed", names.chunks(spec.id)),
    )
    for stage, topic in topics:
        ends |= {(stage, partition): one.end for partition, one in broker.offsets(topic).items()}
        done = broker.committed(names.group(stage, spec.id), topic)
        committed |= {(stage, partition): offset for partition, offset in done.items()}
    return ends, committed
