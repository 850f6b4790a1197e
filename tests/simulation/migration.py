"""Run schedules of migrations by hand: ``python -m tests.simulation.migration --profile jobs --seed 17``."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections import Counter

from tests.simulation.migration_mutants import MUTANTS
from tests.simulation.migration_schedules import PROFILES, run


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.migration")
    parser.add_argument("--profile", choices=PROFILES, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--mutant", choices=MUTANTS)
    arguments = parser.parse_args()
    started, failures, steps, found = time.monotonic(), [], 0, Counter()
    mutated = MUTANTS[arguments.mutant].applied() if arguments.mutant else contextlib.nullcontext()
    with mutated:
        for seed in range(arguments.seed, arguments.seed + arguments.count):
            result = run(PROFILES[arguments.profile], seed)
            steps += result.steps
            found.update(result.found)
            if result.failure:
                failures.append(result)
    if failures:
        print(failures[0].told())
        print(failures[0].failure)
        for kind, count in Counter(one.failure[:90] for one in failures).most_common():
            print(count, kind)
    for what, count in sorted(found.items()):
        print(f"{count:7} {what}")
    seconds = time.monotonic() - started
    print(f"{len(failures)} of {arguments.count} schedules violated something; {steps} turns, {seconds:.1f} s")
    print("seeds", [failure.seed for failure in failures[:20]])


if __name__ == "__main__":
    main()
