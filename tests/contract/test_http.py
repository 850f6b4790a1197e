"""The push API over a real server and a real client: what senders see, and what they must not be able to do."""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from connectors.certification.interruptions import FaultyBroker
from connectors.http.settings import HttpSettings, settings_of
from connectors.http.tokens import Tokens
from connectors.registry import open_source, source_of
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.config import SourceConfig
from pipeline.errors import BrokerUnavailable, ConfigError
from tests.support.certificates import Authority
from tests.support.files import pdf
from tests.support.pushed import LIMIT_BYTES, Pushed, pushed, pushing
from tests.support.sources import Documents, wait_until

ROOT = Path(__file__).parents[2]
SECONDS = 30.0
TOKENS = {"writer": ("write",), "deleter": ("delete",), "reader": ("read",), "all": ("read", "write", "delete")}


@pytest.fixture
def documents() -> Iterator[Documents]:
    with_broker = EmbeddedBroker(None)
    yield Documents(with_broker)
    with_broker.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Pushed, Documents]]:
    """One that many tests use, each with keys of its own."""
    broker = EmbeddedBroker(None)
    documents = Documents(broker)
    patient = {"request_seconds": 55, "receive_seconds": 60}  # a machine that is busy with something else
    with pushing(documents, settings=patient) as one:
        yield one, documents
    broker.close()


