"""The soak from the command line: ``python -m tests.soak --minutes 60``, or ``make soak MINUTES=60``."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
from pathlib import Path

from tests.bench.setting import machine
from tests.soak.mutants import USABLE
from tests.soak.report import last_line, not_tried
from tests.soak.running import Settings, run
from tests.soak.truth import removed
from tests.support.kafka import Missing


def main() -> int:
    """Exit code 1 with violations, 2 where it cannot run."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=60.0)
    options.add_argument("--seed", type=int, help="of the schedule and of what is written; a new one if not given")
    options.add_argument("--brokers", type=int, choices=(1, 3), default=1)
    options.add_argument("--documents", type=int, default=120)
    options.add_argument("--per-second", type=float, default=3.0)
    options.add_argument("--storm-seconds", type=float, default=75.0)
    options.add_argument("--quiet-seconds", type=float, default=180.0)
    options.add_argument("--mutant", choices=USABLE, help="with this guard off it must find violations")
    options.add_argument("--json", type=Path, help="where to write the report")
    options.add_argument("--folder", type=Path, help="of the run, kept; a temporary one if not given")
    chosen = options.parse_args()
    seed = random.SystemRandom().randrange(2**32) if chosen.seed is None else chosen.seed
    settings = Settings(
        minutes=chosen.minutes,
        seed=seed,
        brokers=chosen.brokers,
        documents=chosen.documents,
        per_second=chosen.per_second,
        mutant=chosen.mutant,
        migrations=chosen.mutant is None,  # a gate would stop at the mutant's first trace
        storm_seconds=chosen.storm_seconds,
        quiet_seconds=chosen.quiet_seconds,
    )
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="vectide-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    # A run that is told to stop takes its brokers and workers with it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    print(f"{machine()}\nseed {seed}, in {folder}", flush=True)
    try:
        report = run(settings, folder)
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 2
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(report, indent=1) + "\n")
    for name, value in report.items():
        print(f"{name:<32} {json.dumps(value) if isinstance(value, dict) else value}")
    failed = bool(report["violations"])
    if failed:
        print(f"kept: {folder}/events.jsonl, and what each process said")
    elif chosen.folder is None:
        removed(folder)
    for line in not_tried(report):
        print(line)
    print(last_line(report), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
