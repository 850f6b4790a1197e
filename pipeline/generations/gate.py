"""The gate: what a generation must prove before it is searched. The cheapest refusal comes first.

1. its collection carries its fingerprints;
2. it has caught up to the ends that the log had when the gate began;
3. its collection equals the log, and no more documents have failed than in the live one;
   then its vector index is built, where that was deferred;
4. its answers are not worse than the live one's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.chunking.documents import Chunk
from pipeline.errors import LogDiverged, Transient
from pipeline.generations.quality import Comparison
from pipeline.naming import Names
from pipeline.ports import Broker, Collection
from pipeline.records import STAGES
from pipeline.specs import GenerationSpec
from pipeline.verification import UNSERVED, Verdict, verify

_POLL_SECONDS: Final = 0.1
#: A hundred million points take a server some hours.
_INDEX_SECONDS: Final = 6 * 3600.0
_INDEX_POLL_SECONDS: Final = 0.5

#: The phase in which nothing is done.
CATCHING_UP: Final = "catching up"

OnPhase = Callable[[str, int, int], None]
"""Which part of the gate it is at, how far of how much (0 of 0: unknown)."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the gate has found of a generation."""

    generation: str
    examined: int
    """The generation's ``transitions`` when the gate began."""
    why: tuple[str, ...] = ()
    """Why it is refused; empty if it passes."""
    not_yet: bool = False
    """It is refused for being behind only: a matter of time."""
    seconds: float = 0.0
    caught_up: Mapping[str, Any] = field(default_factory=dict)
    verification: Mapping[str, Any] | None = None
    """Whether its collection equals the log."""
    live_unserved: int = 0
    """Incomplete, failed and omitted documents of the live generation."""
    quality: Comparison | None = None

    @property
    def ok(self) -> bool:
        """It may be searched."""
        return not self.why

    def as_json(self, *, drawn: bool = True) -> dict[str, Any]:
        """For ``--json`` and the history; ``drawn``: see :meth:`Comparison.as_json`."""
        return {
            "generation": self.generation,
            "ok": self.ok,
            "why": list(self.why),
            "not_yet": self.not_yet,
            "seconds": round(self.seconds, 3),
            "caught_up": dict(self.caught_up),
            "verification": None if self.verification is None else dict(self.verification),
            "live_unserved": self.live_unserved,
            "quality": None if self.quality is None else self.quality.as_json(drawn=drawn),
        }


