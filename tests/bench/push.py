"""The push API: from a request to the log, and documents a second, by how many senders ask at once.

``python -m tests.bench.push`` measures a log on this disk, ``--kafka`` a real Kafka. Senders are another process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.ports import Broker
from tests.contract.brokers import kafka_broker
from tests.support.kafka import KafkaServer
from tests.support.pushed import pushing
from tests.support.sources import Documents

_BYTES = 2_000
_WARM = 50


async def _send(url: str, count: int, at_once: int, first: int) -> list[float]:
    """Seconds of each request."""
    numbers = iter(range(first, first + count))
    took: list[float] = []

    async def sender(client: httpx.AsyncClient) -> None:
        for number in numbers:
            started = time.perf_counter()
            answer = await client.put(f"/documents/{number}", json={"text": f"{number} " + "x" * _BYTES})
            took.append(time.perf_counter() - started)
            assert answer.status_code == 202, answer.text

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(*(sender(client) for _ in range(at_once)))
    return took


def _senders(url: str, count: int, at_once: int, first: int) -> None:
    asyncio.run(_send(url, _WARM, at_once, first))
    started = time.perf_counter()
    took = sorted(asyncio.run(_send(url, count, at_once, first + _WARM)))
    whole = time.perf_counter() - started
    print(json.dumps([count / whole, statistics.median(took), took[int(len(took) * 0.95)], took[-1]]))


def measure(documents: int, *, kafka: bool) -> dict[str, dict[str, float]]:
    """By how many ask at once: documents a second, and milliseconds from the request to the log."""
    found: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if kafka:
            server = KafkaServer(folder)
            stack.callback(server.stop)
            server.start()
            broker: Broker = kafka_broker(server)
        else:
            broker = EmbeddedBroker(folder / "log")
        stack.callback(broker.close)
        one = stack.enter_context(pushing(Documents(broker, pipeline="push"), folder / "state"))
        url = f"http://127.0.0.1:{one.source.port}"
        for number, at_once in enumerate((1, 32)):
            arguments = ["--senders", url, str(documents), str(at_once), str(number * (documents + _WARM))]
            began = time.process_time()
            said = subprocess.run(
                [sys.executable, "-m", "tests.bench.push", *arguments], check=True, capture_output=True, text=True
            )
            processor = (time.process_time() - began) / (documents + _WARM)
            rate, median, p95, worst = json.loads(said.stdout)
            found[f"{'Kafka' if kafka else 'embedded'}, {at_once} at once"] = {
                "documents_per_second": round(rate, 1),
                "median_ms": round(1000 * median, 1),
                "p95_ms": round(1000 * p95, 1),
                "worst_ms": round(1000 * worst, 1),
                "processor_ms": round(1000 * processor, 2),
            }
    return found


def main() -> None:
    """Print the figures of docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--kafka", action="store_true")
    parser.add_argument("--senders", nargs=4, metavar=("URL", "COUNT", "AT_ONCE", "FIRST"))
    arguments = parser.parse_args()
    if arguments.senders:
        url, count, at_once, first = arguments.senders
        _senders(url, int(count), int(at_once), int(first))
        return
    for name, figures in measure(arguments.documents, kafka=arguments.kafka).items():
        print(name, json.dumps(figures))


if __name__ == "__main__":
    main()
