"""The process's HTTP server: probes, metrics, and routes that others mount (search, status).

Loopback by default. On another address the mounted routes need ``Authorization: Bearer <token>``;
probes and metrics never do, for those who ask them have no secret.
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import json
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline.errors import UNAVAILABLE, ConfigError, VectideError, exit_code
from pipeline.observe.health import Health, Verdict
from pipeline.observe.metrics import Metrics

#: A query is at most a long paragraph.
_BODY_LIMIT: Final = 64 * 1024
_THREADS: Final = 4
_END_SECONDS: Final = 5.0
_CONNECTIONS: Final = 64
_BACKLOG: Final = 64

#: By exit code; the body has the code as well, so that a command can end with it.
_STATUS: Final = {2: "400 Bad Request", UNAVAILABLE: "503 Service Unavailable", 8: "409 Conflict", 9: "409 Conflict"}

Route = Callable[[Mapping[str, Any]], Any]
"""Takes the JSON body (an empty mapping for GET), returns what becomes the JSON answer."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: str
    body: bytes
    kind: str = "application/json"


class HttpServer:
    """Serves in threads of its own until :meth:`close`.

    Raises:
        ConfigError: the port is taken, the host is wrong, or a token is missing.
    """

    def __init__(
        self,
        host: str,
        port: int,
        token: str | None,
        health: Health,
        metrics: Metrics,
        routes: Mapping[tuple[str, str], Route] | None = None,
    ) -> None:
        import waitress.server

        if not _loopback(host) and not token:
            raise ConfigError(
                f"http.host = {host!r} can be reached from other machines, and there is no http.token",
                "set http.token or http.token_file, or use 127.0.0.1",
            )
        self._token = None if _loopback(host) else token
        self._health = health
        self._metrics = metrics
        self._routes = dict(routes or {})
        # A socket of our own: the server's constructor leaves descriptors behind where it cannot listen.
        self._socket = _listening(host, port)
        self._server = waitress.server.create_server(
            self._application,
            sockets=[self._socket],
            threads=_THREADS,
            connection_limit=_CONNECTIONS,
            max_request_body_size=_BODY_LIMIT,
            ident=None,
            clear_untrusted_proxy_headers=True,
        )
        self.port = int(self._socket.getsockname()[1])
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)

    def mount(self, method: str, path: str, route: Route) -> None:
        """Add a route; also while serving."""
        self._routes = {**self._routes, (method, path): route}

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._closing.set()
        self._server.close()
        self._server.task_dispatcher.shutdown(cancel_pending=True, timeout=1)
        if self._thread.ident is not None:
            self._thread.join(_END_SECONDS)

    def _serve(self) -> None:
        try:
            self._server.run()
        except OSError:
            # Closing the listening socket under its select is how this server is stopped.
            if not self._closing.is_set():
                raise

    def _application(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer = self._answer(environ)
        headers = [("Content-Type", answer.kind), ("Content-Length", str(len(answer.body)))]
        start_response(answer.status, headers)
        return [answer.body]

    def _answer(self, environ: Mapping[str, Any]) -> _Answer:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        match (method, path):
            case ("GET", "/livez"):
                return _probe(self._health.livez())
            case ("GET", "/readyz"):
                return _probe(self._health.readyz())
            case ("GET", "/startupz"):
                return _probe(self._health.startupz())
            case ("GET", "/metrics"):
                return _Answer("200 OK", self._metrics.exposition(), "text/plain; version=0.0.4; charset=utf-8")
        route = self._routes.get((method, path))
        if route is None:
            return _error("404 Not Found", f"no route {method} {path}")
        if self._token is not None and not _authorised(environ.get("HTTP_AUTHORIZATION", ""), self._token):
            return _error("401 Unauthorized", "send Authorization: Bearer <http.token>")
        try:
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            arguments = json.loads(body) if body else {}
            if not isinstance(arguments, dict):
                raise ValueError("the body is not a JSON object")
            return _Answer("200 OK", json.dumps(route(arguments)).encode())
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return _error("400 Bad Request", f"{type(error).__name__}: {error}")
        except VectideError as error:
            return _error(_STATUS.get(exit_code(error), "500 Internal Server Error"), str(error), exit_code(error))


def _listening(host: str, port: int) -> socket.socket:
    try:
        # One family: a name with two addresses would give two listeners, on different ports if any will do.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise ConfigError(
                f"http: cannot listen on {host}:{port}: {os.strerror(error.errno)}",
                "another process has that port: set http.port to a free one, or to 0 for any",
            ) from None
        raise ConfigError(f"http.host = {host!r} is no address of this machine", "use 127.0.0.1") from None


def _probe(verdict: Verdict) -> _Answer:
    body = json.dumps({"ok": verdict.ok, "reasons": verdict.reasons}).encode()
    return _Answer("200 OK" if verdict.ok else "503 Service Unavailable", body)


def _error(status: str, detail: str, code: int = 2) -> _Answer:
    return _Answer(status, json.dumps({"error": detail, "code": code}).encode())


def _authorised(header: str, token: str) -> bool:
    return hmac.compare_digest(header.encode(), f"Bearer {token}".encode())


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
