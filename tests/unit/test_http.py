"""Probes, metrics and mounted routes over a real socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import access
from pipeline.cli.access import Endpoint, running
from pipeline.errors import ConfigError, Fatal, FingerprintMismatch, Refused, StoreUnavailable, as_error, exit_code
from pipeline.observe.connections import Listener
from pipeline.observe.health import Health
from pipeline.observe.http import HttpServer
from pipeline.observe.metrics import READINESS, Metrics
from tests.support.commands import run

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


def test_a_start_that_waits_for_a_dependency_needs_no_restart(health: Health) -> None:
    assert not health.startupz().ok, "it loads, or hangs: nobody knows"
    health.set_ready("broker", False, "no answer")
    assert health.startupz().ok
    assert not health.readyz().ok
    health.set_ready("broker", True, "")
    assert not health.startupz().ok
    health.set_started()
    assert health.startupz().ok


@pytest.mark.parametrize("seconds", [30.0, 0.0])
def test_what_was_asked_before_the_end_is_answered_if_there_is_time(server: HttpServer, seconds: float) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def slow(body: Mapping[str, Any]) -> str:
        begun.set()
        goes_on.wait(30)
        return "answered"

    server.mount("POST", "/search", slow)
    answers: list[object] = []

    def asking() -> None:
        try:
            answers.append(ask(server, "POST", "/search", b"{}"))
        except (OSError, http.client.HTTPException):
            answers.append(None)

    client = threading.Thread(target=asking)
    client.start()
    assert begun.wait(30)
    closing = threading.Thread(target=lambda: server.close(seconds))
    closing.start()
    # Nobody is let in any more, while the one who was is still waited for
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
        except OSError:
            break
    else:
        pytest.fail("it listens on")
    if not seconds:
        client.join(30)
    goes_on.set()
    client.join(30)
    closing.join(30)
    assert answers == [(200, "answered") if seconds else None]


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


def test_metrics_say_what_a_process_waits_for_as_of_the_scrape(server: HttpServer, health: Health) -> None:
    def waiting() -> set[str]:
        text = ask(server, "GET", "/metrics")[1]
        assert len(re.findall(r"^vectide_dependency_ready\{", text, re.MULTILINE)) == len(READINESS)
        assert ("vectide_ready 1.0" in text) == health.readyz().ok
        return set(re.findall(r'vectide_dependency_ready\{dependency="(\w+)"\} 0.0', text))

    assert waiting() == {"start"}
    health.set_started()
    assert waiting() == set()
    for part in ("broker.chunk.poll.g1", "broker", "store.embed.flush.g1", "source.docs", "schema.embed.g1", "state"):
        health.set_ready(part, False, "away")
    assert waiting() == {"broker", "store", "source", "schema", "state"}
    health.set_ready("broker", True, "")
    assert "broker" in waiting(), "another part of it waits still"
    health.set_ready("broker.chunk.poll.g1", True, "")
    assert "broker" not in waiting()


def test_every_part_that_health_is_told_of_is_a_label(health: Health) -> None:
    """As the code names them; a part that no label knows would be ready in every metric."""
    named = set()
    for folder in ("pipeline", "connectors"):
        for path in (Path(__file__).parents[2] / folder).rglob("*.py"):
            text = path.read_text()
            named |= set(re.findall(r'set_ready\(\s*f?"(\w+)', text))
            named |= set(re.findall(r'until_done\(\s*"(\w+)"', text))
            named |= set(re.findall(r'_part = f"(\w+)', text))
    assert {"broker", "store", "source", "generation", "search", "schema", "state"} <= named, "they are found at all"
    assert named <= set(READINESS)


def test_a_route_answers_json_with_json(server: HttpServer) -> None:
    server.mount("POST", "/search", lambda body: {"asked": body["query"]})
    assert ask(server, "POST", "/search", b'{"query": "gr\xc3\xb6\xc3\x9fe"}') == (200, {"asked": "größe"})
    assert ask(server, "GET", "/search")[0] == 404


@pytest.mark.parametrize("body", [b"{", b"[1]", b"\xff", b'{"x": ' + b"[" * 50_000, b"[" * 50_000])
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


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), ValueError("x"), RecursionError("x"), IndexError()])
def test_a_bug_in_a_route_is_ours_and_in_the_log(
    server: HttpServer, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def route(_: Mapping[str, Any]) -> None:
        raise error

    server.mount("POST", "/search", route)
    status, answer = ask(server, "POST", "/search", b"{}")
    assert (status, answer["code"]) == (500, 1)
    assert "see the log of this process" in answer["error"]
    (record,) = caplog.records
    assert (record.levelname, record.path) == ("ERROR", "/search")  # type: ignore[attr-defined]
    assert record.exc_info is not None


def test_a_port_that_is_taken_is_a_configuration_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}"):
            HttpServer("127.0.0.1", port, None, Health(), Metrics())


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid"])
def test_a_host_that_is_not_this_machine_is_a_configuration_error_that_names_it(host: str) -> None:
    with pytest.raises(ConfigError, match=rf"http\.host = '{host}'"):
        HttpServer(host, 0, "token", Health(), Metrics())


def open_server(token: str | None, host: str = "0.0.0.0") -> HttpServer:
    server = HttpServer(host, 0, token, Health(), Metrics())
    server.start()
    return server


def test_without_a_token_other_machines_get_probes_and_metrics_and_nothing_can_be_mounted() -> None:
    server = open_server(None)
    try:
        for path, status in (("/livez", 200), ("/readyz", 503), ("/startupz", 503), ("/metrics", 200)):
            assert ask(server, "GET", path, Host="vectide-embed-0.example:9090")[0] == status
        with pytest.raises(ConfigError, match=r"http\.token"):
            server.mount("POST", "/search", lambda _: {})
        assert ask(server, "POST", "/search", b"{}")[0] == 404
    finally:
        server.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_with_a_token_routes_need_it_wherever_they_are_asked_and_probes_do_not(host: str) -> None:
    server = open_server("s3cret", host)
    server.mount("GET", "/status", lambda _: {"fine": True})
    server.mount("GET", "/instance", lambda _: {"instance": "i"}, public=True)
    try:
        assert ask(server, "GET", "/livez")[0] == 200
        assert ask(server, "GET", "/metrics")[0] == 200
        assert ask(server, "GET", "/instance") == (200, {"instance": "i"})
        for wrong in ("", "Bearer", "Bearer s3cre", "Bearer s3crets", "Bearer s3cr\xe9t", "Basic s3cret", "s3cret"):
            assert ask(server, "GET", "/status", Authorization=wrong)[0] == 401, wrong
        assert ask(server, "GET", "/status")[0] == 401
        assert ask(server, "GET", "/status", Authorization="Bearer s3cret") == (200, {"fine": True})
        assert ask(server, "GET", "/status", Authorization="bearer  s3cret ") == (200, {"fine": True})
        raw = _raw(server, b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"401 Unauthorized" in raw
        assert b'www-authenticate: bearer realm="vectide"' in raw.lower()
        assert b"s3cret" not in raw
    finally:
        server.close()


def test_a_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a comparison that always says no, the right token is refused: nothing else decides."""
    monkeypatch.setattr("pipeline.observe.http.hmac.compare_digest", lambda one, other: False)
    server = open_server("s3cret")
    server.mount("GET", "/status", lambda _: {})
    try:
        assert ask(server, "GET", "/status", Authorization="Bearer s3cret")[0] == 401
    finally:
        server.close()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.nip.io", "10.0.0.1", "[2001:db8::1]:80"]
)
def test_a_page_whose_name_was_rebound_to_loopback_gets_nothing(server: HttpServer, host: str) -> None:
    """A browser sends the page's own name as Host, wherever that name leads by now."""
    server.mount("GET", "/status", lambda _: {"documents": "all"})
    for path in ("/status", "/metrics", "/readyz"):
        status, text = ask_as(server, path, Host=host)
        assert status == 403
        assert "documents" not in text


