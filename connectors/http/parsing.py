"""From requests to operations: what is wrong is named by its field, and nothing is guessed."""

from __future__ import annotations

import binascii
import datetime as dt
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec

from connectors.extraction import Extractor, extract, is_text
from connectors.http.bodies import (
    KEY_CHARACTERS,
    BatchBody,
    DeleteItem,
    DocumentBody,
    PatchBody,
    PatchItem,
    PutItem,
)
from connectors.http.media import suffix_of
from connectors.http.problems import Problem
from connectors.mapping import NAME, NAMES, TAKEN, Unfit, fitted
from connectors.push.intake import PATCHES
from connectors.push.operations import ALWAYS, REVISIONS, Condition, Delete, Document, Operation, Patch, Put
from pipeline.deadline import Deadline
from pipeline.errors import Poison, Transient
from pipeline.identity import MetadataValue

T = TypeVar("T")

_ETAG: Final = re.compile(r'\s*(?:W/)?"(0|[1-9][0-9]{0,18})"\s*')
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
#: Those of documents. Among all that Python knows are some that are no charsets, or take the square of the length.
_CHARSET: Final = re.compile(
    r"(utf|iso|windows|cp|koi8|euc|shift|big5|gb|us-ascii|ascii|latin|mac)[A-Za-z0-9_.-]{0,20}", re.IGNORECASE
)
#: Seconds since 1970 of the year 5138: beyond are milliseconds.
_LATEST: Final = 1e11
#: Of all texts in a document's metadata together.
_METADATA_CHARACTERS: Final = 65_536


