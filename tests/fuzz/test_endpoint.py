"""Whatever is sent to a running pipeline's endpoint, or stands where one is announced: an answer, and no end."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.access import _Following, running
from pipeline.cli.assembly import opened
from pipeline.cli.given import folder_sources
from pipeline.cli.index import Index
from pipeline.config import load
from pipeline.errors import VectideError
from pipeline.observe.http import HttpServer
from tests.fuzz.bytes import ODD, changed_json, nested
from tests.fuzz.settings import FUZZ
from tests.support.workers import Working

ROUTES = ("/search", "/dead-letters", "/migrate", "/erasure", "/verify")
SOUND: list[dict[str, Any]] = [
    {"query": "what", "top": 3, "filter": ["source=docs"], "by_document": True},
    {"action": "list", "ids": []},
    {"action": "show", "ids": ["g/chunk/t/0/1"]},
    {"action": "drop", "ids": []},
    {"action": "replay", "ids": []},
    {"action": "status"},
    {"action": "history"},
    {"action": "throttle", "share": 0.5, "generation": "g"},
    {"action": "task", "id": "x"},
    {"action": "pause", "generation": "g"},
    {"action": "cutover", "generation": "g", "transitions": 1, "force": "why"},
    {"action": "explain", "key": "docs:a.md"},
    {"action": "start", "sample": 3, "fix": False, "full": False},
    {"action": "plan", "model": "hashing", "model_settings": {"dimension": 64}, "price": 0.1},
]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """A whole pipeline behind a real socket."""
    folder = tmp_path_factory.mktemp("endpoint")
    documents = folder / "docs"
    documents.mkdir()
    for number in range(3):
        (documents / f"d{number}.md").write_text(f"# Title {number}\n\nSome text {number}.\n")
    config = load(None, {}, state=folder / "state", model__provider="hashing", model__name="hashing")
    with opened(config, "fuzz") as parts:
        index = Index(parts, folder_sources((documents,)), threading.Event())
        server = HttpServer("127.0.0.1", 0, None, parts.health, parts.metrics, index.operations.routes())
        server.start()
        index.start()
        try:
            Working().until(lambda: index.collection.count_heads().get("complete", 0) == 3)
            yield server
            index.crew.raise_failure()
        finally:
            server.close()
            index.close()


def post(server: HttpServer, path: str, body: bytes) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def check(server: HttpServer, path: str, body: bytes) -> None:
    status, answer = post(server, path, body)
    assert status in (200, 400, 404, 409, 413, 500, 503), (status, answer)
    if status == 200:
        assert isinstance(answer, dict)
    elif status == 500:
        # Only what is fatal, and says what to do: nothing that came out of our code by accident
        assert "see the log of this process" not in answer["error"], answer
    else:
        assert answer["error"]


@given(st.data(), st.sampled_from(ROUTES))
@FUZZ
def test_changed_bodies(endpoint: HttpServer, data: st.DataObject, path: str) -> None:
    check(endpoint, path, data.draw(changed_json(data.draw(st.sampled_from(SOUND)))))


@given(st.sampled_from(ROUTES), st.sampled_from(SOUND), st.data())
@FUZZ
def test_odd_arguments(endpoint: HttpServer, path: str, sound: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*sound, "model", "generation", "settings", "key", "source", "timeout"]))
    check(endpoint, path, json.dumps({**sound, name: data.draw(st.sampled_from(ODD))}).encode())


@pytest.mark.parametrize("path", ROUTES)
def test_hostile_bodies(endpoint: HttpServer, path: str) -> None:
    for body in (
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        nested(b"[", b"")[:60_000],
        nested(b'{"a":', b"")[:60_000],
        b"9" * 60_000,
    ):
        check(endpoint, path, body)
    check(endpoint, path, b'{"query": "' + b"word " * 12_000 + b'"}')
    assert post(endpoint, "/search", b'{"query": "title"}')[0] == 200


# -------------------------------------------------------------- where an endpoint is announced


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Another program that has the port by now; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):  # the end
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(65_536)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


STRANGE = {
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "nothing": b"",
    "half a header": b"HTTP/1.1 200 OK\r\nContent-Len",
    "less than it promised": b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"instance": "y"}',
    "no length": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
    "a page": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
    "nesting": b"HTTP/1.1 200 OK\r\n\r\n" + nested(b"[", b"]"),
    "another instance": b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"instance": "y"}',
    "a redirection into a file": b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
    "an error with a strange code": b'HTTP/1.1 500 X\r\nContent-Length: 34\r\n\r\n{"error": "x", "code": Infinity   }',
    "an error that nests": b"HTTP/1.1 500 X\r\n\r\n" + nested(b"[", b"]"),
    "chunks that are none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("name", STRANGE)
def test_another_program_behind_the_port_is_nobody(tmp_path: Path, name: str) -> None:
    with answering(STRANGE[name]) as url:
        (tmp_path / "endpoint.json").write_text(json.dumps({"url": url, "instance": "x"}))
        assert running(tmp_path) is None
        with suppress(VectideError):  # or it is JSON after all
            _Following(tmp_path, url, None)("POST", "/search", {})


@given(changed_json({"url": "http://127.0.0.1:1", "instance": "x", "pid": 1}) | st.binary(max_size=60))
@FUZZ
def test_any_announcement(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "endpoint.json").write_bytes(data)
    assert running(folder) is None


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://x/", "http://", "http://[", "http://a b/", "http://127.0.0.1:x", "http://127.0.0.1:99999",
     "http://\x00/", "http://ü:1", "http://127.0.0.1:1/\r\nX: y"],
)  # fmt: skip
def test_strange_addresses(tmp_path: Path, url: str) -> None:
    (tmp_path / "endpoint.json").write_text(json.dumps({"url": url, "instance": "x"}))
    assert running(tmp_path) is None


def test_announcements_that_nest(tmp_path: Path) -> None:
    (tmp_path / "endpoint.json").write_bytes(nested(b"[", b"]"))
    assert running(tmp_path) is None


def test_a_route_that_trips_is_found_out(endpoint: HttpServer) -> None:
    def trips(arguments: Any) -> Any:
        raise IndexError

    endpoint.mount("POST", "/trips", trips)
    with pytest.raises(AssertionError, match="see the log"):
        check(endpoint, "/trips", b"{}")
