"""The patrol of a process that embeds: which generations are its own, and how it makes room for live work."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pipeline.cli.assembly import Followed, Models, Parts
from pipeline.cli.lines import Lines
from pipeline.cli.verifications import told
from pipeline.cli.verifying import Examination, Wanted
from pipeline.embedding.paced import PacedEmbedder
from pipeline.generations.control import FOLLOWED
from pipeline.generations.gate import CATCHING_UP
from pipeline.stages.pace import SMALL_TOKENS
from pipeline.verification.patrol import Pacer, Patrol, Round, Stopped
from pipeline.verification.published import last_verified

#: Who holds this partition of a generation's chunks topic verifies the generation.
_PARTITION: Final = 0
#: Nobody waits for it: what does not catch up in so long is looked at another time.
_WAIT_SECONDS: Final = 600.0
_SEEDS: Final = 1 << 32


def patrol_of(parts: Parts, control: Followed, models: Models, lines: Lines) -> Patrol:
    """The patrol of this process.

    Args:
        parts: broker and store, open.
        control: what ``control`` says.
        models: loaded models.
        lines: the generations that are followed here.
    """
    config = parts.config.verify

    def generations() -> list[str]:
        return [one.id for one in control().followed if one.state != "building" and lines.holds(one.id, _PARTITION)]

    def verify(id: str, stop: threading.Event) -> Round:
        generation = control.again().generations.get(id)
        if generation is None or generation.state not in FOLLOWED:
            raise Stopped(f"generation {id} is over")
        pacer = Pacer(config.documents_per_second, lambda: lines.busy, stop)

        def at(phase: str, done: int, whole: int) -> None:
            if stop.is_set():
                raise Stopped("the process is ending")
            if phase == CATCHING_UP:
                pacer.rested()

        @contextmanager
        def turn() -> Iterator[None]:
            pacer.pause(0)
            yield

        # Vectors of the live one only: of the others nobody is answered from.
        sample = config.sample if generation.state == "live" else 0
        wanted = Wanted(fix=config.repair, sample=sample, seed=secrets.randbelow(_SEEDS), wait_seconds=_WAIT_SECONDS)
        report = Examination(
            parts,
            generation,
            models,
            {},
            wanted,
            at,
            pacer.wait,
            pacer.pause,
            lambda embedder: PacedEmbedder(
                embedder, turn, lambda most: min(most, SMALL_TOKENS) if lines.busy else most
            ),
        ).run()
        verified = told(parts, report, "patrol")
        whole = report["documents"]
        return Round(verified.findings, 1.0 if not whole else max(0.0, 1 - report["unserved"]["count"] / whole))

    def last() -> dict[str, float]:
        return {id: one.at for id, one in last_verified(parts.broker, parts.names).items()}

    return Patrol(generations, verify, last, config.every_seconds, parts.metrics)
