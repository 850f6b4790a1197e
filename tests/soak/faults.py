"""What goes wrong and when, decided by the seed alone before anything runs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from tests.soak.cluster import SESSION_SECONDS, STEADY
from tests.soak.truth import DIMENSIONS

#: Kind to how often, of 100.
_WEIGHTS = {
    "kill": 26,
    "hang": 12,
    "broker kill": 6,
    "broker hang": 5,
    "leaders": 4,
    "store": 30,
    "disk": 5,
    "clock": 12,
}
_WORKERS = ("chunk-0", "chunk-1", "embed-0", "embed-1", "connect", "serve")
_STORE_MODES = ("429", "503", "507", "slow", "cut", "lose", "hang")
#: What the first storm has in any case, in an order that fits into 25 seconds.
_FIRST = ("store 429", "kill embed-1", "store lose", "hang embed-0", "kill chunk-1", "broker kill", "kill connect")
_PROPOSALS: tuple[tuple[str, ...], ...] = (
    ("--document-prompt", "passage: "),
    ("--target-tokens", "30"),
    ("--dimension", str(DIMENSIONS[1])),
    (),
)


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    at: float
    """Seconds from the storm's beginning."""
    kind: str
    target: str
    seconds: float
    share: float = 1.0
    amount: float = 0.0
    """Of a slow store, seconds; of a clock, how far off."""

    def as_json(self) -> dict[str, Any]:
        """For the log of events."""
        return {"planned": round(self.at, 1), **{name: value for name, value in vars(self).items() if name != "at"}}


@dataclass(frozen=True)
class Storm:
    """A time of faults, with a migration in it or without."""

    seconds: float
    faults: tuple[Fault, ...]
    proposal: tuple[str, ...] | None
    """To what is migrated; None: not at all."""


def storms(seed: int, count: int, seconds: float, every: float, brokers: int) -> list[Storm]:
    """The whole schedule.

    Args:
        seed: decides everything.
        count: of storms.
        seconds: of each.
        every: seconds between two faults, about.
        brokers: with three, leaders are moved as well.
    """
    rng = random.Random(f"faults {seed}")
    found = []
    migrations = 0
    for number in range(count):  # about half of them fit into the time: a quiet point takes some, too
        faults: list[Fault] = []
        at = rng.uniform(0.5, 2.0)
        named = list(_FIRST) if number == 0 else []
        while at < seconds:
            wanted = named.pop(0) if named else ""
            faults.append(_fault(rng, at, number >= max(1, count // 6), brokers, wanted))
            at += rng.uniform(0.5, 1.5) * (every if number else min(every, seconds / (len(_FIRST) + 1)))
        # In every second storm; the last one of a short run has one as well.
        migrates = number % 2 == 1 or count == 1
        proposal = _PROPOSALS[migrations % len(_PROPOSALS)] if migrates else None
        if migrates:
            migrations += 1
            faults += [Fault(rng.uniform(0.1, 0.9) * seconds, rng.choice(["kill", "hang"]), "job", rng.uniform(1, 8))]
        found.append(Storm(seconds, tuple(sorted(faults, key=lambda one: one.at)), proposal))
    return found


def _fault(rng: random.Random, at: float, late: bool, brokers: int, wanted: str = "") -> Fault:
    kind, _, target = wanted.partition(" ")
    if wanted.startswith("broker"):
        kind, target = wanted, ""
    kind = kind or rng.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()))[0]
    killable = [name for name in _WORKERS if not (late and name in STEADY)]
    if kind == "leaders" and brokers == 1:
        kind = "store"  # there is nobody to move one to
    match kind:
        case "leaders":
            # Back to those that are preferred: the deaths of brokers have moved them elsewhere.
            return Fault(at, kind, "all", 0.0)
        case "kill":
            return Fault(at, kind, target or rng.choice(killable), 0.0)
        case "hang":
            # Beyond the session timeout mostly: its partitions belong to another by then.
            seconds = SESSION_SECONDS + rng.uniform(2.0, 8.0) if rng.random() < 0.7 else rng.uniform(1.0, 4.0)
            return Fault(at, kind, target or rng.choice(_WORKERS[:5]), seconds)
        case "broker kill":
            return Fault(at, kind, _broker(rng, brokers), rng.uniform(1.0, 8.0))
        case "broker hang":
            return Fault(at, kind, _broker(rng, brokers), rng.uniform(2.0, 10.0))
        case "store":
            mode = target or rng.choice(_STORE_MODES)
            share = rng.choice([0.2, 0.5, 1.0]) if mode != "lose" else rng.choice([0.1, 0.3])
            # Beyond the client's five seconds it is given up while it is applied.
            amount = rng.uniform(0.1, 1.0) if mode == "slow" else rng.uniform(5.5, 8.0)
            return Fault(at, kind, mode, rng.uniform(2.0, 12.0), share, amount)
        case "disk":
            return Fault(at, kind, "connect", rng.uniform(3.0, 12.0))
        case _:
            off = rng.choice([-1, 1]) * rng.choice([3.0, 70.0, 3_700.0, 90_000.0])
            return Fault(at, "clock", rng.choice(_WORKERS), rng.uniform(5.0, 30.0), amount=off)


def _broker(rng: random.Random, brokers: int) -> str:
    """One of them, or, where that would stop nobody, sometimes all at once."""
    return "all" if brokers > 1 and rng.random() < 0.3 else str(rng.randrange(brokers))
