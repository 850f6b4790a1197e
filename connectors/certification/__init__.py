"""The certification of connectors: what every one of them must do, shown over a place that its author writes.

Write a :class:`Place` and run ``vectide certify MODULE:PLACE``, or :func:`certify` in a test. See
docs/certification.md.
"""

from __future__ import annotations

from connectors.certification.checks import Check
from connectors.certification.place import (
    LIMIT_BYTES,
    Breaks,
    Closes,
    Counts,
    Fault,
    HasSecrets,
    NotShown,
    Place,
    Poisons,
    Polls,
    PutsMany,
    Renames,
    Sends,
)
from connectors.certification.report import CHECKS, Outcome, Report, certify, outcome_of
from connectors.certification.trial import Scale, Trial

__all__ = [
    "CHECKS",
    "LIMIT_BYTES",
    "Breaks",
    "Check",
    "Closes",
    "Counts",
    "Fault",
    "HasSecrets",
    "NotShown",
    "Outcome",
    "Place",
    "Poisons",
    "Polls",
    "PutsMany",
    "Renames",
    "Report",
    "Scale",
    "Sends",
    "Trial",
    "certify",
    "outcome_of",
]
