"""URLs in one form each, and the paths of documents that stand for them.

A path is what a browser shows behind the source's own host: ``guide/ü b.html?page=2``. The root is ``/``; pages of
another host of the source are ``//host/path``. A path leads back to exactly one address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

_PORTS: Final = {"http": 80, "https": 443}
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_OF_A_PATH: Final = re.compile(r"%([0-9A-Fa-f]{2})|([^A-Za-z0-9._~!$&'()*+,;=:@/-])")
_OF_A_QUERY: Final = re.compile(r"%([0-9A-Fa-f]{2})|([^A-Za-z0-9._~!$&'()*+,;=:@/?-])")
_ESCAPES: Final = re.compile(r"(?:%[0-9A-F]{2})+")
#: Delimiters mean something else unescaped: they stay as they are.
_RESERVED: Final = frozenset("%/?#:@!$&'()*+,;=[]")
_HOST: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?")
_LENGTH: Final = 4096
#: They tell who sent a reader, and nothing about the page.
_TRACKING: Final = re.compile(
    r"(?:utm_\w+|mtm_\w+|pk_(?:campaign|kwd|source|medium|content)|fbclid|gclid|gclsrc|dclid|gbraid|wbraid|msclkid|"
    r"yclid|mc_cid|mc_eid|igshid|_hsenc|_hsmi|_ga|_gl)(?:=.*)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a page is, in normal form (RFC 3986); no fragment, no password, no tracking parameters."""

    scheme: str
    host: str
    """In lower case and ASCII."""
    port: int
    target: str
    """Path and query, as a request has them."""

    @classmethod
    def parse(cls, text: str, base: Address | None = None) -> Address:
        """From a URL, or from a reference in the page ``base``.

        Raises:
            ValueError: it is none of http or https; says why.
        """
        text = text.strip()
        if len(text) > _LENGTH:
            raise ValueError(f"it has more than {_LENGTH} characters")
        parts = urlsplit(text if base is None else urljoin(base.url, text))
        scheme = parts.scheme.lower()
        if scheme not in _PORTS:
            raise ValueError("it must be http:// or https://")
        if parts.username is not None or parts.password is not None:
            raise ValueError("it must hold no password; username and password_file are for that")
        query = "&".join(one for one in parts.query.split("&") if one and not _TRACKING.fullmatch(one))
        path = _without_dots(_normal(parts.path or "/", _OF_A_PATH))
        target = path + (f"?{_normal(query, _OF_A_QUERY)}" if query else "")
        found = cls(scheme, _host(parts.hostname or ""), parts.port or _PORTS[scheme], target)
        if len(found.url) > _LENGTH:  # as it is kept, and parsed again: escapes make it longer
            raise ValueError(f"it has more than {_LENGTH} characters")
        return found

    @property
    def authority(self) -> str:
        """Host, and port where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """All of it."""
        return f"{self.scheme}://{self.authority}{self.target}"

    @property
    def by_default(self) -> bool:
        """True at the scheme's own port."""
        return self.port == _PORTS[self.scheme]

    def at(self, target: str) -> Address:
        """Another page of the same host."""
        return replace(self, target=target)


class Paths:
    """Between addresses and the paths of documents.

    Args:
        own: the source's own host: its pages need not name it.
    """

    def __init__(self, own: Address) -> None:
        self._own = own

    def path_of(self, address: Address) -> str | None:
        """The path of a page; None if no document can be called so."""
        path, mark, query = address.target.partition("?")
        shown = _ESCAPES.sub(_shown, path) + mark + query
        # http and https are one site; that of another port is not.
        if address.host != self._own.host or not (
            address.port == self._own.port or (address.by_default and self._own.by_default)
        ):
            return f"//{address.authority}{shown}"
        if shown.startswith("//"):
            return None
        return shown if shown == "/" else shown[1:]

    def address_of(self, path: str) -> Address | None:
        """The page of a path; None if it is the path of none."""
        try:
            if path.startswith("//"):
                found = Address.parse(f"{self._own.scheme}:{path}")
            else:
                found = Address.parse(f"{self._own.scheme}://{self._own.authority}/{path.removeprefix('/')}")
        except ValueError:
            return None
        return found if path and self.path_of(found) == path else None


def _host(name: str) -> str:
    if ":" in name:
        return name.lower()  # an address of IPv6, which urlsplit has taken out of its brackets
    try:
        host = name.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise ValueError(f"{name!r} is no name of a host") from None
    if not _HOST.fullmatch(host):
        raise ValueError(f"{name!r} is no name of a host")
    return host


def _normal(text: str, pattern: re.Pattern[str]) -> str:
    """Escapes in upper case, none where none is needed, all that are needed."""

    def one(match: re.Match[str]) -> str:
        if match[1] is None:
            return quote(match[2], safe="")
        char = chr(int(match[1], 16))
        return char if char in _UNRESERVED else "%" + match[1].upper()

    try:
        return pattern.sub(one, text)
    except UnicodeEncodeError:
        raise ValueError("it is not Unicode") from None


def _without_dots(path: str) -> str:
    parts: list[str] = []
    segments = path.split("/")[1:] if path.startswith("/") else path.split("/")
    for segment in segments:
        if segment == "..":
            parts = parts[:-1]
        elif segment != ".":
            parts.append(segment)
    if segments[-1] in (".", ".."):
        parts.append("")
    return "/" + "/".join(parts)


def _shown(match: re.Match[str]) -> str:
    """Escapes as a browser shows them, where that can be reversed."""
    data = bytes.fromhex(match[0].replace("%", ""))
    text = data.decode("utf-8", "surrogateescape")
    return "".join(
        char
        if char.isprintable() and char not in _RESERVED
        else "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape"))
        for char in text
    )
