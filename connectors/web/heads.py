"""What the head of a page says about the page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from selectolax.lexbor import LexborHTMLParser

from connectors.extraction.decoding import decoded
from connectors.extraction.nesting import refuse_hostile
from pipeline.errors import Poison

#: A head is seldom larger, and what lies behind it is no head.
_HEAD_BYTES: Final = 256 * 1024
_BODY: Final = re.compile(r"</head\s*>|<body[\s>]", re.IGNORECASE)
_PASSWORD: Final = re.compile(rb"<input\b[^>]{0,500}\btype\s*=\s*[\"']?password\b", re.IGNORECASE)
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,8}(?:[-_][A-Za-z0-9]{1,8})*")
#: Made anew with every answer: no word about the page.
_OF_THE_ANSWER: Final = re.compile(r"csrf|xsrf|token|nonce|request-?id|timestamp|generated", re.IGNORECASE)
_METAS: Final = 64
_CHARACTERS: Final = 1000


@dataclass(frozen=True, slots=True)
class Head:
    """What a page says of itself before it begins."""

    html: bool = False
    canonical: str = ""
    """The address of the page that it stands for, as it stands there."""
    robots: tuple[str, ...] = ()
    """Directives, in lower case."""
    language: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)
    """``<meta>`` by name or property."""

    @property
    def noindex(self) -> bool:
        """True if it must not be found."""
        return "noindex" in self.robots or "none" in self.robots


def head_of(data: bytes, name: str) -> Head:
    """The head of a page of HTML.

    Args:
        data: the page.
        name: of this reader, as ``<meta name=...>`` has it.
    """
    found = decoded(data[:_HEAD_BYTES], declares=True)
    if found is None:
        return Head(html=True)
    text = found[0]
    end = _BODY.search(text)
    text = text if end is None else text[: end.start()]
    try:
        refuse_hostile(text)
    except Poison:  # the extractor will say so
        return Head(html=True)
    tree = LexborHTMLParser(text)
    language = (tree.root.attributes.get("lang") or "") if tree.root is not None else ""
    canonical, robots = "", list[str]()
    meta: dict[str, str] = {}
    for link in tree.css("head > link[rel][href]"):
        if not canonical and "canonical" in (link.attributes.get("rel") or "").lower().split():
            canonical = (link.attributes.get("href") or "").strip()
    for one in tree.css("head > meta[content]")[:_METAS]:
        key = (one.attributes.get("name") or one.attributes.get("property") or "").strip().lower()
        content = (one.attributes.get("content") or "").strip()[:_CHARACTERS]
        if key in ("robots", name.lower()):
            robots += [directive.strip() for directive in content.lower().split(",")]
        if key and content and not _OF_THE_ANSWER.search(key):
            meta.setdefault(key[:_CHARACTERS], content)
    return Head(True, canonical, tuple(robots), language if _LANGUAGE.fullmatch(language) else "", meta)


def asks_for_a_password(data: bytes) -> bool:
    """True if there is a field for one in the page."""
    return _PASSWORD.search(data) is not None
