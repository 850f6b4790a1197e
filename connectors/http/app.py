"""The push API itself: routes, who may ask, limits, and answers. It runs in one event loop and waits for the writer."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connectors.extraction import is_text
from connectors.http.bodies import BatchBody, DeleteItem, DocumentBody, PatchBody, PatchItem, PutItem
from connectors.http.media import parsed, suffix_of
from connectors.http.parsing import Parser, condition_of, decode, key_of, revision_of, time_of
from connectors.http.problems import Problem
from connectors.http.replies import batch_reply, known_reply, result_reply
from connectors.http.settings import HttpSettings, loopback
from connectors.http.tokens import Scope as TokenScope
from connectors.http.tokens import Tokens
from connectors.push.intake import Answered, Asked, Idempotency, Intake, KeyReused, Looked
from connectors.push.ledger import answer_name
from connectors.push.operations import Delete, Operation, Put
from pipeline.deadline import Deadline
from pipeline.errors import Backpressure, Transient

T = TypeVar("T")


class _Anything(PathConvertor):
    """A key, line breaks included: what is wrong with it is said by whoever checks it."""

    regex = "(?s:.*)"


register_url_convertor("document", _Anything())

log = logging.getLogger(__name__)

_JSON: Final = "application/json"
_MERGE_PATCH: Final = "application/merge-patch+json"
_PREFIX: Final = b"/documents/"
_RETRY_SECONDS: Final = 2.0
_KEY_CHARACTERS: Final = 255
#: Answers name documents: nobody keeps them, and nobody takes them for a page.
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_QUERY: Final = frozenset({"revision", "event_time"})


@dataclass(frozen=True, slots=True)
class Reading:
    """Where bodies become documents: two threads, so that a PDF holds up no text."""

    texts: Executor
    documents: Executor


@dataclass(slots=True)
class Gate:
    """What is under way; used in the event loop only, but for ``draining``."""

    requests: int = 0
    bytes: int = 0
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Api:
    """The push API of one source, as an ASGI application.

    Args:
        source: its id.
        epoch: of the documents topic, for versions.
        settings: limits.
        tokens: None: whoever can connect may do everything.
        intake: where requests wait for the writer.
        parser: of bodies.
        reading: its threads.
        page: the OpenAPI page, and the one for people.
        count: told the status of every answer.
    """

    source: str
    epoch: int
    settings: HttpSettings
    tokens: Tokens | None
    intake: Intake
    parser: Parser
    reading: Reading
    page: Mapping[str, tuple[bytes, str]]
    count: Callable[[int], None]
    gate: Gate = field(default_factory=Gate)

    def application(self) -> ASGIApp:
        """The application, with limits around it."""
        pages = [Route(path, self._page, methods=["GET"]) for path in self.page]
        app = Starlette(
            routes=[
                *pages,
                Route("/documents/{key:document}", self._document, methods=["GET", "PUT", "PATCH", "DELETE"]),
                Route("/batches", self._batch, methods=["POST"]),
            ],
            exception_handlers={
                Problem: _problem,
                HTTPException: _http,
                ClientDisconnect: _gone,
                Exception: _defect,
            },
        )
        app.router.redirect_slashes = False

        async def limited(scope: Scope, receive: Receive, send: Send) -> None:
            status = 500

            async def sent(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                    message["headers"] = [*message["headers"], *self._standing_headers(message["headers"])]
                await send(message)

            self.gate.requests += 1
            try:
                refused = self._closed()
                if refused is not None:
                    await _answered(refused)(scope, receive, sent)
                else:
                    await app(scope, receive, sent)
            except Exception:  # ours to mend; whoever asked has an answer already
                log.exception("a request failed", extra={"source": self.source})
            finally:
                self.gate.requests -= 1
                self.count(status)

        return limited

    def _closed(self) -> Problem | None:
        """Why nothing is taken now."""
        if self.gate.draining:
            return Problem("unavailable", "this process is ending", retry_after=_RETRY_SECONDS)
        if self.gate.requests > self.settings.requests_limit:
            return Problem("too-many-requests", "too many requests at the same time", retry_after=1)
        return None

    def _standing_headers(self, given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Those of every answer. While draining, no connection is kept."""
        found = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
        closes = any(name.lower() == b"connection" for name, _ in given)
        return [*found, (b"connection", b"close")] if self.gate.draining and not closes else found

    # --------------------------------------------------------------------------- routes

    async def _page(self, request: Request) -> Response:
        self._refuse_foreign(request)
        body, kind = self.page[request.url.path]
        return Response(body, media_type=kind)

    async def _document(self, request: Request) -> Response:
        scope: Mapping[str, TokenScope] = {"GET": "read", "HEAD": "read", "DELETE": "delete"}
        who = self._allowed(request, scope.get(request.method, "write"))
        raw: bytes = request.scope["raw_path"]
        path = key_of(raw.removeprefix(_PREFIX))
        if request.method in ("GET", "HEAD"):
            return await self._look(path)
        if unknown := set(request.query_params) - _QUERY:
            raise Problem("invalid-request", f"the query knows revision and event_time, and not {min(unknown)!r}")
        condition, deadline = condition_of(request.headers), Deadline.after(self.settings.request_seconds)
        body, size = await self._body(request)
        try:
            match request.method:
                case "DELETE":
                    revision, at = revision_of(request.query_params), time_of(request.query_params)
                    operation: Operation = Delete(path, at, revision, condition)
                case "PATCH":
                    operation = await self._patch(request, path, body)
                case _:
                    operation = await self._put(request, path, body)
            if request.method != "DELETE":
                deadline = Deadline.after(self.settings.request_seconds)  # what reads documents has its own
            answered = await self._written(request, who, body, (operation,), deadline)
        finally:
            self.gate.bytes -= size
        return result_reply(path, answered, self.epoch)

    async def _put(self, request: Request, path: str, body: bytes) -> Put:
        media_type, charset = parsed(request.headers.get("content-type", ""))
        condition = condition_of(request.headers)
        query = request.query_params
        if media_type == _JSON:
            if query:
                # Of a request that fits the page: that cannot say what goes with which body.
                raise Problem(
                    "invalid-document", "revision and event_time of a JSON body stand in it, not in the query"
                )
            said = decode(body, DocumentBody)
            texts = _texts(path, *_sent(said))
            return await self._read(lambda: self.parser.put(path, said, condition), texts=texts)
        revision, at = revision_of(query), time_of(query)
        texts = is_text("document" + suffix_of(media_type, path))
        document = await self._read(lambda: self.parser.document(path, body, media_type, charset), texts=texts)
        return Put(path, document, at, revision, condition)

    async def _patch(self, request: Request, path: str, body: bytes) -> Operation:
        media_type, _ = parsed(request.headers.get("content-type", ""))
        if media_type not in (_JSON, _MERGE_PATCH):
            raise Problem(
                "unsupported-media-type", f"a patch is {_MERGE_PATCH}", headers={"Accept-Patch": _MERGE_PATCH}
            )
        if request.query_params:
            raise Problem("invalid-request", "revision and event_time of a patch stand in its body, not in the query")
        said, condition = decode(body, PatchBody), condition_of(request.headers)
        texts = _texts(path, *_sent(said))
        return await self._read(lambda: self.parser.patch(path, said, condition), texts=texts)

    async def _batch(self, request: Request) -> Response:
        who = self._allowed(request, None)
        media_type, _ = parsed(request.headers.get("content-type", ""))
        if media_type != _JSON:
            raise Problem("unsupported-media-type", f"a batch is {_JSON}")
        body, size = await self._body(request)
        try:
            said = decode(body, BatchBody)
            for one in said.operations:
                self._scoped(who, "delete" if isinstance(one, DeleteItem) else "write")
            limit = Deadline.after(self.settings.request_seconds + self.settings.extraction.seconds)
            texts = all(_texts(one.key, *_sent(one)) for one in said.operations if isinstance(one, PutItem | PatchItem))
            operations = await self._read(lambda: self.parser.batch(said, limit), texts=texts)
            deadline = Deadline.after(self.settings.request_seconds)
            answered = await self._written(request, who, body, operations, deadline)
        finally:
            self.gate.bytes -= size
        return batch_reply([one.path for one in operations], answered, self.epoch)

    async def _look(self, path: str) -> Response:
        looked = Looked(path, Deadline.after(self.settings.request_seconds))
        return known_reply(path, await self._waited(looked, looked.future, looked.deadline), self.epoch)

    # -------------------------------------------------------------------------- writing

    async def _written(
        self, request: Request, who: _Who, body: bytes, operations: tuple[Operation, ...], deadline: Deadline
    ) -> Answered:
        """What became of operations, once the log has them."""
        asked = Asked(operations, len(body) + 512, deadline, _idempotency(request, who, body))
        try:
            return await self._waited(asked, asked.future, deadline)
        except KeyReused:
            raise Problem("idempotency-key-reused", "give every request a key of its own") from None

    async def _waited(self, asked: Asked | Looked, future: Future[T], deadline: Deadline) -> T:
        try:
            self.intake.submit(asked)
            return await asyncio.wait_for(asyncio.wrap_future(future), deadline.remaining())
        except Backpressure as error:
            raise Problem("too-many-requests", str(error), retry_after=error.retry_after) from None
        except TimeoutError:
            detail = "it was not written in time: it may still be, or not. Send it again, as it is"
            raise Problem("unavailable", detail, retry_after=_RETRY_SECONDS) from None
        except Transient as error:
            raise Problem("unavailable", str(error), retry_after=_RETRY_SECONDS) from None

    async def _read(self, reading: Callable[[], T], *, texts: bool) -> T:
        """Run what reads documents in its thread, with an end to the waiting for it."""
        executor = self.reading.texts if texts else self.reading.documents
        seconds = self.settings.request_seconds + (0 if texts else self.settings.extraction.seconds)
        running = asyncio.get_running_loop().run_in_executor(executor, reading)
        try:
            return await asyncio.wait_for(running, seconds)
        except TimeoutError:
            raise Problem("unavailable", "it was not read in time", retry_after=seconds) from None

    async def _body(self, request: Request) -> tuple[bytes, int]:
        """The body, and how much of the room for bodies it keeps until it is given back."""
        limit = self.settings.body_limit_bytes
        said = request.headers.get("content-length", "")
        if said.isdecimal() and len(said) < 19:
            length = int(said)
        else:  # as much as it may become; a request without either has no body
            length = limit if said or "transfer-encoding" in request.headers else 0
        if length > limit:
            raise Problem("too-large", f"the body has {length} bytes, {limit} at most", headers={"Connection": "close"})
        if self.gate.bytes + length > self.settings.buffer_bytes:
            raise Problem("too-many-requests", "too much is being received", retry_after=1)
        self.gate.bytes += length
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.settings.receive_seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > limit:
                        raise Problem("too-large", f"the body has over {limit} bytes", headers={"Connection": "close"})
                    parts.append(part)
        except TimeoutError:
            self.gate.bytes -= length
            seconds = self.settings.receive_seconds
            raise Problem("timeout", f"the body took over {seconds:g} s", headers={"Connection": "close"}) from None
        except BaseException:
            self.gate.bytes -= length
            raise
        return b"".join(parts), length

    # ----------------------------------------------------------------------- who may ask

    def _allowed(self, request: Request, scope: TokenScope | None) -> _Who:
        """Who asks, if it may; ``scope`` None: that is looked at later."""
        self._refuse_foreign(request)
        if self.tokens is None:
            return _Who("", None)
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        found = self.tokens.scopes(given.strip()) if kind.lower() == "bearer" else None
        if found is None:
            headers = {"WWW-Authenticate": 'Bearer realm="vectide"'}
            raise Problem("unauthorised", "this source asks for Authorization: Bearer <token>", headers=headers)
        who = _Who(*found)
        if scope is not None:
            self._scoped(who, scope)
        return who

    def _scoped(self, who: _Who, scope: TokenScope) -> None:
        if who.scopes is not None and scope not in who.scopes:
            headers = {"WWW-Authenticate": f'Bearer realm="vectide", error="insufficient_scope", scope="{scope}"'}
            raise Problem("forbidden", f"the token has no scope {scope!r}", headers=headers)

    def _refuse_foreign(self, request: Request) -> None:
        """Without tokens, whoever can connect to loopback may ask, but no web page that is open in a browser there."""
        if self.tokens is not None:
            return
        host = request.headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if host and not loopback(name.strip("[]").lower()):
            raise Problem(
                "foreign-page", f"the request is for {host[:255]!r}: give this source tokens to serve other names"
            )
        if "origin" in request.headers or request.headers.get("sec-fetch-site", "none") != "none":
            raise Problem("foreign-page", "give this source tokens, and send one")


