"""Is memory flat? Of each longest life the last quarter's median against the second's; and no life ever leaps."""

from __future__ import annotations

import statistics
from typing import Any

from tests.soak.cluster import SAMPLE_SECONDS, Worker

#: Shorter lives are still warming up.
_LEAST_MINUTES = 15.0
#: What counts as growth: both of them.
_GROWTH_PERCENT = 15.0
_GROWTH_MIB = 16.0
#: Over what a process had when it was ready: nothing that waits for an outage piles up to so much.
_LEAP_MIB = 64.0


def flatness(worker: Worker) -> dict[str, Any]:
    """RSS in MiB of the process of this worker that lived longest."""
    samples = max(worker.memory, key=len, default=[])
    leap = max((max(one) - one[0] for one in worker.memory if one), default=0.0)
    minutes = len(samples) * SAMPLE_SECONDS / 60
    if len(samples) < 8:
        return {"minutes": round(minutes, 1), "highest leap": round(leap, 1), "grew": leap > _LEAP_MIB}
    quarter = len(samples) // 4
    second, last = statistics.median(samples[quarter : 2 * quarter]), statistics.median(samples[-quarter:])
    grew = minutes >= _LEAST_MINUTES and last - second > max(_GROWTH_MIB, second * _GROWTH_PERCENT / 100)
    return {
        "minutes": round(minutes, 1),
        "second quarter": round(second, 1),
        "last quarter": round(last, 1),
        "growth percent": round(100 * (last / second - 1), 1),
        "highest leap": round(leap, 1),
        "grew": grew or leap > _LEAP_MIB,
    }
