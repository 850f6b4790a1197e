"""Running the checks, and what came out of them."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from connectors.certification import contract, figures, kills, outages, syncing
from connectors.certification.checks import Check
from connectors.certification.place import NotShown, Place
from connectors.certification.trial import Scale, Trial

#: Every check, in the order in which they are run.
CHECKS: Final[Sequence[Check]] = (
    *contract.CHECKS,
    *syncing.CHECKS,
    *kills.CHECKS,
    *outages.CHECKS,
    *figures.CHECKS,
)
Verdict: TypeAlias = Literal["passed", "failed", "not shown"]
_DEFAULT: Final = Scale()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of one check."""

    check: Check
    verdict: Verdict
    detail: str = ""
    """Why it failed, or cannot be shown."""
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What came out of a certification."""

    outcomes: Sequence[Outcome]

    @property
    def ok(self) -> bool:
        """Whether nothing failed, and something was shown."""
        return not self.count("failed") and self.count("passed") > 0

    @property
    def figures(self) -> dict[str, float]:
        """Everything that was measured."""
        return {name: value for one in self.outcomes for name, value in one.figures.items()}

    def count(self, verdict: Verdict) -> int:
        """Checks with this verdict."""
        return sum(one.verdict == verdict for one in self.outcomes)

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "ok": self.ok,
            "passed": self.count("passed"),
            "failed": self.count("failed"),
            "not_shown": self.count("not shown"),
            "figures": self.figures,
            "checks": [
                {
                    "name": one.check.name,
                    "claim": one.check.claim,
                    "verdict": one.verdict,
                    "detail": one.detail,
                    "seconds": round(one.seconds, 3),
                }
                for one in self.outcomes
            ],
        }


def certify(
    place: Callable[[Path], Place],
    checks: Iterable[Check] = CHECKS,
    scale: Scale = _DEFAULT,
    begun: Callable[[Check], None] = lambda check: None,
) -> Report:
    """Run checks against a kind of place.

    Args:
        place: makes a new and empty place; given an empty folder of its own.
        checks: which.
        scale: how much to do.
        begun: told of each check before it runs.
    """
    outcomes = []
    for check in checks:
        begun(check)
        with tempfile.TemporaryDirectory(prefix="vectide-certify-", ignore_cleanup_errors=True) as folder:
            outcomes.append(outcome_of(check, place, Path(folder), scale))
    return Report(outcomes)


def outcome_of(check: Check, place: Callable[[Path], Place], folder: Path, scale: Scale) -> Outcome:
    """Run one check in an empty folder; whatever is raised is its outcome."""
    started = time.monotonic()

    def outcome(verdict: Verdict, detail: str = "", measured: dict[str, float] | None = None) -> Outcome:
        return Outcome(check, verdict, detail, time.monotonic() - started, measured or {})

    try:
        measured = run(check, place, folder, scale)
    except NotShown as why:
        return outcome("not shown", str(why))
    except AssertionError as why:
        return outcome("failed", str(why) or _where(why))
    except Exception as error:  # an error of the source is the check's outcome
        return outcome("failed", f"{type(error).__name__}: {error}; {_where(error)}")
    return outcome("passed", measured=measured)


def run(check: Check, place: Callable[[Path], Place], folder: Path, scale: Scale) -> dict[str, float]:
    """Run one check; returns what was measured.

    Raises:
        AssertionError: the connector does not do what it must.
        NotShown: this place cannot tell.
    """
    (folder / "place").mkdir(parents=True)
    trial = Trial(place(folder / "place"), folder, scale)
    try:
        check.run(trial)
    finally:
        trial.close()
    return trial.figures


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"at {Path(frame.filename).name}:{frame.lineno}: {frame.line}"
