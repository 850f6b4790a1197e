"""Verification: whether a generation's collection equals the log, and making it so again (ADR 0003)."""

from __future__ import annotations

from pipeline.verification.comparison import verify
from pipeline.verification.findings import EXAMPLES, KINDS, Findings, Found, Kind, Named
from pipeline.verification.repair import Repaired, repair
from pipeline.verification.verdict import UNSERVED, OnProgress, Pause, Step, Verdict

__all__ = [
    "EXAMPLES",
    "KINDS",
    "UNSERVED",
    "Findings",
    "Found",
    "Kind",
    "Named",
    "OnProgress",
    "Pause",
    "Repaired",
    "Step",
    "Verdict",
    "repair",
    "verify",
]