@pytest.mark.parametrize("host", ["localhost", "LocalHost:1", "127.0.0.1:1", "[::1]:1", "127.1.2.3", ""])
def test_loopback_s_own_names_are_answered(server: HttpServer, host: str) -> None:
    server.mount("GET", "/status", lambda _: {"documents": "all"})
    assert ask_as(server, "/status", Host=host)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8080"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_web_page_cannot_post(server: HttpServer, headers: dict[str, str]) -> None:
    """A form of text/plain needs no permission of ours to be sent; what sends it says so."""
    asked: list[object] = []
    server.mount("POST", "/migrate", asked.append)
    assert ask(server, "POST", "/migrate", b'{"action": "retire"}', **headers)[0] == 403
    assert asked == []
    assert ask(server, "POST", "/migrate", b'{"action": "retire"}', **{"Sec-Fetch-Site": "none"})[0] == 200


def test_with_a_token_any_name_and_any_origin_may_ask() -> None:
    """A page cannot know the token; and a proxy before vectide has a name of its own."""
    server = open_server("s3cret", "127.0.0.1")
    server.mount("GET", "/status", lambda _: {})
    try:
        headers = {"Host": "search.example", "Origin": "https://search.example"}
        assert ask(server, "GET", "/status", **headers)[0] == 401
        assert ask(server, "GET", "/status", Authorization="Bearer s3cret", **headers)[0] == 200
    finally:
        server.close()


