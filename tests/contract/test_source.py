"""The certification of sources: every connector passes every check, over a place of its own.

To certify a connector, write a place for it (tests/contract/places.py) and add it to ``PLACES``. What
its place cannot show is skipped with the reason; docs/certification.md has the checks.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.certification import CHECKS, Check, NotShown, Scale
from connectors.certification.report import run
from tests.contract.places import PLACES

#: `vectide certify` does more of everything.
SCALE = Scale(documents=600, document_bytes=2_000, kills=5, latencies=5, patience_seconds=90.0)

#: Of a place that is another one's over a network, what only it can show.
ONLY = {
    "git-http": ("down", "slow", "unauthorised", "garbled", "secrets", "a-slow", "killed-anywhere", "the-first-sync"),
    "s3-queue": (
        "every-change",
        "a-change",
        "a-quiet",
        "close-wakes",
        "creates-edits",
        "a-rename-is",
        "down-is",
        "killed-anywhere",
        "secrets",
    ),
}


def _asked(place: str) -> list[Check]:
    return [check for check in CHECKS if check.name.startswith(ONLY.get(place, ("",)))]


@pytest.mark.parametrize(
    "place, check",
    [(place, check) for place in PLACES for check in _asked(place)],
    ids=lambda one: one if isinstance(one, str) else one.name,
)
def test_certified(place: str, check: Check, tmp_path: Path) -> None:
    try:
        run(check, PLACES[place], tmp_path, SCALE)
    except NotShown as why:
        pytest.skip(f"{place}: not shown: {why}")
