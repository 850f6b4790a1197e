"""The store protocol: one batch of document versions into one collection, safe among zombies.

``prepare`` (steps 1 and 2) says what has to be embedded, ``write`` (steps 3 to 5) makes it so and
says what happened; between them lies the model, so a stage can prepare and embed one batch while
it writes the one before. docs/store-protocol.md explains the steps and the guards.
"""

from __future__ import annotations

from pipeline.sync.batches import TRUSTING, Distrust, Outcome, PreparedBatch, Result, ToEmbed
from pipeline.sync.reading import prepare
from pipeline.sync.rounds import Embed, synchronise
from pipeline.sync.settling import repair, sweep_deleted, sweep_headless
from pipeline.sync.writing import DONOR_SECONDS, upsert_slice, write

__all__ = [
    "DONOR_SECONDS",
    "TRUSTING",
    "Distrust",
    "Embed",
    "Outcome",
    "PreparedBatch",
    "Result",
    "ToEmbed",
    "prepare",
    "repair",
    "sweep_deleted",
    "sweep_headless",
    "synchronise",
    "upsert_slice",
    "write",
]
