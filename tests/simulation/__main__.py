"""Run schedules by hand: one with its trace, or many with counts, with or without a mutant."""

from __future__ import annotations

import argparse
import contextlib
import time

from tests.simulation.mutants import MUTANTS
from tests.simulation.profiles import PROFILES, VERIFIED
from tests.simulation.schedules import run

_PROFILES = {**PROFILES, **VERIFIED}


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--profile", choices=_PROFILES, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--mutant", choices=MUTANTS)
    arguments = parser.parse_args()
    profile = _PROFILES[arguments.profile]
    mutated = MUTANTS[arguments.mutant].applied if arguments.mutant else contextlib.nullcontext
    started, failures, requests = time.monotonic(), [], 0
    with mutated():
        for seed in range(arguments.seed, arguments.seed + arguments.count):
            result = run(profile, seed)
            requests += result.requests
            if result.failure:
                failures.append(result)
    if failures:
        print(failures[0].told())
        print(failures[0].failure)
    seconds = time.monotonic() - started
    print(f"{len(failures)} of {arguments.count} schedules diverged; {requests} requests, {seconds:.1f} s")
    print("seeds", [failure.seed for failure in failures[:20]])


if __name__ == "__main__":
    main()