@dataclass(frozen=True, slots=True)
class _Who:
    name: str
    scopes: frozenset[TokenScope] | None
    """None: all."""


def _idempotency(request: Request, who: _Who, body: bytes) -> Idempotency | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= _KEY_CHARACTERS or not key.isascii() or not key.isprintable():
        raise Problem("invalid-request", f"Idempotency-Key: 1 to {_KEY_CHARACTERS} printable characters of ASCII")
    target: bytes = request.scope["raw_path"] + b"?" + request.scope["query_string"]
    said = [request.method.encode(), target, request.headers.get("content-type", "").encode()]
    said += [request.headers.get(name, "").encode() for name in ("if-match", "if-none-match")]
    digest = hashlib.sha256(b"\0".join([who.name.encode(), key.encode()])).hexdigest()
    fingerprint = hmac.new(key.encode(), b"\0".join([*said, body]), hashlib.sha256).hexdigest()
    return Idempotency(answer_name(digest), fingerprint)


def _sent(body: DocumentBody | PatchBody) -> tuple[bytes | None, str | None]:
    content, media_type = body.content, body.media_type
    return content if isinstance(content, bytes) else None, media_type if isinstance(media_type, str) else None


def _texts(path: str, content: bytes | None, media_type: str | None) -> bool:
    """Whether no process of its own is needed to read this."""
    return content is None or media_type is None or is_text("document" + suffix_of(media_type, path))


def _answered(problem: Problem) -> Response:
    body = msgspec.json.encode(problem.body())
    return Response(body, problem.status, problem.headers, "application/problem+json")


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # as it is entered
    return _answered(error)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # as it is entered
    if error.status_code == 405:
        return _answered(Problem("method-not-allowed", f"{request.method} is not known here", headers=error.headers))
    return _answered(Problem("no-such-page", "see /docs"))


async def _gone(request: Request, error: Exception) -> Response:
    return _answered(Problem("timeout", "the sender has gone"))


async def _defect(request: Request, error: Exception) -> Response:
    return _answered(Problem("internal-error", "see the log of this process"))
