"""Probes, metrics and mounted routes over a real socket."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from pipeline.errors import ConfigError, Fatal, FingerprintMismatch, Refused, StoreUnavailable, as_error, exit_code
from pipeline.observe.health import Health
from pipeline.observe.http import HttpServer
from pipeline.observe.metrics import Metrics

Ask = Callable[..., tuple[int, Any]]


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def server(health: Health) -> Iterator[HttpServer]:
    server = HttpServer("127.0.0.1", 0, None, health, Metrics())
    server.start()
    yield server
    server.close()


def ask(server: HttpServer, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, text.decode() if path == "/metrics" else json.loads(text)
    finally:
        connection.close()


def test_probes_say_what_is_wrong_and_an_outage_is_not_a_reason_to_restart(server: HttpServer, health: Health) -> None:
    assert ask(server, "GET", "/livez") == (200, {"ok": True, "reasons": {}})
    assert ask(server, "GET", "/startupz")[0] == 503
    assert ask(server, "GET", "/readyz") == (503, {"ok": False, "reasons": {"start": "still starting"}})
    health.set_started()
    assert ask(server, "GET", "/readyz")[0] == ask(server, "GET", "/startupz")[0] == 200
    health.set_ready("store", False, "no answer")
    assert ask(server, "GET", "/readyz") == (503, {"ok": False, "reasons": {"store": "no answer"}})
    assert ask(server, "GET", "/livez")[0] == 200


def test_a_loop_that_no_longer_beats_fails_liveness_unless_it_has_ended() -> None:
    health = Health(beat_limit_seconds=-1.0)
    health.beat("embed.poll")
    assert list(health.livez().reasons) == ["embed.poll"]
    health.end("embed.poll")
    assert health.livez().ok


def test_metrics_are_served_and_start_at_zero(server: HttpServer) -> None:
    status, text = ask(server, "GET", "/metrics")
    assert status == 200
    assert 'vectide_dead_letters_total{reason="embedding_failed"} 0.0' in text


def test_a_route_answers_json_with_json(server: HttpServer) -> None:
    server.mount("POST", "/search", lambda body: {"asked": body["query"]})
    assert ask(server, "POST", "/search", b'{"query": "gr\xc3\xb6\xc3\x9fe"}') == (200, {"asked": "größe"})
    assert ask(server, "GET", "/search")[0] == 404


@pytest.mark.parametrize("body", [b"{", b"[1]", b"\xff", b'{"other": 1}', b"[" * 50_000])
def test_a_body_that_makes_no_sense_is_the_caller_s_mistake(server: HttpServer, body: bytes) -> None:
    server.mount("POST", "/search", lambda arguments: arguments["query"])
    status, answer = ask(server, "POST", "/search", body)
    assert status == 400
    assert answer["error"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("top"), 400),
        (StoreUnavailable("away"), 503),
        (Fatal("broken"), 500),
        (Refused("not now"), 409),
        (FingerprintMismatch("another"), 500),
    ],
)
def test_the_class_of_an_error_is_the_status(server: HttpServer, error: Exception, status: int) -> None:
    def route(_: Mapping[str, Any]) -> None:
        raise error

    server.mount("GET", "/status", route)
    assert ask(server, "GET", "/status") == (status, {"error": str(error), "code": exit_code(error)})
    assert type(as_error(exit_code(error), "x")) in type(error).__mro__, "a command ends with the same code"


def test_a_port_that_is_taken_is_a_configuration_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}"):
            HttpServer("127.0.0.1", port, None, Health(), Metrics())


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid"])
def test_a_host_that_is_not_this_machine_is_a_configuration_error_that_names_it(host: str) -> None:
    with pytest.raises(ConfigError, match=rf"http\.host = '{host}'"):
        HttpServer(host, 0, "token", Health(), Metrics())


def test_other_machines_need_a_token() -> None:
    with pytest.raises(ConfigError, match=r"http\.token"):
        HttpServer("0.0.0.0", 0, None, Health(), Metrics())


def test_on_another_address_routes_need_the_token_and_probes_do_not() -> None:
    server = HttpServer("0.0.0.0", 0, "s3cret", Health(), Metrics())
    server.mount("GET", "/status", lambda _: {"fine": True})
    server.start()
    try:
        assert ask(server, "GET", "/livez")[0] == 200
        assert ask(server, "GET", "/metrics")[0] == 200
        assert ask(server, "GET", "/status")[0] == 401
        assert ask(server, "GET", "/status", Authorization="Bearer s3cre")[0] == 401
        assert ask(server, "GET", "/status", Authorization="Bearer s3cr\xe9t")[0] == 401
        assert ask(server, "GET", "/status", Authorization="Bearer s3cret") == (200, {"fine": True})
    finally:
        server.close()


def test_a_server_that_was_never_started_closes() -> None:
    HttpServer("localhost", 0, None, Health(), Metrics()).close()
