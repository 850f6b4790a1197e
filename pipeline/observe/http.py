"""The process's HTTP server: probes, metrics, and routes that others mount (search, status).

Loopback by default. With a token the mounted routes need ``Authorization: Bearer <token>``, and on
another address than loopback they are not mounted without one. Probes and metrics never need it:
those who ask them have no secret, and they tell nothing of a document.

Without a token, whoever can connect to loopback may ask, but no web page that is open in a browser
there: a request whose ``Host`` is no loopback name (a page that had its own name resolved to
127.0.0.1) or that a page of another site sent is refused.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pipeline.errors import UNAVAILABLE, ConfigError, VectideError, exit_code
from pipeline.masking import without_passwords
from pipeline.observe.health import Health, Verdict
from pipeline.observe.listening import listening
from pipeline.observe.metrics import READINESS, Metrics

_BACKLOG: Final = 64
_PROBES: Final = ("/livez", "/readyz", "/startupz", "/metrics")
log = logging.getLogger(__name__)

#: Answers hold texts of documents: nobody keeps them, and nobody takes them for a page.
_HEADERS: Final = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")]

#: By exit code; the body has the code as well, so that a command can end with it.
_STATUS: Final = {2: "400 Bad Request", UNAVAILABLE: "503 Service Unavailable", 8: "409 Conflict", 9: "409 Conflict"}

Route = Callable[[Mapping[str, Any]], Any]
"""Takes the JSON body (an empty mapping for GET), returns what becomes the JSON answer. What is wrong with the body is
a ``ConfigError``: any exception that is none of ours is a bug, answered with 500 and logged.
"""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: str
    body: bytes
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Mounted:
    route: Route
    public: bool


class HttpServer:
    """Serves in threads of its own until :meth:`close`.

    Raises:
        ConfigError: the port is taken, the host is wrong, or there are routes and no token for them.
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
        from pipeline.observe.connections import Listener

        self._host = host
        self._token = token
        self._health = health
        self._metrics = metrics
        self._routes: dict[tuple[str, str], _Mounted] = {}
        for (method, path), route in (routes or {}).items():
            self.mount(method, path, route)
        # A socket of our own: the server's constructor leaves descriptors behind where it cannot listen.
        bound = listening(host, port, _BACKLOG, "http.")
        self.port = int(bound.getsockname()[1])
        self._listener = Listener(self._application, bound, _PROBES)

    def mount(self, method: str, path: str, route: Route, *, public: bool = False) -> None:
        """Add a route; also while serving.

        Args:
            method: ``GET`` or ``POST``.
            path: begins with ``/``.
            route: answers.
            public: without the token, on any address.

        Raises:
            ConfigError: other machines could ask it without a token.
        """
        if not public:
            refuse_open(self._host, self._token)
        self._routes = {**self._routes, (method, path): _Mounted(route, public)}

    def start(self) -> None:
        """Begin to answer."""
        self._listener.start()

    def close(self, seconds: float = 0.0) -> None:
        """Accept nothing more; what has been asked by now is answered, if it takes no longer than that."""
        self._listener.close(seconds)

    def _application(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer = self._answer(environ)
        headers = [("Content-Type", answer.kind), ("Content-Length", str(len(answer.body)))]
        start_response(answer.status, [*headers, *_HEADERS, *answer.headers])
        return [answer.body]

    def _answer(self, environ: Mapping[str, Any]) -> _Answer:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if self._token is None and _loopback(self._host) and (why := _foreign(environ)):
            return _error("403 Forbidden", why)
        match (method, path):
            case ("GET", "/livez"):
                return _probe(self._health.livez())
            case ("GET", "/readyz"):
                return _probe(self._health.readyz())
            case ("GET", "/startupz"):
                return _probe(self._health.startupz())
            case ("GET", "/metrics"):
                _show(self._health.readyz(), self._metrics)
                return _Answer("200 OK", self._metrics.exposition(), "text/plain; version=0.0.4; charset=utf-8")
        mounted = self._routes.get((method, path))
        if mounted is None:
            return _error("404 Not Found", f"no route {method} {path}")
        authorisation = environ.get("HTTP_AUTHORIZATION", "")
        if not mounted.public and self._token is not None and not _authorised(authorisation, self._token):
            refused = _error("401 Unauthorized", "this vectide asks for Authorization: Bearer <its http.token>")
            return replace(refused, headers=(("WWW-Authenticate", 'Bearer realm="vectide"'),))
        try:
            arguments = _arguments(environ)
        except (ValueError, RecursionError) as error:
            return _error("400 Bad Request", f"{type(error).__name__}: {error}")
        try:
            return _Answer("200 OK", json.dumps(mounted.route(arguments)).encode())
        except VectideError as error:
            return _error(_STATUS.get(exit_code(error), "500 Internal Server Error"), str(error), exit_code(error))
        except Exception as error:  # ours to mend; whoever asked learns that it is not theirs
            log.exception("a request failed", extra={"path": path})
            return _error("500 Internal Server Error", f"{type(error).__name__}, see the log of this process", 1)


def _arguments(environ: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body, as a JSON object.

    Raises:
        ValueError, RecursionError: it is none, or nests too deep.
    """
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    arguments = json.loads(body) if body else {}
    if not isinstance(arguments, dict):
        raise ValueError("the body is not a JSON object")
    _ = repr(arguments)  # routes show and compare it: where it nests too deep for that, it is the caller's mistake
    return arguments


def _probe(verdict: Verdict) -> _Answer:
    body = json.dumps({"ok": verdict.ok, "reasons": verdict.reasons}).encode()
    return _Answer("200 OK" if verdict.ok else "503 Service Unavailable", body)


def _show(verdict: Verdict, metrics: Metrics) -> None:
    """Readiness as of now; parts are named after what they wait for: ``broker.chunk.poll.g1``."""
    metrics.ready.set(verdict.ok)
    waiting = {part.partition(".")[0] for part in verdict.reasons}
    for dependency in READINESS:
        metrics.dependency_ready.labels(dependency).set(dependency not in waiting)


def _error(status: str, detail: str, code: int = 2) -> _Answer:
    return _Answer(status, json.dumps({"error": without_passwords(detail), "code": code}).encode())


def refuse_open(host: str, token: str | None) -> None:
    """Raise unless only those who may ask routes can.

    Raises:
        ConfigError: they can be reached from other machines, and there is no token.
    """
    if not _loopback(host) and not token:
        raise ConfigError(
            f"http.host = {host!r} can be reached from other machines, and there is no http.token",
            "set http.token or http.token_file, or use 127.0.0.1",
        )


def _authorised(header: str, token: str) -> bool:
    scheme, _, given = header.partition(" ")
    # A header's bytes reach us as Latin-1, whatever they are.
    same = hmac.compare_digest(given.strip().encode("latin-1"), token.encode())
    return same and scheme.lower() == "bearer"


def _foreign(environ: Mapping[str, Any]) -> str:
    """Why a request can only come from a web page of somebody else; empty if it need not."""
    host = environ.get("HTTP_HOST", "")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if host and not _loopback(name.strip("[]").lower()):
        return f"the request is for {host!r}, which is not this machine's loopback: set http.token to serve other names"
    if "HTTP_ORIGIN" in environ or environ.get("HTTP_SEC_FETCH_SITE", "none") != "none":
        return "a web page may not ask this: set http.token, and send it"
    return ""


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
