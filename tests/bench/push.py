"""The push API: from a request to the log, and documents a second, by how many senders ask at once.

``python -m tests.bench.push`` measures a log on this disk, ``--kafka`` a real Kafka. Senders are a process of their own.
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


def _measure(broker: Broker, name: str, count: int) -> None:
    documents = Documents(broker, pipeline="push")
    with tempfile.TemporaryDirectory() as folder, pushing(documents, Path(folder)) as one:
        url = f"http://127.0.0.1:{one.source.port}"
        for number, at_once in enumerate((1, 32)):
            arguments = ["--senders", url, str(count), str(at_once), str(number * (count + _WARM))]
            began = time.process_time()
            found = subprocess.run(
                [sys.executable, "-m", "tests.bench.push", *arguments], check=True, capture_output=True, text=True
            )
            seconds = (time.process_time() - began) / (count + _WARM)
            rate, median, p95, worst = json.loads(found.stdout)
            print(
                f"{name}, {at_once} at once: {rate:.0f} documents/s; request to log: median {1000 * median:.1f} ms, "
                f"p95 {1000 * p95:.1f} ms, worst {1000 * worst:.1f} ms; "
                f"processor time {1000 * seconds:.1f} ms a document, senders and broker left out"
            )


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
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if arguments.kafka:
            server = KafkaServer(folder)
            server.start()
            stack.callback(server.stop)
            broker: Broker = kafka_broker(server)
        else:
            broker = EmbeddedBroker(folder / "log")
        stack.callback(broker.close)
        _measure(broker, "Kafka" if arguments.kafka else "embedded", arguments.documents)


if __name__ == "__main__":
    main()
