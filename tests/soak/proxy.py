"""A small fault proxy between workers and the store, in a process of its own.

``python -m tests.soak.proxy --upstream http://127.0.0.1:PORT``; it prints one ready line.
``POST /_weather {"mode": ..., "share": 0.5, "seconds": 1.0}`` says what goes wrong from now on:

=========  =======================================================================
pass       nothing
429, 503,  this status is answered and nothing is applied
507
slow       every request takes ``seconds`` longer
cut        the connection is cut and nothing is applied
lose       the request is applied, and the connection cut instead of an answer
hang       the request is applied, and the answer comes ``seconds`` too late
=========  =======================================================================

``GET /_weather`` says how often each happened.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from types import FrameType
from urllib.parse import urlsplit

from tests.support.qdrant_server import Server

REFUSALS = ("429", "503", "507")
_UPSTREAM_SECONDS = 60.0


class Proxy(BaseHTTPRequestHandler):
    """One connection of a worker."""

    protocol_version = "HTTP/1.1"
    upstream: tuple[str, int]
    weather: dict[str, object]
    counts: Counter[str]
    rng: random.Random

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._to: http.client.HTTPConnection | None = None

    def finish(self) -> None:
        if self._to is not None:
            self._to.close()
        super().finish()

    def do_GET(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/_weather":
            if body:
                self.weather.clear()
                self.weather.update(json.loads(body))
            return self._answer(200, json.dumps(self.counts).encode())
        mode = str(self.weather.get("mode", "pass"))
        if mode != "pass" and self.rng.random() >= float(str(self.weather.get("share", 1.0))):
            mode = "pass"
        seconds = float(str(self.weather.get("seconds", 0.0)))
        if mode != "pass":
            self.counts[mode] += 1
        if mode in REFUSALS:
            return self._answer(int(mode), json.dumps({"status": {"error": "refused by the soak"}, "time": 0}).encode())
        if mode == "slow":
            time.sleep(seconds)
        if mode == "cut":
            return self._cut()
        try:
            status, answer = self._forwarded(body)
        except (OSError, http.client.HTTPException):
            return self._cut()
        if mode == "hang":
            time.sleep(seconds)
        if mode in ("lose", "hang"):
            return self._cut()
        return self._answer(status, answer)

    def _forwarded(self, body: bytes) -> tuple[int, bytes]:
        if self._to is None:
            self._to = http.client.HTTPConnection(*self.upstream, timeout=_UPSTREAM_SECONDS)
        passed = ("content-type", "api-key")
        headers = {name: value for name, value in self.headers.items() if name.lower() in passed}
        try:
            self._to.request(self.command, self.path, body, headers)
            answer = self._to.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self._to.close()
            self._to = None
            raise

    def _answer(self, status: int, body: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if status == 429:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # a killed worker does not wait for its answer

    def _cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    parts = urlsplit(arguments.upstream)
    bound = {
        "upstream": (parts.hostname, parts.port),
        "weather": {},
        "counts": Counter(),
        "rng": random.Random(arguments.seed),
    }
    server = Server(("127.0.0.1", 0), type("Bound", (Proxy,), bound))

    def stop(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    print(f"proxy ready on http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
