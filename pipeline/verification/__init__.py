"""Verification: whether a generation's collection equals the log, and making it so again (ADR 0003)."""

from __future__ import annotations

from pipeline.verification.comparison import OnProgress, Pause, Step, Verdict, verify
from pipeline.verification.findings import EXAMPLES, KINDS, Findings, Found, Kind, Named
from pipeline.verification.repair import Repaired, repair

__all__ = [
    "EXAMPLES",
    "KINDS",
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
