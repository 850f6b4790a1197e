"""One page as it answers now: what is in it, or why nothing can be said about it."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from typing import Any, Final, TypeAlias

from connectors.extraction import Extractor, binary, is_text, revision_of
from connectors.extraction.decoding import page_encoding
from connectors.fetching import fetched
from connectors.web.addresses import Address
from connectors.web.client import Answer, Broken, Client, Paused
from connectors.web.heads import Head, asks_for_a_password, head_of
from connectors.web.network import Astray, Forbidden
from connectors.web.robots import Robots
from pipeline.errors import Poison
from pipeline.identity import Metadata, MetadataValue, canonical_json, content_hash
from pipeline.ports import Fetched, Skipped

#: What a content type says is in a body; the suffix tells the extractor.
_SUFFIXES: Final = {
    "application/epub+zip": ".epub",
    "application/json": ".json",
    "application/msword": ".doc",
    "application/pdf": ".pdf",
    "application/vnd.ms-excel": ".xls",
    "application/vnd.oasis.opendocument.spreadsheet": ".ods",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/xhtml+xml": ".xhtml",
    "message/rfc822": ".eml",
    "text/csv": ".csv",
    "text/html": ".html",
    "text/markdown": ".md",
    "text/x-markdown": ".md",
    "text/x-rst": ".rst",
}
#: Nothing in them is text, whatever a URL is called.
_BINARY: Final = re.compile(r"(?:image|audio|video|font|model)/(?!svg)|application/(?:zip|gzip|wasm|x-tar|x-7z)")
_HTML: Final = (".html", ".xhtml")
_LOGIN: Final = re.compile(r"/(?:log-?in|sign-?in|sso|saml2?|auth|oauth2?|session/new)(?:[/.?]|$)", re.IGNORECASE)
_CHARSET: Final = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_LINK: Final = re.compile(r"<([^<>]*)>((?:\s*;\s*[\w*-]+\s*=\s*(?:\"[^\"]*\"|[^\s;,\"]+))*)")
_REL: Final = re.compile(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^\s;,\"]+))", re.IGNORECASE)
_GONE: Final = (404, 410)
_FORM: Final = "it leads to a page that asks for a password"
#: A form to log in is seldom behind more.
_FORM_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Read:
    """What is there."""

    content: Fetched | Skipped | Poison
    revision: str
    """Another one whenever what would be published is."""
    body: str
    """Hash of what was sent."""
    name: str
    etag: str
    modified: str
    canonical: Address | None
    """The page that this one says it stands for."""
    landing: Address | None = None
    """Where it leads to for now."""

    @property
    def text(self) -> str:
        """Hash of its text; empty: it has none."""
        return self.content.digest if isinstance(self.content, Fetched) and self.content.text else ""


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The same as when it was last read."""

    etag: str = ""
    modified: str = ""
    redirected: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """It is not there, or must not be read."""

    why: str
    at_once: bool
    """Its site says so in so many words; else it may be back soon."""


@dataclass(frozen=True, slots=True)
class Moved:
    """It has another address from now on."""

    to: Address
    login: bool = False
    """It looks like a page to log in at."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing can be said about it now."""

    why: str
    retry_after: float = 0.0
    """Not before so many seconds."""


Outcome: TypeAlias = Read | Unchanged | Missing | Moved | Failed


@dataclass(frozen=True, slots=True)
class Before:
    """How a page was last read."""

    etag: str = ""
    modified: str = ""
    body: str = ""
    name: str = ""
    revision: str = ""