class Parser:
    """Requests of one source. Safe for several threads, but for :meth:`document`, which one at a time calls.

    Args:
        extractor: of PDFs, Office files and so on.
        text_limit: most bytes of a document's text in UTF-8.
        batch_limit: most operations of a batch.
        nested: metadata may nest, for rules that look into them.
    """

    def __init__(self, extractor: Extractor, text_limit: int, batch_limit: int, *, nested: bool) -> None:
        self._extractor = extractor
        self._text_limit = text_limit
        self._batch_limit = batch_limit
        self._nested = nested

    def put(self, path: str, body: DocumentBody, condition: Condition = ALWAYS) -> Put:
        """A put of a JSON body."""
        document = self._sent(path, body.text, body.content, body.media_type, "text/plain")
        if document is None:
            raise Problem("invalid-document", "$: give either text or content")
        plain, found = self._metadata(body.metadata if isinstance(body.metadata, dict) else {})
        metadata = {**document.metadata, **plain}
        document = replace(document, metadata=metadata, found={**document.found, **found})
        return Put(path, document, _at(body.event_time), _given(body.revision), condition)

    def patch(self, path: str, body: PatchBody, condition: Condition = ALWAYS) -> Patch:
        """A merge patch."""
        document = self._sent(path, body.text, body.content, body.media_type, None)
        if document is None and isinstance(body.media_type, str):
            raise Problem("invalid-document", "$.media_type: it changes with the text only")
        metadata: Mapping[str, Any] | None = {}
        if body.metadata is None:
            metadata = None
        elif isinstance(body.metadata, dict):
            plain, _ = self._metadata(body.metadata, nested=False)
            metadata = {**{name: None for name, value in body.metadata.items() if value is None}, **plain}
        return Patch(path, metadata, _at(body.event_time), document, _given(body.revision), condition)

    def batch(self, body: BatchBody, deadline: Deadline) -> tuple[Operation, ...]:
        """The operations of a batch, in order. Reading its documents ends with the deadline."""
        if len(body.operations) > self._batch_limit:
            raise Problem("too-large", f"$.operations: {len(body.operations)} operations, {self._batch_limit} at most")
        if sum(isinstance(one, PatchItem) for one in body.operations) > PATCHES:
            raise Problem("too-large", f"$.operations: {PATCHES} patches at most, for each reads the log")
        found: list[Operation] = []
        for number, one in enumerate(body.operations):
            if deadline.expired:
                raise Problem("unavailable", f"$.operations[{number}]: its documents take too long to read: send fewer")
            try:
                path = checked_key(one.key)
                match one:
                    case PutItem():
                        found.append(self.put(path, one))
                    case PatchItem():
                        found.append(self.patch(path, one))
                    case DeleteItem():
                        found.append(Delete(path, _at(one.event_time), _given(one.revision)))
            except Problem as problem:
                detail = f"$.operations[{number}]: {problem.detail}"
                raise Problem(problem.type, detail, headers=problem.headers) from None
        return tuple(found)

    def document(self, path: str, data: bytes, media_type: str, charset: str | None) -> Document:
        """The text of a content, and what it says of itself."""
        suffix = suffix_of(media_type, path)
        name = "document" + suffix
        if charset is not None and is_text(name):
            data = _recoded(data, charset)
        if is_text(name) and len(data) > self._text_limit:
            raise Problem("too-large", f"the document has {len(data)} bytes, {self._text_limit} at most")
        try:
            if self._extractor.left_out(name) is not None:
                raise Problem("unsupported-media-type", f"documents of {media_type!r} are not read here")
            if len(data) > self._extractor.limit(name):
                raise Problem("too-large", f"the document has {len(data)} bytes, {self._extractor.limit(name)} at most")
            if is_text(name):  # what the sender has said of its encoding counts before what a page says
                extracted = extract(data, name, declares=charset is None)
            else:
                extracted = self._extractor.extract(data, name)
        except Poison as error:
            raise Problem("invalid-document", f"it cannot be read: {error.detail}") from None
        except Transient as error:
            raise Problem("unavailable", f"it cannot be read now: {error}", retry_after=5) from None
        if extracted is None:
            raise Problem("unsupported-media-type", "it is no text, but binary")
        if len(_utf8(extracted.text, "$.text")) > self._text_limit:
            raise Problem("too-large", f"the document's text is over {self._text_limit} bytes")
        return Document(extracted.text, extracted.media_type, extracted.metadata, extracted.found)

    def _sent(
        self, path: str, text: object, content: object, media_type: object, otherwise: str | None
    ) -> Document | None:
        """The document of a text or a content; None: there is neither.

        Args:
            path: its key.
            text: a text, if it is given.
            content: bytes, if they are given.
            media_type: a text, if it is given.
            otherwise: the media type of a text without one; None: it needs one.
        """
        kind = media_type if isinstance(media_type, str) else None
        match text, content:
            case str(), bytes():
                raise Problem("invalid-document", "$: give either text or content")
            case str(), _:
                kind = kind if kind is not None else otherwise
                if kind is not None:
                    return self._of_text(path, text, kind)
                raise Problem("invalid-document", "$.media_type: another text needs its media type")
            case _, bytes():
                if kind is not None:
                    return self.document(path, content, kind, None)
                raise Problem("invalid-document", "$.media_type: content needs one")
        return None

    def _of_text(self, path: str, text: str, media_type: str) -> Document:
        data = _utf8(text, "$.text")
        if not is_text("document" + suffix_of(media_type, path)):
            raise Problem("invalid-document", f"$.text: {media_type!r} is no text; send it as content, in base64")
        return self.document(path, data, media_type, "utf-8")

    def _metadata(
        self, given: Mapping[str, Any], *, nested: bool | None = None
    ) -> tuple[dict[str, MetadataValue], dict[str, Any]]:
        """What is published of metadata, and what nests; null is nothing."""
        nested = self._nested if nested is None else nested
        if len(given) > NAMES:
            raise Problem("invalid-document", f"$.metadata: {len(given)} names, {NAMES} at most")
        plain: dict[str, MetadataValue] = {}
        found: dict[str, Any] = {}
        characters = 0
        for name, value in given.items():
            _named(name)
            if value is None:
                continue
            if nested and _nests(value):
                found[name] = value
                continue
            try:
                plain[name] = fitted(value, None)
            except Unfit as error:
                raise Problem("invalid-document", f"$.metadata.{name}: {error}") from None
            characters += len(json.dumps(plain[name]))
        if characters > _METADATA_CHARACTERS:
            raise Problem("invalid-document", f"$.metadata: more than {_METADATA_CHARACTERS} characters together")
        return plain, found


