"""How hard the fuzzing tries: ``VECTIDE_TEST_FUZZ=20000`` for a night."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

#: No deadline for an example: a busy machine is no hang, and a hang meets the test's own timeout.
FUZZ = settings(
    max_examples=int(os.environ.get("VECTIDE_TEST_FUZZ", "150")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
