"""A site on this machine, which a test writes and can tell to misbehave."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import quote
from xml.sax.saxutils import escape

_SAFE: Final = "/:@!$&'()*+,;=~?%"


@dataclass
class Answer:
    """What is answered for one target."""

    body: bytes = b""
    type: str = "text/html; charset=utf-8"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    etag: bool = True
    """With an entity tag, and 304 for who has it."""
    at: float = field(default_factory=time.time)
    write: Callable[[BaseHTTPRequestHandler], None] | None = None
    """Answers in its own way."""


class Website:
    """Answers by target, percent-encoded; sitemap.xml names all that are ``listed``."""

    USER, PASSWORD = "robot", "s3cret/with:signs@"

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.listed: dict[str, str] = {}
        """Targets by what sitemap.xml says of them; empty: nothing."""
        self.fault: str | None = None
        self.password = False
        self.requests: Counter[str] = Counter()
        self.connections = 0
        # Bounded: a certification weighs the process that the site is in.
        self.seen: deque[tuple[str, Mapping[str, str]]] = deque(maxlen=1000)
        self._mutex = threading.Lock()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else the second packet of an answer waits 40 ms for the first

            def log_message(self, format: str, *of: object) -> None:
                pass

            def do_GET(self) -> None:
                site._answer(self)

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass  # who asked has gone

            def get_request(self) -> tuple[socket.socket, object]:
                site.connections += 1
                return super().get_request()

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.authority = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.authority}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    # -------------------------------------------------------------------------- for tests

    def put(self, target: str, body: str | bytes, *, listed: bool = True, lastmod: str = "", **of: object) -> Answer:
        """A page at a target, in the sitemap unless said otherwise."""
        target = quote(target, safe=_SAFE)
        made = Answer(body if isinstance(body, bytes) else body.encode(), **of)  # type: ignore[arg-type]
        with self._mutex:
            self.answers[target] = made
            if listed:
                self.listed[target] = lastmod
        return made

    def page(self, target: str, text: str, head: str = "", **of: object) -> Answer:
        """A page of HTML."""
        html = f"<!doctype html><html lang=en><head><title>T</title>{head}</head><body><p>{text}</p></body></html>"
        return self.put(target, html, **of)  # type: ignore[arg-type]

    def redirect(self, target: str, to: str, status: int = 301, **of: object) -> Answer:
        """A target that leads elsewhere."""
        return self.put(target, b"", status=status, headers={"Location": to}, **of)  # type: ignore[arg-type]

    def remove(self, target: str, *, listed: bool = False) -> None:
        """No page there any more: 404."""
        target = quote(target, safe=_SAFE)
        with self._mutex:
            self.answers.pop(target, None)
            if not listed:
                self.listed.pop(target, None)

    def asked(self, target: str) -> int:
        """How often it was asked for."""
        return self.requests[quote(target, safe=_SAFE)]

    def headers_of(self, target: str) -> Mapping[str, str]:
        """Those of the last request for it, by name in lower case."""
        return next(headers for one, headers in reversed(self.seen) if one == quote(target, safe=_SAFE))

    def sitemap(self) -> bytes:
        """What sitemap.xml says now."""
        with self._mutex:
            listed = dict(self.listed)
        rows = (
            f"<url><loc>{escape(self.url + target)}</loc>{f'<lastmod>{at}</lastmod>' if at else ''}</url>"
            for target, at in listed.items()
        )
        body = "".join(rows)
        return (
            f'<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{body}</urlset>'.encode()
        )

    # ----------------------------------------------------------------------------- serving

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        target = request.path
        with self._mutex:
            self.requests[target] += 1
            self.seen.append((target, {name.lower(): value for name, value in request.headers.items()}))
            found = self.answers.get(target)
        match self.fault:
            case "down":
                request.close_connection = True
                return
            case "slow":
                time.sleep(0.5)
            case "garbled":
                found = Answer(b"<html><body><h1>It works!</h1></body></html>", etag=False)
        expected = "Basic " + base64.b64encode(f"{self.USER}:{self.PASSWORD}".encode()).decode()
        if self.fault == "unauthorised" or (self.password and request.headers.get("Authorization") != expected):
            found = Answer(b"", status=401, headers={"WWW-Authenticate": 'Basic realm="site"'})
        elif found is None and target == "/sitemap.xml":
            found = Answer(self.sitemap(), "application/xml")
        found = found or Answer(b"<h1>Not found</h1>", status=404)
        if found.write is not None:
            found.write(request)
            return
        headers = {"Content-Type": found.type, **found.headers}
        status, body = found.status, found.body
        if status == 200 and found.etag:
            headers["ETag"] = f'"{blake2b(body, digest_size=8).hexdigest()}"'
            headers["Last-Modified"] = formatdate(found.at, usegmt=True)
            if request.headers.get("If-None-Match") == headers["ETag"]:
                status, body = 304, b""
        request.send_response(status)
        for name, value in headers.items():
            if value:
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