def decode(body: bytes, type_: type[T]) -> T:
    """A JSON body.

    Raises:
        Problem: it is none, or its fields are not these; names the field.
    """
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        raise Problem("invalid-document", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, RecursionError) as error:
        raise Problem("invalid-request", f"the body is not JSON: {error}") from None


def key_of(raw: bytes) -> str:
    """The key in a request's path. ``%2F`` is a slash like any other.

    Raises:
        Problem: no document can be called so.
    """
    try:
        return checked_key(unquote_to_bytes(raw).decode())
    except UnicodeDecodeError:
        raise Problem("invalid-request", "the key is not UTF-8, percent-encoded") from None


def checked_key(key: str) -> str:
    """The key, if a document can be called so.

    Raises:
        Problem: it cannot.
    """
    _utf8(key, "the key")
    if not key or len(key) > KEY_CHARACTERS:
        raise Problem("invalid-request", f"a key has 1 to {KEY_CHARACTERS} characters")
    if _CONTROL.search(key):
        raise Problem("invalid-request", "a key has no control characters")
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise Problem("invalid-request", "no part of a key between slashes is empty, . or ..")
    return key


def revision_of(query: Mapping[str, str]) -> int | None:
    """The revision in a request's query."""
    said = query.get("revision")
    if said is None:
        return None
    if not _NUMBER.fullmatch(said) or int(said) >= REVISIONS:
        raise Problem("invalid-request", f"revision: a whole number from 0 to {REVISIONS - 1}")
    return int(said)


def time_of(query: Mapping[str, str]) -> float:
    """The time of the event in a request's query."""
    said = query.get("event_time")
    if said is None:
        return time.time()
    try:
        return _at(float(said))
    except ValueError:
        pass
    try:
        return _at(dt.datetime.fromisoformat(said))
    except ValueError:
        raise Problem("invalid-request", "event_time: seconds since 1970, or ISO 8601") from None


def condition_of(headers: Mapping[str, str]) -> Condition:
    """The preconditions of a request."""
    match, none = headers.get("if-match"), headers.get("if-none-match")
    revisions: tuple[int, ...] | None = None
    if match is not None and match.strip() == "*":
        revisions = ()
    elif match is not None:
        tags = [_ETAG.fullmatch(one) for one in match.split(",")]
        if None in tags:
            raise Problem("invalid-request", 'If-Match: revisions as ETag gives them, such as "7", or *')
        revisions = tuple(int(one.group(1)) for one in tags if one is not None)
    if none is not None and none.strip() != "*":
        raise Problem("invalid-request", "If-None-Match: only * is known here")
    return Condition(revisions, none is not None)


def _named(name: str) -> None:
    if not NAME.fullmatch(name):
        raise Problem("invalid-document", "$.metadata: a name has letters, digits, _ and - only, 64 at most")
    if name in TAKEN:
        raise Problem("invalid-document", f"$.metadata.{name}: this name is the document's own")


def _nests(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict | list) for one in value))


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Problem("invalid-request", f"{what}: it is not Unicode") from None


def _recoded(data: bytes, charset: str) -> bytes:
    if not _CHARSET.fullmatch(charset):
        raise Problem("unsupported-media-type", f"charset {charset[:64]!r} is not known")
    try:
        return data.decode(charset).encode()
    except LookupError:
        raise Problem("unsupported-media-type", f"charset {charset!r} is not known") from None
    except (UnicodeError, ValueError):
        raise Problem("invalid-document", f"it is not in charset {charset!r}") from None


def _given(revision: int | msgspec.UnsetType) -> int | None:
    return revision if isinstance(revision, int) else None


def _at(said: float | dt.datetime | msgspec.UnsetType) -> float:
    if isinstance(said, msgspec.UnsetType):
        return time.time()
    if isinstance(said, dt.datetime):
        try:
            said = (said if said.tzinfo is not None else said.replace(tzinfo=dt.UTC)).timestamp()
        except (OverflowError, ValueError):
            said = math.inf
    if not math.isfinite(said) or not 0 <= said < _LATEST:
        raise Problem("invalid-document", "event_time: seconds since 1970, not negative and no milliseconds")
    return float(said)