def problem(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    said = answer.json()
    assert said["status"] == answer.status_code
    assert said["title"]
    return str(said["type"].removeprefix("urn:vectide:problem:"))


def tokens_file(folder: Path, **more: Any) -> Path:
    lines = []
    for name, scopes in TOKENS.items():
        digest = hashlib.sha256(f"token of {name}".encode()).hexdigest()
        lines.append(f'[tokens.{name}]\nsha256 = "{digest}"\nscopes = {json.dumps(scopes)}')
    lines += [f"sources = {json.dumps(value)}" for value in more.values()]
    file = folder / "tokens.toml"
    file.write_text("\n".join(lines))
    return file


# ------------------------------------------------------------------------------- documents


def test_a_document_through_its_life(shared: tuple[Pushed, Documents]) -> None:
    one, documents = shared
    with one.client() as client:
        body = {"text": "# Title\n\nx", "media_type": "text/markdown", "metadata": {"team": "a"}, "revision": 3}
        created = client.put("/documents/life/a%20b.md", json=body)
        assert created.status_code == 202
        assert created.headers["etag"] == '"3"'
        said = created.json()
        assert said == {
            "key": "life/a b.md", "result": "created", "revision": 3, "version": said["offset"],
            "partition": said["partition"], "offset": said["offset"],
        }  # fmt: skip
        event = documents.now()["life/a b.md"]
        assert event.text == "# Title\n\nx"
        assert event.media_type == "text/markdown"
        assert event.metadata == {"title": "Title", "extractor": "markdown/1", "team": "a"}
        assert client.put("/documents/life%2Fa%20b.md", json=body).status_code == 200, "%2F is a slash"
        known = client.get("/documents/life/a b.md")
        assert {**said, "published_at": known.json()["published_at"]} == {**known.json(), "result": "created"}
        assert problem(client.put("/documents/life/a b.md", json={**body, "text": "y"})) == "revision-taken"
        stale = client.put("/documents/life/a b.md", json={**body, "revision": 2})
        assert (problem(stale), stale.status_code, stale.json()["revision"]) == ("stale-revision", 409, 3)
        patched = client.patch("/documents/life/a b.md", json={"metadata": {"team": None, "n": 1}})
        assert patched.json()["result"] == "changed"
        assert documents.now()["life/a b.md"].metadata == {"title": "Title", "extractor": "markdown/1", "n": 1}
        assert problem(client.delete("/documents/life/a b.md", headers={"If-Match": '"3"'})) == "precondition-failed"
        deleted = client.delete("/documents/life/a b.md", headers={"If-Match": patched.headers["etag"]})
        assert (deleted.status_code, deleted.json()["revision"]) == (202, 5)
        assert "life/a b.md" not in documents.now()
        gone = client.get("/documents/life/a b.md")
        assert (problem(gone), gone.json()["revision"]) == ("not-found", 5)
        assert client.delete("/documents/life/a b.md").status_code == 200
        assert problem(client.patch("/documents/life/a b.md", json={"metadata": {}})) == "not-found"
        assert problem(client.delete("/documents/life/never")) == "not-found"
        body = {"text": "x", "event_time": "2026-01-02T03:04:05Z"}
        assert client.put("/documents/life/new", json=body, headers={"If-None-Match": "*"}).status_code == 202
        assert documents.now()["life/new"].provenance.event_time == 1767323045.0
        assert (
            problem(client.put("/documents/life/new", json=body, headers={"If-None-Match": "*"}))
            == "precondition-failed"
        )
    assert one.sample("push_requests_total", source="crm", status="409") == 2


@pytest.mark.parametrize(
    ("kind", "content", "text", "media_type"),
    [
        ("text/plain", b"plain", "plain", "text/plain"),
        ("text/plain; charset=iso-8859-1", "ümlaut".encode("latin-1"), "ümlaut", "text/plain"),
        ("text/html; charset=utf-8", "<h1>Ü</h1><p>x".encode(), "# Ü\n\nx\n", "text/markdown"),
        ("text/html;charset=UTF-8", '<meta charset="windows-1252"><p>Ü'.encode(), "Ü\n", "text/markdown"),
        ("TEXT/Markdown", b"# a", "# a", "text/markdown"),
        ("text/csv", b"a,b\n1,2\n", None, "text/markdown"),
        ("application/pdf", None, None, None),
        ("application/octet-stream", b"# by the key's suffix", "# by the key's suffix", "text/markdown"),
    ],
)
def test_a_raw_body_is_read_as_its_content_type_says(
    shared: tuple[Pushed, Documents], kind: str, content: bytes | None, text: str | None, media_type: str | None
) -> None:
    one, documents = shared
    content = pdf([["of a page"]]) if content is None else content
    key = f"raw/{hashlib.sha256(kind.encode()).hexdigest()[:8]}.md"
    with one.client() as client:
        answer = client.put(f"/documents/{key}?revision=4", content=content, headers={"Content-Type": kind})
        assert answer.status_code == 202, answer.text
        event = documents.now()[key]
        assert event.text is not None
        if text is not None:
            assert event.text == text
        else:
            assert "of a page" in event.text or "| a | b |" in event.text
        assert media_type is None or event.media_type == media_type
        if kind == "application/pdf":
            body = {"content": base64.b64encode(content).decode(), "media_type": kind}
            assert client.put("/documents/raw/y", json=body).status_code == 202
            assert documents.now()["raw/y"].metadata["source_media_type"] == kind


PUT = {"text": "x"}


@pytest.mark.parametrize(
    ("body", "said", "where"),
    [
        ({}, "invalid-document", "text or content"),
        ({"text": "x", "content": "eA=="}, "invalid-document", "text or content"),
        ({"content": "eA=="}, "invalid-document", "media_type"),
        ({"content": "no base64!", "media_type": "text/plain"}, "invalid-document", "$.content"),
        ({**PUT, "revision": -1}, "invalid-document", "$.revision"),
        ({**PUT, "revision": "7"}, "invalid-document", "$.revision"),
        ({**PUT, "revision": 1 << 62}, "invalid-document", "$.revision"),
        ({**PUT, "event_time": 1e12}, "invalid-document", "event_time"),
        ({**PUT, "event_time": "yesterday"}, "invalid-document", "$.event_time"),
        ({**PUT, "metadata": {"a": {"b": 1}}}, "invalid-document", "$.metadata.a"),
        ({**PUT, "metadata": {"extractor": "x"}}, "invalid-document", "$.metadata.extractor"),
        ({**PUT, "metadata": {"a b": "x"}}, "invalid-document", "$.metadata"),
        ({**PUT, "metadata": {"a": "x" * 5000}}, "invalid-document", "$.metadata.a"),
        ({**PUT, "metadata": {f"n{n}": 1 for n in range(65)}}, "invalid-document", "$.metadata"),
        ({**PUT, "metadata": {f"n{n}": "x" * 4000 for n in range(20)}}, "invalid-document", "$.metadata"),
        ({**PUT, "unknown": 1}, "invalid-document", "unknown"),
        ({**PUT, "media_type": "image/png"}, "unsupported-media-type", "image/png"),
        ({**PUT, "media_type": "application/pdf"}, "invalid-document", "base64"),
        ({"text": "x" * (LIMIT_BYTES + 1)}, "too-large", f"{LIMIT_BYTES}"),
        ({"content": base64.b64encode(b"a\0\1\2\3" * 99).decode(), "media_type": "text/plain"}, "unsupported-media-type", "binary"),  # noqa: E501
        ({"text": "a\0\1\2\3" * 99}, "unsupported-media-type", "binary"),
        ({"content": base64.b64encode(b"no pdf").decode(), "media_type": "application/pdf"}, "invalid-document", "cannot be read"),  # noqa: E501
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_document_is_named(
    shared: tuple[Pushed, Documents], body: dict[str, Any], said: str, where: str
) -> None:
    one, documents = shared
    before = documents.count()
    with one.client() as client:
        answer = client.put("/documents/wrong", json=body)
    assert problem(answer) == said, answer.text
    assert where in answer.json()["detail"], answer.text
    assert documents.count() == before


@pytest.mark.parametrize(
    ("method", "target", "more", "status", "said"),
    [
        ("PUT", "/documents/", {"json": PUT}, 400, "invalid-request"),
        ("PUT", "/documents/a//b", {"json": PUT}, 400, "invalid-request"),
        ("PUT", "/documents/a%2F..%2Fb", {"json": PUT}, 400, "invalid-request"),
        ("PUT", "/documents/%00", {"json": PUT}, 400, "invalid-request"),
        ("PUT", "/documents/%ff", {"json": PUT}, 400, "invalid-request"),
        ("PUT", "/documents/a%0Ab%0A", {"json": PUT}, 400, "invalid-request"),
        ("PUT", f"/documents/{'ü' * 1025}", {"json": PUT}, 400, "invalid-request"),
        ("PUT", "/documents/a?revision=1", {"json": PUT}, 422, "invalid-document"),
        ("PUT", "/documents/a?revision=x", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 400, "invalid-request"),  # noqa: E501
        ("PUT", "/documents/a?revison=1", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 400, "invalid-request"),  # noqa: E501
        ("PUT", "/documents/a", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "invalid-request"),  # noqa: E501
        ("PUT", "/documents/a", {"content": b'{"metadata":{"a":' + b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, 400, "invalid-request"),  # noqa: E501
        ("PUT", "/documents/a", {"content": b'{"text":"\\ud800"}', "headers": {"Content-Type": "application/json"}}, 400, "invalid-request"),  # noqa: E501
        ("PUT", "/documents/a", {"json": PUT, "headers": {"If-Match": "7"}}, 400, "invalid-request"),
        ("PUT", "/documents/a", {"json": PUT, "headers": {"Idempotency-Key": "x" * 256}}, 400, "invalid-request"),
        ("PATCH", "/documents/a", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported-media-type"),  # noqa: E501
        ("PATCH", "/documents/a", {"json": {"text": "x"}}, 422, "invalid-document"),
        ("PATCH", "/documents/a", {"json": {"media_type": "text/plain"}}, 422, "invalid-document"),
        ("PUT", "/documents/a", {"content": b"x" * 300_000, "headers": {"Content-Type": "text/plain"}}, 413, "too-large"),  # noqa: E501
        ("POST", "/documents/a", {}, 405, "method-not-allowed"),
        ("GET", "/documents", {}, 404, "no-such-page"),
        ("POST", "/batches", {"json": {"operations": []}}, 422, "invalid-document"),
        ("POST", "/batches", {"json": {"operations": [{"op": "put", "text": "x"}]}}, 422, "invalid-document"),
        ("POST", "/batches", {"json": {"operations": [{"op": "move", "key": "x"}]}}, 422, "invalid-document"),
        ("POST", "/batches", {"json": {"operations": [{"op": "delete", "key": "x"}] * 6}}, 413, "too-large"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_named(
    method: str, target: str, more: dict[str, Any], status: int, said: str, small: Pushed
) -> None:
    with small.client() as client:
        answer = client.request(method, target, **more)
    assert (answer.status_code, problem(answer)) == (status, said), answer.text


LIMITS = {"batch_limit": 5, "body_limit_bytes": 200_000, "buffer_bytes": 250_000}


@pytest.fixture(scope="module")
def small() -> Iterator[Pushed]:
    """One with small limits, and as patient as a busy machine needs."""
    broker = EmbeddedBroker(None)
    with pushing(Documents(broker), settings={**LIMITS, "receive_seconds": 60}) as one:
        yield one
    broker.close()


@pytest.fixture(scope="module")
def hasty() -> Iterator[Pushed]:
    """One that soon cuts off who is slow."""
    broker = EmbeddedBroker(None)
    with pushing(Documents(broker), settings={**LIMITS, "receive_seconds": 0.5}) as one:
        yield one
    broker.close()


def test_a_batch_is_one_transaction_with_an_answer_for_each(broker_and_documents: Any) -> None:
    faulty, documents = broker_and_documents
    with pushing(documents) as one, one.client() as client:
        operations = [
            {"op": "put", "key": "a", "text": "1", "revision": 4},
            {"op": "put", "key": "a", "text": "0", "revision": 3},
            {"op": "patch", "key": "a", "metadata": {"n": 1}},
            {"op": "delete", "key": "b", "revision": 2},
            {"op": "delete", "key": "c"},
        ]
        answer = client.post("/batches", json={"operations": operations}, headers={"Idempotency-Key": "k"})
        assert answer.status_code == 200
        items = answer.json()["items"]
        assert [item["status"] for item in items] == [202, 409, 202, 200, 404]
        assert [item["result"] for item in items] == ["created", "refused", "changed", "unchanged", "refused"]
        assert items[1]["problem"]["type"].endswith("stale-revision")
        assert answer.json()["refused"] == 2
        assert len(faulty.transactions) == 1
        again = client.post("/batches", json={"operations": operations}, headers={"Idempotency-Key": "k"})
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json() == answer.json()
        other = client.post("/batches", json={"operations": operations[1:]}, headers={"Idempotency-Key": "k"})
        assert problem(other) == "idempotency-key-reused"
        many = client.post("/batches", json={"operations": [{"op": "patch", "key": "x"}] * 21})
        assert problem(many) == "too-large", "each reads the log"
        wrong = client.post("/batches", json={"operations": [operations[0], {"op": "put", "key": "x"}]})
        assert "$.operations[1]" in wrong.json()["detail"]
    assert documents.texts() == {"a": "1"}


@pytest.fixture
def broker_and_documents() -> Iterator[tuple[FaultyBroker, Documents]]:
    broker = EmbeddedBroker(None)
    faulty = FaultyBroker(broker, lambda after: None)
    yield faulty, Documents(faulty)
    broker.close()


def test_rules_make_the_metadata_whatever_a_sender_says(documents: Documents) -> None:
    rules = {"acl": ["staff"], "author": "$.author.name"}
    with pushing(documents, metadata=rules) as one, one.client() as client:
        body = {"text": "x", "metadata": {"acl": ["everybody"], "author": {"name": "N"}, "tag": "t"}}
        assert client.put("/documents/a", json=body).status_code == 202
        assert documents.now()["a"].metadata == {"acl": ["staff"], "author": "N", "tag": "t", "extractor": "plain/1"}
        assert problem(client.patch("/documents/a", json={"metadata": {"acl": ["everybody"]}})) == "patch-impossible"
        assert documents.now()["a"].metadata["acl"] == ["staff"]


# ---------------------------------------------------------------------------------- access


@pytest.mark.parametrize("who", [*TOKENS, "nobody"])
def test_a_token_may_do_what_its_scopes_say(guarded: tuple[Pushed, Path], who: str) -> None:
    one, _ = guarded
    scopes = TOKENS.get(who, ())
    with one.client(f"token of {who}") as client:
        batch = {"operations": [{"op": "put", "key": "a", "text": "x"}, {"op": "delete", "key": "b", "revision": 1}]}
        asked = {
            ("read",): client.get("/documents/a"),
            ("write",): client.put("/documents/a", json=PUT),
            ("delete",): client.delete("/documents/b?revision=1"),
            ("write", "delete"): client.post("/batches", json=batch),
        }
        for needed, answer in asked.items():
            if who == "nobody":
                assert (answer.status_code, problem(answer)) == (401, "unauthorised")
                assert answer.headers["www-authenticate"].startswith("Bearer")
            elif set(needed) <= set(scopes):
                assert answer.status_code in (200, 202, 404), answer.text
            else:
                assert (answer.status_code, problem(answer)) == (403, "forbidden")
                assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
        assert client.patch("/documents/a", json={"metadata": {}}).status_code in (
            {200, 202} if "write" in scopes else {401, 403}
        )
    with one.client() as client:
        for header in ("", "Basic token of all", "Bearer", "Bearer x y", "token of all"):
            assert client.get("/documents/a", headers={"Authorization": header}).status_code == 401
        for page in ("/openapi.json", "/docs"):
            assert client.get(page).status_code == 200, "the page holds no secret"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pushed, Path]]:
    broker = EmbeddedBroker(None)
    file = tokens_file(tmp_path_factory.mktemp("tokens"))
    with pushing(Documents(broker), settings={"tokens_file": str(file)}) as one:
        yield one, file
    broker.close()


def test_tokens_are_read_again_when_their_file_changes_and_kept_when_it_breaks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tokens_file(tmp_path)
    tokens = Tokens(file, "crm")

    def scopes(token: str) -> Any:
        tokens._watch._next = 0.0
        return tokens.scopes(token)

    assert scopes("token of all") == ("all", frozenset(TOKENS["all"]))
    file.write_text("[tokens.x]\nsha256 = 'secret itself'")
    assert scopes("token of all") is not None
    assert "secret itself" not in caplog.text
    assert "tokens stay as they were" in caplog.text
    file.unlink()
    assert scopes("token of all") is not None
    other = hashlib.sha256(b"other").hexdigest()
    file.write_text(
        f'[tokens.x]\nsha256 = "{other}"\nscopes = ["read"]\nsources = ["wiki"]\n'
        f'[tokens.y]\nsha256 = "{other[::-1]}"\nscopes = ["read"]'
    )
    assert scopes("token of all") is None
    assert scopes("other") is None, "it is for another source"
    assert Tokens(file, "wiki").scopes("other") == ("x", frozenset({"read"}))


@pytest.mark.parametrize(
    "text",
    ["", "x", "[tokens]", "[tokens.a]\nsha256 = 'ab'\nscopes = ['read']",
     f"[tokens.a]\nsha256 = '{'0' * 64}'\nscopes = []",
     f"[tokens.a]\nsha256 = '{'0' * 64}'\nscopes = ['admin']"],
)  # fmt: skip
def test_a_wrong_file_of_tokens_ends_the_start(text: str, tmp_path: Path, documents: Documents) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(text)
    one = pushed(documents, settings={"tokens_file": str(file)})
    one.run()
    assert isinstance(one.failure, ConfigError)
    assert str(file) in str(one.failure)


def test_other_addresses_than_loopback_need_tokens(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(ConfigError, match="tokens_file"):
            open_source("crm", SourceConfig.model_validate({"connector": "http", "host": host}), LIMIT_BYTES)
        with_tokens = {"connector": "http", "host": host, "tokens_file": str(tmp_path / "t")}
        open_source("crm", SourceConfig.model_validate(with_tokens), LIMIT_BYTES).close()
    for host in ("127.0.0.1", "::1", "localhost", "127.1.2.3"):
        open_source("crm", SourceConfig.model_validate({"connector": "http", "host": host}), LIMIT_BYTES).close()


def test_a_web_page_cannot_ask_a_source_without_tokens(shared: tuple[Pushed, Documents]) -> None:
    one, _ = shared
    with one.client() as client:
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            for answer in (client.put("/documents/a", json=PUT, headers=headers), client.get("/docs", headers=headers)):
                assert (answer.status_code, problem(answer)) == (403, "foreign-page")


def test_tls(documents: Documents, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    signed = authority.sign("localhost", ["DNS:localhost"])
    files = {"tls_certificate_file": str(signed.certificate), "tls_key_file": str(signed.key)}
    with pushing(documents, settings=files) as one:
        context = ssl.create_default_context(cafile=str(authority.certificate))
        with httpx.Client(base_url=f"https://localhost:{one.source.port}", verify=context) as client:
            assert client.put("/documents/a", json=PUT).status_code == 202
        with one.client() as client, pytest.raises(httpx.HTTPError):
            client.put("/documents/a", json=PUT)
    broken = pushed(documents, settings={**files, "tls_key_file": str(signed.certificate)})
    broken.run()
    assert isinstance(broken.failure, ConfigError)


def test_a_certificate_that_is_renewed_counts_for_new_connections_and_a_broken_one_changes_nothing(
    documents: Documents, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given files that are replaced one after the other while it serves, then every handshake gets a pair that fits."""
    monkeypatch.setattr("connectors.http.files._LOOK_SECONDS", 0.0)
    authority = Authority(tmp_path)
    first, second = (authority.sign(name, ["DNS:localhost", "IP:127.0.0.1"]) for name in ("first", "second"))
    chain, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def mounted(file: Path, of: Path) -> None:
        link = file.with_suffix(".new")
        link.symlink_to(of)
        link.rename(file)

    mounted(chain, first.certificate)
    mounted(key, first.key)
    context = ssl.create_default_context(cafile=str(authority.certificate))

    def presented(host: str) -> Any:
        with (
            socket.create_connection(("127.0.0.1", one.source.port), SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            return dict(pair for rdn in secure.getpeercert()["subject"] for pair in rdn)["commonName"]  # type: ignore[index,misc,union-attr]

    def both() -> set[str]:
        return {presented(host) for host in ("localhost", "127.0.0.1")}  # the second sends no name

    files = {"tls_certificate_file": str(chain), "tls_key_file": str(key)}
    with pushing(documents, settings=files) as one:
        assert both() == {"first"}
        with httpx.Client(base_url=f"https://localhost:{one.source.port}", verify=context) as kept:
            assert kept.put("/documents/a", json=PUT).status_code == 202
            mounted(chain, second.certificate)
            assert both() == {"first"}, "its key is not there yet"
            assert "the certificate stays as it was" in caplog.text
            mounted(key, second.key)
            assert both() == {"second"}
            chain.unlink()
            assert both() == {"second"}
            chain.write_text("no certificate")
            assert both() == {"second"}
            protected = authority.sign("third", ["DNS:localhost"], password="p")
            mounted(chain, protected.certificate)
            mounted(key, protected.key)
            assert both() == {"second"}, "nobody is asked for its password"
            assert kept.put("/documents/b", json=PUT).status_code == 202, "connections stay"
    assert "PRIVATE" not in caplog.text


# ---------------------------------------------------------------------------------- limits


def test_a_body_without_a_length_is_counted(small: Pushed) -> None:
    """Given one byte too many of a body that does not end, then it is refused, and nothing more is waited for."""
    head = b"PUT /documents/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
    with socket.create_connection(("127.0.0.1", small.source.port), 10) as other:
        other.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        for size in (100_000, 100_000, 1):
            other.sendall(b"%x\r\n" % size + b"x" * size + b"\r\n")
        received = b""
        while part := other.recv(4096):
            received += part
    assert received.startswith(b"HTTP/1.1 413 "), received
    with small.client() as client:
        headers = {"Content-Type": "text/plain"}
        assert client.put("/documents/a", content=(b"x" for _ in range(3)), headers=headers).status_code == 202


def cut_off(hasty: Pushed, sent: bytes) -> bytes:
    """What is answered to so much of a request until its connection is closed."""
    received = b""
    with suppress(ConnectionError), socket.create_connection(("127.0.0.1", hasty.source.port), SECONDS) as slow:
        slow.sendall(sent)
        while part := slow.recv(4096):
            received += part
    return received


def test_a_slow_sender_is_cut_off_and_its_room_is_given_back(hasty: Pushed) -> None:
    for sent, answered in ((b"PUT /documents/a HTT", False), (b"", False), (_HALF, True), (_HALF, True)):
        received = cut_off(hasty, sent)
        if answered and not received:  # it was held up before it had sent anything
            received = cut_off(hasty, sent)
        assert (b" 408 " in received) is answered, received
    running = hasty.source._running
    assert running is not None
    wait_until(lambda: running._api.gate.bytes == 0, seconds=SECONDS)


def test_who_never_reads_its_answers_is_cut_off(hasty: Pushed) -> None:
    """Given one that asks for the page 500 times and reads nothing, then it keeps no place among the requests."""
    running = hasty.source._running
    assert running is not None

    def answered() -> float:
        return hasty.sample("push_requests_total", source="crm", status="200")

    before = answered()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(SECONDS)
        deaf.connect(("127.0.0.1", hasty.source.port))
        deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500)
        wait_until(lambda: answered() > before, seconds=SECONDS)
        wait_until(lambda: not running._server._server.server_state.connections, seconds=SECONDS)
        wait_until(lambda: running._api.gate.requests == 0, seconds=SECONDS)
    assert answered() < before + 500


def test_who_reads_no_answer_and_then_says_goodbye_is_cut_off(hasty: Pushed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given an answer of which little is left to send, then its connection is not kept until that is read."""
    running = hasty.source._running
    assert running is not None
    connections = running._server._server.server_state.connections
    wait_until(lambda: not connections, seconds=SECONDS)
    running._server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    timed: Any = running._server._server.config.http_protocol_class
    look, left = timed._look, list[int]()

    def looked(self: Any) -> None:
        if self.transport.is_closing():
            left.append(self.transport.get_write_buffer_size())
        look(self)

    monkeypatch.setattr(timed, "_look", looked)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(SECONDS)
        deaf.connect(("127.0.0.1", hasty.source.port))
        deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        wait_until(lambda: any(left), seconds=SECONDS)
        wait_until(lambda: not connections, seconds=SECONDS)


_HALF = b"PUT /documents/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 150000\r\n\r\nx"


def test_what_is_too_much_at_once_gets_429(small: Pushed) -> None:
    with socket.create_connection(("127.0.0.1", small.source.port), 10) as other, small.client() as client:
        other.sendall(_HALF)
        wait_until(lambda: small.source._running._api.gate.bytes == 150_000, seconds=SECONDS)  # type: ignore[union-attr]
        answer = client.put("/documents/b", content=b"x" * 150_000, headers={"Content-Type": "text/plain"})
        assert (answer.status_code, problem(answer)) == (429, "too-many-requests")
        assert int(answer.headers["retry-after"]) >= 1
        assert client.delete("/documents/b?revision=1").status_code in (200, 202), "it has no body, and needs no room"


def test_a_header_without_an_end_is_refused(small: Pushed) -> None:
    with socket.create_connection(("127.0.0.1", small.source.port), 10) as other:
        received = b""
        try:
            for _ in range(100):
                other.sendall(b"PUT /documents/a HTTP/1.1\r\nX: " + b"x" * 100_000)
                received += other.recv(4096)
        except OSError:
            pass
        assert not received or b" 400 " in received


def test_while_the_log_is_away_senders_get_503_and_may_repeat(documents: Documents) -> None:
    away = threading.Event()

    def plan(after: bool) -> None:
        if away.is_set() and not after:
            raise BrokerUnavailable("the log is away")

    faulty = Documents(FaultyBroker(documents.broker, plan))
    with pushing(faulty, settings={"request_seconds": 0.5}) as one, one.client() as client:
        away.set()
        body = {"text": "x", "revision": 1}
        lost = client.put("/documents/a", json=body)
        assert (lost.status_code, problem(lost)) == (503, "unavailable")
        assert int(lost.headers["retry-after"]) >= 1
        away.clear()
        wait_until(lambda: not one.runner.intake._away, seconds=SECONDS)
        answers = [client.put("/documents/a", json=body).status_code]
        while answers[-1] == 503 and len(answers) < 10:  # written or not, its answer came after half a second
            answers.append(client.put("/documents/a", json=body).status_code)
        assert answers[-1] == 202 or (answers[0] == 503 and answers[-1] == 200), answers
    assert faulty.count() == 1


def test_a_drain_answers_what_is_under_way_and_refuses_the_rest(documents: Documents) -> None:
    reached, going = threading.Event(), threading.Event()

    def plan(after: bool) -> None:
        if not after:
            reached.set()
            assert going.wait(SECONDS)

    faulty = Documents(FaultyBroker(documents.broker, plan))
    with pushing(faulty) as one, one.client() as client, ThreadPoolExecutor(1) as other:
        under_way = other.submit(client.put, "/documents/a", json=PUT)
        assert reached.wait(SECONDS)
        one.source.close()
        refused = httpx.put(f"http://127.0.0.1:{one.source.port}/documents/b", json=PUT)
        assert (refused.status_code, problem(refused)) == (503, "unavailable")
        assert refused.headers["connection"] == "close"
        one.stop.set()
        going.set()
        assert under_way.result(SECONDS).status_code == 202
    assert set(documents.texts()) == {"a"}


# ------------------------------------------------------------------------------- the process


_KILLED = """
import os, signal, sys, threading
from pathlib import Path
from connectors.certification.interruptions import FaultyBroker
from pipeline.broker.embedded import EmbeddedBroker
from tests.support.pushed import pushing
from tests.support.sources import Documents
transactions = [0]
def plan(after):
    transactions[0] += after
    if after and transactions[0] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
folder = Path(sys.argv[1])
with pushing(Documents(FaultyBroker(EmbeddedBroker(folder / "log"), plan)), folder / "state") as one:
    print(one.source.port, flush=True)
    threading.Event().wait(60)
"""


def test_killed_between_commit_and_answer_a_repeat_is_harmless(tmp_path: Path) -> None:
    """Given SIGKILL after the commit and before the answer, then the same request again is answered, and no event."""
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        first = httpx.put(f"{url}/documents/a", json={"text": "1"}, timeout=SECONDS)
        assert first.status_code == 202
        patch = {"url": "/documents/a", "json": {"metadata": {"n": 1}}, "headers": {"Idempotency-Key": "k"}}
        with httpx.Client(base_url=url, timeout=SECONDS) as client, pytest.raises(httpx.HTTPError):
            client.patch(**patch)  # type: ignore[arg-type]
        assert process.wait(SECONDS) == -signal.SIGKILL
    broker = EmbeddedBroker(tmp_path / "log")
    documents = Documents(broker)
    assert documents.now()["a"].metadata == {"extractor": "plain/1", "n": 1}
    count = documents.count()
    with pushing(documents, tmp_path / "state") as one, one.client() as client:
        again = client.patch(**patch)  # type: ignore[arg-type]
        assert (again.status_code, again.headers["idempotency-replayed"]) == (202, "true")
        assert again.json()["revision"] == 2
        assert client.put("/documents/a", json={"text": "1", "metadata": {"n": 1}}).status_code == 200
    assert documents.count() == count
    broker.close()


def test_a_port_that_is_taken_ends_the_start(documents: Documents, shared: tuple[Pushed, Documents]) -> None:
    one = pushed(documents, settings={"port": shared[0].source.port})
    one.run()
    assert isinstance(one.failure, ConfigError)
    assert "port" in str(one.failure)


def test_a_uri_says_what_a_table_says() -> None:
    found = source_of("http+listen://0.0.0.0:81#tokens_file=/run/t")
    assert found.connector == "http"
    assert HttpSettings.model_validate(found.settings).port == 81
    for wrong in ("http+listen://u:p@h", "http+listen://h/path", "http+listen://h#x=1"):
        with pytest.raises((ConfigError, ValueError)) as raised:
            source_of(wrong)
        assert "u:p" not in str(raised.value)
    assert settings_of("http+listen://[::1]:5")["host"] == "::1"


# ------------------------------------------------------------------------------ the OpenAPI


def test_the_pages_need_no_network(shared: tuple[Pushed, Documents]) -> None:
    with shared[0].client() as client:
        page = client.get("/docs").text
        assert "<script" not in page
        assert "http://" not in page
        assert "https://" not in page
        assert "PATCH /documents/{key}" in page
        assert client.get("/openapi.json").json()["openapi"].startswith("3.1")


#: What a request can lead to that is as the page says.
_FITTING = {200, 202, 404, 409, 410, 412, 415, 422}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda one: one.value)
def test_schemathesis_finds_nothing_that_the_page_does_not_say(
    shared: tuple[Pushed, Documents], mode: GenerationMode
) -> None:
    """Given requests that fit the page, and some that do not, then answers are as it says, and no 500."""
    one, _ = shared
    # As patient as the server is here: by itself it gives a busy machine ten seconds for an answer.
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{one.source.port}/openapi.json", timeout=2 * SECONDS)
    bounded = settings(
        max_examples=15 if mode is GenerationMode.POSITIVE else 6,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    seen: dict[str, set[int]] = {}

    def holds(case: schemathesis.Case) -> None:
        answer = case.call(timeout=2 * SECONDS)
        # A media type or a text that nobody can read is no matter of a schema.
        case.validate_response(answer, excluded_checks=[positive_data_acceptance])
        seen.setdefault(f"{case.method} {case.path}", set()).add(answer.status_code)
        if mode is GenerationMode.POSITIVE:
            assert answer.status_code in _FITTING, answer.text

    for result in schema.get_all_operations():
        bounded(given(result.ok().as_strategy(generation_mode=mode))(holds))()
    assert len(seen) == 5
    if mode is GenerationMode.POSITIVE:
        assert seen["PUT /documents/{key}"] & {200, 202}, seen