class Reader:
    """Reads the pages of one source. Used by one thread.

    Args:
        client: of the source.
        robots: of its hosts.
        extractor: of the source.
        page_limit: most bytes of a page.
        text_limit: most bytes of a text.
    """

    def __init__(self, client: Client, robots: Robots, extractor: Extractor, page_limit: int, text_limit: int) -> None:
        self._client = client
        self._robots = robots
        self._extractor = extractor
        self._page_limit = page_limit
        self._text_limit = text_limit

    def extraction(self, name: str) -> str:
        """Version of what reads a page of this name, and its limits."""
        return f"{revision_of(name)}:{self._page_limit}:{self._text_limit}"

    def look(self, path: str, address: Address, before: Before | None = None) -> Outcome:
        """A page as it is now.

        Args:
            path: its own.
            address: its own.
            before: how it was last read; None: it is to be read whatever it says.

        Raises:
            SourceUnavailable: closed, or nothing can be read at all.
        """
        headers = {}
        if before is not None and before.etag:
            headers["if-none-match"] = before.etag
        if before is not None and before.modified:
            headers["if-modified-since"] = before.modified
        try:
            if self._robots.disallows(address):
                return Missing("robots.txt does not allow it", at_once=False)
            with self._client.get(address, headers, self._permits) as answer:
                return self._answered(path, address, answer, before)
        except Paused as error:
            return Failed(str(error), error.seconds)
        except Broken as error:
            return Failed(str(error))
        except Astray as error:
            return Missing(str(error), at_once=False)
        except Forbidden as error:
            return Failed(str(error))

    def _permits(self, address: Address) -> str:
        return "robots.txt does not allow where it leads" if self._robots.disallows(address) else ""

    def _answered(self, path: str, address: Address, answer: Answer, before: Before | None) -> Outcome:
        status = answer.status
        redirected = answer.address != answer.settled
        led = [one.target for one in (answer.settled, answer.address)]
        # A page about logging in may lead to another one.
        login = any(map(_LOGIN.search, led)) and not _LOGIN.search(address.target)
        if redirected and login:
            return Failed("it leads to a login page")
        if answer.settled != address:
            return Moved(answer.settled, login or _asks(answer))
        tag = Head(robots=_directives(answer.headers.get("x-robots-tag", ""), self._robots.name))
        if status in (200, 304) and tag.noindex:
            if redirected and _asks(answer):
                return Failed(_FORM)
            return Missing("its X-Robots-Tag says noindex", at_once=not redirected)
        if status == 304 and before is not None:
            return Unchanged(answer.headers.get("etag", ""), answer.headers.get("last-modified", ""))
        if status in _GONE:
            return Missing(f"it answers {status}", at_once=status == 410 and not redirected)
        if status != 200:
            return Failed(f"it answers {status}")
        return self._content(path, answer, before, redirected=redirected)

    def _content(self, path: str, answer: Answer, before: Before | None, *, redirected: bool) -> Outcome:
        headers = answer.headers
        etag, modified = headers.get("etag", ""), headers.get("last-modified", "")
        type_ = _type(answer)
        name = named(answer.address.target, type_)
        extraction = self.extraction(name)
        canonical = _linked(headers.get("link", ""), answer.address)

        def left_out(reason: str) -> Read:
            revision = content_hash(f"{reason}:{name}:{extraction}")
            return Read(Skipped(path, revision, reason), revision, "", name, etag, modified, None)

        if _BINARY.match(type_):
            return left_out("binary")
        if (why := self._extractor.left_out(name)) is not None:
            return left_out(why)
        limit = self._page_limit if is_text(name) else min(self._page_limit, self._extractor.limit(name))
        length = int(headers.get("content-length", "")[:15]) if headers.get("content-length", "").isdigit() else 0
        if length > limit and "content-encoding" not in headers:
            return self._over_limit(path, answer, name, max(length, limit), limit)
        data = answer.read(limit)
        if len(data) > limit:
            return self._over_limit(path, answer, name, max(length, len(data)), limit)
        if not data.strip():
            return Failed("its body is empty")
        body = f"{hashlib.blake2b(data, digest_size=16).hexdigest()}"
        if before is not None and (before.body, before.name) == (body, name):
            return Unchanged(etag, modified, redirected)
        if is_text(name):
            data = _transcoded(data, headers.get("content-type", ""))
            if binary(data[:8192]):
                return left_out("binary")
        head = head_of(data, self._robots.name) if name.endswith(_HTML) else Head()
        if redirected and head.html and asks_for_a_password(data):
            return Failed(_FORM)
        if head.noindex:
            return Missing("its page says noindex", at_once=not redirected)
        if head.canonical:
            canonical = _address(head.canonical, answer.address) or canonical
        language = head.language or headers.get("content-language", "").partition(",")[0].strip()
        found = self._extracted(path, answer, name, data, {"language": language} if language else {}, head)
        if isinstance(found, Skipped):
            return left_out(found.reason)
        if isinstance(found, Fetched) and not found.text and found.size <= self._text_limit:
            return Failed("there is no text in it: it is empty, or drawn by scripts")
        revision = found.reason + body if isinstance(found, Poison) else found.revision
        landing = answer.address if redirected else None
        return Read(found, content_hash(f"{revision}:{extraction}"), body, name, etag, modified, canonical, landing)

    def _extracted(
        self, path: str, answer: Answer, name: str, data: bytes, metadata: Metadata, head: Head
    ) -> Fetched | Skipped | Poison:
        try:
            extracted = self._extractor.extract(data, name)
        except Poison as error:
            return error
        if extracted is None:
            return Skipped(path, "", "binary")
        extracted = replace(
            extracted, found={**extracted.found, "url": answer.settled.url, "meta": dict(head.meta), **_when(answer)}
        )
        found = fetched(extracted, path, "", _seconds(answer.headers.get("last-modified", "")), metadata)
        said: dict[str, Any] = {key: value for key, value in found.found.items() if key != "last_modified"}
        facts = [found.digest, found.media_type, dict(found.metadata), said]
        revision = content_hash(canonical_json(facts).decode("utf-8", "replace"))
        if found.size > self._text_limit:
            why = f"over the limit of {self._text_limit / 1e6:.1f} MB: {found.size / 1e6:.1f} MB of text"
            return replace(found, revision=revision, text=None, metadata={}, omitted=why)
        return replace(found, revision=revision)

    def _over_limit(self, path: str, answer: Answer, name: str, size: int, limit: int) -> Read:
        modified = answer.headers.get("last-modified", "")
        # No entity tag: some servers make a new one for every answer.
        digest = content_hash(f"{size}:{modified}")
        content = Fetched(
            path=path,
            revision="",
            text=None,
            digest=digest,
            media_type="application/octet-stream",
            metadata={},
            event_time=_seconds(modified),
            size=size,
            omitted=f"over the limit of {limit / 1e6:.1f} MB: {size / 1e6:.1f} MB or more",
        )
        revision = content_hash(f"{digest}:{self.extraction(name)}")
        return Read(content, revision, "", name, answer.headers.get("etag", ""), modified, None)


