"""``python -m tests.bench``: all benchmarks in one run, as tables and as build/bench.json.

On 2 cores about an hour and a half. ``--documents 200 --rounds 1 --memory-minutes 2
--poisoned 1000 --verified-chunks 20000`` shows that it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.bench import extraction, freshness, labelled, memory, migration, poison, push, room, throughput, verification
from tests.bench.setting import machine
from tests.support.kafka import Missing, check


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--documents", type=int, default=2000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--edits", type=int, default=150)
    options.add_argument("--memory-minutes", type=float, default=30.0)
    options.add_argument("--poisoned", type=int, default=10_000, help="documents, a tenth of them poison")
    options.add_argument("--verified-chunks", type=int, default=1_000_000)
    chosen = options.parse_args()
    try:
        check()
        kafka = True
    except Missing as missing:
        print(f"without Kafka: {missing}")
        kafka = False
    print(machine(), flush=True)
    result: dict[str, Any] = {"machine": machine(), "at": time.strftime("%Y-%m-%d")}
    result["throughput"] = throughput.measure(chosen.documents, chosen.rounds, kafka=kafka)
    _show("throughput", result["throughput"])
    result["extraction"] = extraction.measure(3.0)
    _show("extraction", result["extraction"])
    result["freshness, ms"] = freshness.all_of(chosen.edits, kafka=kafka)
    _show("freshness, ms from save to searchable", result["freshness, ms"])
    result["push"] = {
        name: figures
        for over in ([False, True] if kafka else [False])
        for name, figures in push.measure(500, kafka=over).items()
    }
    _show("push API: by how many ask at once", result["push"])
    result["migration"] = migration.measure(min(200, chosen.documents), chosen.rounds, chosen.edits)
    _show("migration", result["migration"])
    if data := os.environ.get("VECTIDE_BENCH_DATA"):
        for name in ("cranfield", "scifact"):
            result[f"migration of {name}"] = labelled.there_and_back(Path(data) / name)
            _show(f"migration of {name}", result[f"migration of {name}"])
    result["poison"] = poison.measure(chosen.poisoned, chosen.poisoned // 10, chosen.rounds, 1_000, 1, {})
    _show("poison: a tenth of the documents", result["poison"])
    result["verification"] = verification.measure(chosen.verified_chunks, 50, seed=1)
    _show("verification", result["verification"])
    result["room"] = room.measure(min(3_000, 2 * chosen.documents))
    _show("room: what documents, chunks and points take", result["room"])
    result["memory"] = memory.measure(chosen.memory_minutes, "hashing", 300, 10.0, 1)
    _show("memory of `up`, edited all the time", result["memory"])
    Path("build").mkdir(exist_ok=True)
    Path("build/bench.json").write_text(json.dumps(result, indent=1))
    print("\nedits: tokens embedded against the least possible", flush=True)
    sys.exit(subprocess.run([sys.executable, "-m", "tests.bench.edits"], check=False).returncode)


def _show(title: str, values: dict[str, Any]) -> None:
    print(f"\n{title}")
    for name, value in values.items():
        print(f"  {name:<34} {value}", flush=True)


if __name__ == "__main__":
    main()
