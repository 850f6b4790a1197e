"""The OpenAPI page of a source, made of the types that are decoded, and a page for people that needs no network."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec

from connectors.http.bodies import (
    KEY_CHARACTERS,
    KEY_PATTERN,
    TEXT_OR_CONTENT,
    TEXT_OR_CONTENT_OR_NONE,
    BatchBody,
    BatchResultBody,
    DocumentBody,
    PatchBody,
    ProblemBody,
    ResultBody,
    StandingBody,
)
from connectors.http.media import KNOWN
from connectors.http.problems import TYPES
from connectors.http.settings import HttpSettings
from connectors.push.operations import REVISIONS

_JSON: Final = "application/json"
_STYLE: Final = (
    "body{font:1rem/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "td,th{padding:.2rem 1rem .2rem 0;text-align:left;vertical-align:top}"
)
_ALWAYS: Final = (
    "invalid-request", "unauthorised", "forbidden", "timeout", "too-many-requests", "internal-error", "unavailable",
)  # fmt: skip
_WRITES: Final = (
    "stale-revision", "revision-taken", "forgotten", "precondition-failed", "too-large", "unsupported-media-type",
    "invalid-document", "idempotency-key-reused",
)  # fmt: skip
_TYPES: Final = (DocumentBody, PatchBody, BatchBody, ResultBody, BatchResultBody, StandingBody, ProblemBody)


def pages(source: str, settings: HttpSettings) -> dict[str, tuple[bytes, str]]:
    """By path, a page and its media type."""
    page = document(source, settings)
    return {
        "/openapi.json": (json.dumps(page, indent=1).encode(), _JSON),
        "/docs": (for_people(page).encode(), "text/html"),
    }


def document(source: str, settings: HttpSettings) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    (_, components) = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    for name in ("DocumentBody", "PutItem"):
        components[name] |= TEXT_OR_CONTENT
    for name in ("PatchBody", "PatchItem"):
        components[name] |= TEXT_OR_CONTENT_OR_NONE
    guarded = settings.tokens_file is not None
    schemes = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"vectide: documents of source {source}",
            "version": _version(),
            "description": "Put, patch and delete documents. 202 means that the log has it; searches follow.",
        },
        "paths": {
            "/documents/{key}": {
                "parameters": [_key()],
                "get": _operation(
                    "What is known of a document", "read", (), _ok(StandingBody), ("not-found", "forgotten")
                ),
                "put": _operation(
                    "Create or replace a document", "write", [*_query(), *_headers()], _accepted(ResultBody), _WRITES,
                    {_JSON: _schema(DocumentBody), **{kind: {"schema": {}} for kind in KNOWN if kind != _JSON}},
                ),
                "patch": _operation(
                    "Change a part of a document", "write", _headers(), _accepted(ResultBody),
                    (*_WRITES, "not-found", "patch-impossible"),
                    {"application/merge-patch+json": _schema(PatchBody), _JSON: _schema(PatchBody)},
                ),
                "delete": _operation(
                    "Remove a document", "delete", [*_query(), *_headers()], _accepted(ResultBody),
                    (*_WRITES, "not-found"),
                ),
            },
            "/batches": {
                "post": _operation(
                    "Many operations, written together, each with a status of its own", "write and delete",
                    _headers()[:1], _ok(BatchResultBody),
                    ("forgotten", "too-large", "unsupported-media-type", "invalid-document", "idempotency-key-reused"),
                    {_JSON: _schema(BatchBody)},
                )
            },
        },
        "components": {"schemas": components, **({"securitySchemes": schemes} if guarded else {})},
        **({"security": [{"token": []}]} if guarded else {}),
    }  # fmt: skip


def for_people(page: Mapping[str, Any]) -> str:
    """The same as a page of HTML, without scripts and without anything from elsewhere."""
    parts = [f"<h1>{_text(page['info']['title'])}</h1><p>{_text(page['info']['description'])}</p>"]
    parts.append('<p>As <a href="/openapi.json">OpenAPI 3.1</a>.</p>')
    for path, item in page["paths"].items():
        for method, one in item.items():
            if method == "parameters":
                continue
            parts.append(f"<h2><code>{method.upper()} {_text(path)}</code></h2><p>{_text(one['summary'])}.</p>")
            parts.append(f"<p>{_text(one['description'])}</p>")
            rows = [[p["name"], p["in"], p["description"]] for p in one["parameters"]]
            parts.append(_table(("name", "in", "meaning"), rows))
            content = one.get("requestBody", {}).get("content", {})
            if content:
                parts.append(f"<p>Body: {', '.join(f'<code>{_text(kind)}</code>' for kind in content)}</p>")
            parts.append(_table(("status", "meaning"), [[s, r["description"]] for s, r in one["responses"].items()]))
    parts.append("<h2>Bodies</h2>")
    for name, schema in page["components"]["schemas"].items():
        parts.append(f"<details><summary><code>{_text(name)}</code> {_text(schema.get('description', ''))}</summary>")
        parts.append(f"<pre>{_text(json.dumps(schema, indent=2))}</pre></details>")
    title = _text(page["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _operation(
    summary: str,
    scope: str,
    parameters: Sequence[Mapping[str, Any]],
    answers: Mapping[str, Any],
    problems: Sequence[str],
    bodies: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for problem in (*_ALWAYS, *problems):
        by_status.setdefault(TYPES[problem][0], []).append(problem)
    for status, names in sorted(by_status.items()):
        answers = {**answers, str(status): _problem(names)}
    found: dict[str, Any] = {
        "summary": summary,
        "description": f"Needs a token with scope {scope}, where the source has tokens.",
        "parameters": list(parameters),
        "responses": answers,
    }
    if bodies:
        found["requestBody"] = {"required": True, "content": dict(bodies)}
    return found


def _key() -> dict[str, Any]:
    return {
        "name": "key",
        "in": "path",
        "required": True,
        "description": f"1 to {KEY_CHARACTERS} characters, percent-encoded; slashes may stand as they are.",
        "schema": {"type": "string", "maxLength": KEY_CHARACTERS, "pattern": KEY_PATTERN},
    }


def _query() -> list[dict[str, Any]]:
    return [
        {
            "name": "revision",
            "in": "query",
            "description": "The sender's own revision, unless the body is JSON: there it stands in the body.",
            "schema": {"type": "integer", "minimum": 0, "exclusiveMaximum": REVISIONS},
        },
        {
            "name": "event_time",
            "in": "query",
            "description": "When it changed: seconds since 1970, or ISO 8601; likewise.",
            "schema": {
                "anyOf": [
                    {"type": "number", "minimum": 0, "exclusiveMaximum": 100_000_000_000},
                    {"type": "string", "format": "date-time"},
                ]
            },
        },
    ]


def _headers() -> list[dict[str, Any]]:
    return [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "The same request with the same key is done once, and answered the same.",
            "schema": {"type": "string", "pattern": "^[ -~]{1,255}$"},
        },
        {
            "name": "If-Match",
            "in": "header",
            "description": "Only if the document has this revision, as ETag gives it, or one of several; *: any.",
            "schema": {"type": "string", "pattern": '^([*]|"(0|[1-9][0-9]{0,18})"(, *"(0|[1-9][0-9]{0,18})")*)$'},
        },
        {
            "name": "If-None-Match",
            "in": "header",
            "description": "Only if there is no such document.",
            "schema": {"const": "*"},
        },
    ]


def _schema(type_: type) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{type_.__name__}"}}


def _ok(type_: type) -> dict[str, Any]:
    return {"200": {"description": "As it is", "content": {_JSON: _schema(type_)}}}


def _accepted(type_: type) -> dict[str, Any]:
    body = {_JSON: _schema(type_)}
    return {
        "200": {"description": "It was so already", "content": body},
        "202": {"description": "The log has it", "content": body},
    }


def _problem(names: Sequence[str]) -> dict[str, Any]:
    said = "; ".join(f"{name}: {TYPES[name][1].lower()}" for name in names)
    return {"description": said, "content": {"application/problem+json": _schema(ProblemBody)}}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    return f"<table><tr>{''.join(f'<th>{one}</th>' for one in head)}</tr><tr>{'</tr><tr>'.join(lines)}</tr></table>"


def _text(value: str) -> str:
    return html.escape(value)


def _version() -> str:
    try:
        return version("vectide")
    except PackageNotFoundError:
        return "unknown"