def named(target: str, type_: str) -> str:
    """A name whose suffix says how a body is read: by its content type, and else by its address."""
    own = PurePosixPath(target.partition("?")[0]).suffix.lower()
    if type_ in _SUFFIXES:
        return "page" + _SUFFIXES[type_]
    if type_ == "text/plain" and own in (*_HTML, ".htm", ".pdf"):
        return "page.txt"  # it is to be shown as it is
    return "page" + own if re.fullmatch(r"\.[a-z0-9]{1,10}", own) else "page.txt"


def _asks(answer: Answer) -> bool:
    """True if there is a form for a password in an answer whose body is of no further use."""
    if answer.status != 200 or not named(answer.address.target, _type(answer)).endswith(_HTML):
        return False
    try:
        return asks_for_a_password(answer.read(_FORM_BYTES))
    except Broken:
        return False


def _type(answer: Answer) -> str:
    return answer.headers.get("content-type", "").partition(";")[0].strip().lower()


def _transcoded(data: bytes, content_type: str) -> bytes:
    """In UTF-8 and marked as such, if the answer's head names another encoding: that counts more than the page."""
    match = _CHARSET.search(content_type)
    encoding = None if match is None else page_encoding(match[1])
    if encoding in (None, "utf-8"):
        return data
    return codecs.BOM_UTF8 + data.decode(encoding, "replace").encode("utf-8", "replace")


def _linked(header: str, base: Address) -> Address | None:
    """The canonical address in a ``Link`` header."""
    for url, parameters in _LINK.findall(header):
        relation = _REL.search(parameters)
        if relation is not None and "canonical" in (relation[1] or relation[2] or "").lower().split():
            return _address(url, base)
    return None


def _address(url: str, base: Address) -> Address | None:
    try:
        return Address.parse(url, base)
    except ValueError:
        return None


def _directives(header: str, name: str) -> tuple[str, ...]:
    """Of ``X-Robots-Tag``, one a line: those for everybody, and those for this reader."""
    return tuple(directive for line in header.lower().split("\n") for directive in _of_line(line, name))


def _of_line(header: str, name: str) -> Iterator[str]:
    reader = ""
    for one in header.split(","):
        agent, colon, directive = one.partition(":")
        if colon and agent.strip() not in (
            "unavailable_after",
            "max-snippet",
            "max-image-preview",
            "max-video-preview",
        ):
            reader, one = agent.strip(), directive
        if reader in ("", name.lower()):
            yield one.strip()


def _when(answer: Answer) -> dict[str, MetadataValue]:
    modified = answer.headers.get("last-modified", "")
    return {"last_modified": _seconds(modified)} if modified else {}


def _seconds(date: str) -> float:
    """Of an HTTP date, since 1970; 0 if it is none."""
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp())
    except (ValueError, TypeError, OverflowError):
        return 0.0