def examine(
    broker: Broker,
    names: Names,
    epoch: int,
    target: GenerationSpec,
    examined: int,
    collection: Collection,
    live: Collection,
    chunk: Chunk,
    build_index: Callable[[], bool],
    quality: Callable[[OnPhase], Comparison],
    wait_seconds: float,
    on_phase: OnPhase = lambda phase, done, whole: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Report:
    """Examine a generation while the pipeline goes on; nothing is written.

    Args:
        broker: has the log.
        names: of the pipeline.
        epoch: of the documents topic.
        target: the generation.
        examined: its ``transitions`` now.
        collection: of the generation.
        live: the live one's.
        chunk: the generation's chunker.
        build_index: of the generation's collection; True once nothing is left to build.
        quality: asks both; called last, and only if nothing else refuses.
        wait_seconds: how long it may take to catch up with what the log has now.
        on_phase: told what it does.
        stopped: asked now and then; if so, the gate is given up.

    Raises:
        Transient: broker or store does not answer, or it was stopped; examine it again.
    """
    started = time.monotonic()

    def report(*why: str, **found: Any) -> Report:
        return Report(target.id, examined, why, seconds=time.monotonic() - started, **found)

    def at(phase: str, done: int, whole: int) -> None:
        if stopped():
            raise Transient("the gate was stopped")
        on_phase(phase, done, whole)

    at("fingerprints", 0, 0)
    spec = collection.spec
    if (spec.model_fingerprint, spec.chunking_fingerprint) != (target.model.fingerprint, target.chunking.fingerprint):
        return report(f"collection {spec.name} is of another model or chunking than the generation")
    topic = names.documents(epoch)
    ends = {partition: one.end for partition, one in broker.offsets(topic).items()}
    missing = caught_up(broker, names, target.id, topic, ends, wait_seconds, at)
    place = {"ends": {str(partition): end for partition, end in ends.items()}, "behind": missing}
    if missing:
        return report(
            f"it is {missing} records behind the log, and did not catch up in {wait_seconds:.0f} s",
            caught_up=place,
            not_yet=True,
        )

    with verify(
        broker,
        topic,
        epoch,
        collection,
        ends,
        chunk,
        lambda step, done, whole: at(f"verifying {step}", done, whole),
        applied=lambda: applied(broker, names, target.id),
    ) as verdict:
        verification = verdict.as_json()
        why = [] if verdict.ok else [_different(verdict)]
    most, unserved_here = unserved(live.count_heads()), unserved(verdict.heads)
    if unserved_here > most:
        why.append(f"{unserved_here} of its documents are incomplete or failed, and {most} of the live generation's")
    found: dict[str, Any] = {"caught_up": place, "verification": verification, "live_unserved": most}
    if why:
        return report(*why, **found)
    until = time.monotonic() + _INDEX_SECONDS
    while not build_index():
        at("indexing", 0, 0)
        if time.monotonic() > until:
            return report(f"its vector index was not built in {_INDEX_SECONDS:.0f} s", **found)
        time.sleep(_INDEX_POLL_SECONDS)
    comparison = quality(at)
    return report(*([] if comparison.ok else [comparison.why]), **found, quality=comparison)


def caught_up(
    broker: Broker,
    names: Names,
    generation: str,
    topic: str,
    ends: Mapping[int, int],
    wait_seconds: float,
    on_phase: OnPhase = lambda phase, done, whole: None,
) -> int:
    """How many records are missing in the end; 0 once everything below ``ends`` is applied.

    Args:
        broker: has the log.
        names: of the pipeline.
        generation: whose groups are asked.
        topic: of the documents.
        ends: by partition, where the topic ended at some moment before.
        wait_seconds: how long it may take.
        on_phase: told how many are missing; what it raises ends the wait.

    Raises:
        Transient: no answer.
        LogDiverged: more was committed than is there.
        Fatal: a topic is not there.
    """
    until = time.monotonic() + wait_seconds
    for stage in STAGES:
        group = names.group(stage, generation)
        place = topic if stage == "chunk" else names.chunks(generation)
        # What the chunk stage made of everything below the ends is below the present ends of its topic.
        wanted = ends if stage == "chunk" else {at: one.end for at, one in broker.offsets(place).items()}
        while missing := _missing(broker, group, place, wanted):
            on_phase(CATCHING_UP, 0, missing)
            if time.monotonic() > until:
                return missing
            time.sleep(_POLL_SECONDS)
    return 0


def _missing(broker: Broker, group: str, topic: str, wanted: Mapping[int, int]) -> int:
    """Records below ``wanted`` that a group has not committed; what is trimmed was committed."""
    committed = broker.committed(group, topic)
    # After what was committed: an end only grows.
    bounds = broker.offsets(topic)
    for partition, one in bounds.items():
        if committed.get(partition, 0) > one.end:
            raise LogDiverged(
                f"group {group} has committed offset {committed[partition]} of {topic}[{partition}], which ends at "
                f"{one.end}: the topic has lost records",
                "restore it, or start a new epoch and a new generation from it",
            )
    return sum(
        max(0, end - committed.get(partition, 0)) for partition, end in wanted.items() if bounds[partition].start < end
    )


def applied(broker: Broker, names: Names, generation: str) -> dict[int, int] | None:
    """By partition, where a generation's embed stage is; None while there are records that it has not committed.

    Raises:
        Transient: no answer.
    """
    topic = names.chunks(generation)
    ends = {partition: one.end for partition, one in broker.offsets(topic).items()}
    return None if _missing(broker, names.group("embed", generation), topic, ends) else ends


def unserved(heads: Mapping[Any, int]) -> int:
    """Documents that are not wholly served, of heads by state."""
    return sum(heads.get(state, 0) for state in UNSERVED)


def _different(verdict: Verdict) -> str:
    found = {kind: one for kind, one in verdict.named.items() if one.count}
    said = ", ".join(f"{one.count} {kind} (for example {one.examples[0]})" for kind, one in found.items())
    return f"its collection differs from the log: {said}"