def test_a_body_or_a_head_over_its_limit_is_refused_without_being_read(server: HttpServer) -> None:
    server.mount("POST", "/search", lambda body: {"size": len(body["query"])})
    fits = json.dumps({"query": "x" * 60_000}).encode()
    assert ask(server, "POST", "/search", fits) == (200, {"size": 60_000})
    declared = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n{"
    assert b"413 Request Entity Too Large" in _raw(server, declared)
    chunked = b"POST /search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b"413 Request Entity Too Large" in _raw(server, chunked + b"20000\r\n" + b" " * 0x20000 + b"\r\n0\r\n\r\n")
    head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n"
    assert b"431" in _raw(server, head)


@pytest.mark.parametrize("slowly", [b"GET /livez HTTP/1.1\r\nX: ", b"\r\n", b""])
def test_a_client_that_sends_a_byte_now_and_then_is_cut_off(slowly: bytes) -> None:
    """Given a time for a whole request to arrive, a client that never lets silence last as long is closed too."""
    bound = socket.create_server(("127.0.0.1", 0))
    server = Listener(lambda environ, start: [], bound, (), request_seconds=1)
    server.start()
    try:
        with socket.create_connection(bound.getsockname()) as client:
            client.settimeout(0.2)
            deadline = time.monotonic() + 30
            while not _closed(client, slowly[:1] if slowly.startswith(b"G") else slowly):
                assert time.monotonic() < deadline, "still open"
    finally:
        server.close()


def test_a_probe_is_answered_while_every_other_thread_is_busy(server: HttpServer) -> None:
    """Given more searches than there are threads, all of which wait, then the process still counts as alive."""
    release, busy = threading.Event(), threading.Semaphore(0)

    def slow(_: Mapping[str, Any]) -> dict[str, Any]:
        busy.release()
        release.wait(30)
        return {}

    server.mount("POST", "/search", slow)
    threads = [threading.Thread(target=ask, args=(server, "POST", "/search", b"{}")) for _ in range(12)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            assert busy.acquire(timeout=30)
        for path in ("/livez", "/readyz", "/metrics"):
            assert ask(server, "GET", path)[0] in (200, 503)
    finally:
        release.set()
        for thread in threads:
            thread.join(30)


def test_neither_a_probe_nor_an_error_says_the_password_of_an_address(server: HttpServer, health: Health) -> None:
    address = "amqps://me:hunter2@host"

    def route(_: Mapping[str, Any]) -> None:
        raise StoreUnavailable(f"no answer from {address}")

    server.mount("GET", "/status", route)
    health.set_ready("source.mail", False, f"no answer from {address}")
    for path in ("/status", "/readyz"):
        status, answer = ask(server, "GET", path)
        assert status == 503
        assert "hunter2" not in json.dumps(answer)
        assert "host" in json.dumps(answer)


def test_an_answer_is_neither_kept_nor_taken_for_a_page(server: HttpServer) -> None:
    server.mount("GET", "/status", lambda _: {"text": "<script>"})
    raw = _raw(server, b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    for header in (b"Content-Type: application/json", b"Cache-Control: no-store", b"X-Content-Type-Options: nosniff"):
        assert header in raw


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
@pytest.mark.parametrize("command", [("up", "."), ("serve",)], ids=" ".join)
def test_commands_that_answer_questions_refuse_to_be_open_before_they_begin(
    tmp_path: Path, command: tuple[str, ...], host: str
) -> None:
    kafka = 'broker = "kafka"\nstore = "qdrant"\n' if command == ("serve",) else ""
    (tmp_path / "vectide.toml").write_text(f'{kafka}[http]\nhost = "{host}"\n')
    done = run(tmp_path, *command)
    assert done.code == 2
    assert "http.token" in done.err
    assert list(tmp_path.iterdir()) == [tmp_path / "vectide.toml"], "nothing was begun"


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"),
        ("::1", "[::1]"),
        ("192.0.2.7", "192.0.2.7"), ("2001:db8::1", "[2001:db8::1]"),
    ],
)  # fmt: skip
def test_a_process_says_where_it_really_listens_and_only_http_is_asked(tmp_path: Path, host: str, near: str) -> None:
    endpoint = Endpoint(tmp_path)
    endpoint.announce(host, 8080)
    described = json.loads((tmp_path / "endpoint.json").read_text())
    assert described["url"] == f"http://{near}:8080"
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"instance": described["instance"]}))
    (tmp_path / "endpoint.json").write_text(json.dumps({**described, "url": f"file://{secret}?"}))
    assert running(tmp_path) is None


@pytest.mark.parametrize("pid", [None, 2**22 + 1, -1, "a"], ids=["alive", "gone", "negative", "no number"])
def test_who_is_slow_and_alive_is_knocked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: object
) -> None:
    """A busy process has its state all the same: to open it beside it would be refused."""
    pid = os.getpid() if pid is None else pid
    monkeypatch.setattr(access, "_KNOCK_SECONDS", 0.2)
    knocks: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        described = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}", "instance": "x", "pid": pid}
        (tmp_path / "endpoint.json").write_text(json.dumps(described))

        def answer_from_the_third_on() -> None:
            body = b'{"instance": "x"}'
            with contextlib.suppress(OSError):  # the test is over
                while True:
                    knocks.append(silent.accept()[0])
                    if len(knocks) >= 3:
                        knocks[-1].recv(65_536)
                        knocks[-1].sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

        threading.Thread(target=answer_from_the_third_on, daemon=True).start()
        if pid == os.getpid():
            assert running(tmp_path) == described["url"]
            assert len(knocks) >= 3
        else:
            assert running(tmp_path) is None
            assert len(knocks) <= 1
    for one in knocks:
        one.close()


def test_who_is_silent_for_ever_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_KNOCK_SECONDS", 0.05)
    monkeypatch.setattr(access, "_ASK_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        described = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}", "instance": "x", "pid": os.getpid()}
        (tmp_path / "endpoint.json").write_text(json.dumps(described))
        assert running(tmp_path) is None


def ask_as(server: HttpServer, path: str, **headers: str) -> tuple[int, str]:
    """Without the client's own Host."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.putrequest("GET", path, skip_host=True)
        for name, value in headers.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def _raw(server: HttpServer, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        with suppress(ConnectionError):  # refused before all of it was taken
            client.sendall(sent)
        received = b""
        with suppress(ConnectionError):
            while part := client.recv(65536):
                received += part
                if b"\r\n\r\n" in received and b"413" in received:
                    break
        return received


def _closed(client: socket.socket, data: bytes) -> bool:
    try:
        if data:
            client.send(data)
        return client.recv(1024) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_a_server_that_was_never_started_closes() -> None:
    HttpServer("localhost", 0, None, Health(), Metrics()).close()
