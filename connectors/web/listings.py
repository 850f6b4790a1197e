"""Sitemaps (XML, text, indexes) and feeds (RSS 0.9 to 2.0, Atom), read piece by piece.

No tree is built: a file of 50 MB takes no more memory than one of its entries. Nothing outside of the file is
read, and no entity is expanded.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, Literal, NamedTuple

from lxml import etree

#: Of one file, unpacked, and of its entries: the protocol's own bounds.
LIMIT_BYTES: Final = 50 * 1024 * 1024
ENTRIES: Final = 50_000
#: Enough of a file to say what it is.
_HEAD_BYTES: Final = 4096
_PART_BYTES: Final = 1 << 16
_ROOT: Final = re.compile(rb"<(?:[A-Za-z_][\w.-]*:)?(urlset|sitemapindex|rss|feed|RDF)[\s>]")
_TEXT: Final = re.compile(rb"\s*https?://\S+\s", re.IGNORECASE)
_ENTRIES: Final = frozenset({"url", "sitemap", "item", "entry"})
_ADDRESSES: Final = frozenset({"loc", "link", "guid"})
_TIMES: Final = frozenset({"lastmod", "updated", "modified", "pubDate", "date"})
_FIELD_CHARACTERS: Final = 4096
_GZIP: Final = b"\x1f\x8b"


class Garbled(Exception):
    """It is no listing, or breaks off."""


class Entry(NamedTuple):
    """What a listing names."""

    kind: Literal["page", "listing", "next"]
    """A page; a listing of an index; the next piece of this one."""
    url: str
    """As it stands there: it may be relative."""
    hint: str
    """When it says that this changed last, as it stands there. Often wrong."""


def entries(parts: Iterator[bytes]) -> Iterator[Entry]:
    """What a listing names, in its order.

    Args:
        parts: of the file; a gzip is unpacked.

    Raises:
        Garbled: it is no listing, larger than one may be, or breaks off. What came before is right.
    """
    pieces = _unpacked(parts)
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= _HEAD_BYTES:
            break
    root = _ROOT.search(head)
    if root is None and _TEXT.match(head.removeprefix(b"\xef\xbb\xbf") + b"\n"):
        found = _lines(head, pieces)
    elif root is None:
        raise Garbled("it is neither a sitemap nor a feed")
    else:
        found = _elements(head, pieces, recover=root[1] not in (b"urlset", b"sitemapindex"))
    count = 0
    for entry in found:
        count += entry.kind != "next"
        if count > ENTRIES:
            raise Garbled(f"it has more than {ENTRIES} entries")
        yield entry


def _unpacked(parts: Iterator[bytes]) -> Iterator[bytes]:
    size, first = 0, b""
    for part in parts:
        first += part
        if len(first) >= len(_GZIP):
            break
    unpacking = zlib.decompressobj(wbits=31) if first.startswith(_GZIP) else None
    for part in chain((first,), parts):
        while part:
            try:
                piece = unpacking.decompress(part, _PART_BYTES) if unpacking else part
            except zlib.error as error:
                raise Garbled(f"its gzip is broken: {error}") from None
            part = unpacking.unconsumed_tail if unpacking else b""
            size += len(piece)
            if size > LIMIT_BYTES:
                raise Garbled(f"it has more than {LIMIT_BYTES >> 20} MiB")
            if piece:
                yield piece
    if unpacking is not None and not unpacking.eof:
        raise Garbled("its gzip breaks off")


def _lines(head: bytes, pieces: Iterator[bytes]) -> Iterator[Entry]:
    rest = head
    for piece in chain((b"",), pieces):
        rest += piece
        *lines, rest = rest.split(b"\n")
        if len(rest) > _FIELD_CHARACTERS:
            raise Garbled("it has a line that is no URL")
        yield from filter(None, map(_line, lines))
    if (last := _line(rest)) is not None:
        yield last


def _line(line: bytes) -> Entry | None:
    url = line.decode("utf-8", "replace").strip().removeprefix("\ufeff")
    return Entry("page", url, "") if url else None


def _elements(head: bytes, pieces: Iterator[bytes], *, recover: bool) -> Iterator[Entry]:
    target = _Target()
    parser = etree.XMLParser(
        target=target,
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        recover=recover,  # feeds are written by hand; half a sitemap must not pass for a whole one
    )
    try:
        parser.feed(head)
        yield from target.taken()
        for piece in pieces:
            parser.feed(piece)
            yield from target.taken()
        parser.close()
    except etree.XMLSyntaxError as error:
        raise Garbled(f"its XML is broken: {str(error)[:200]}") from None
    yield from target.taken()


@dataclass
class _Target:
    """What lxml tells of a file, element by element."""

    _found: list[Entry] = field(default_factory=list)
    _depth: int = 0
    _entry: int = 0
    """The depth of the entry that is read; 0: none is."""
    _tag: str = ""
    _text: list[str] | None = None
    _size: int = 0
    _fields: dict[str, str] = field(default_factory=dict)

    def taken(self) -> list[Entry]:
        """What was found since the last call."""
        found, self._found = self._found, []
        return found

    def start(self, tag: str, attributes: Any) -> None:
        """An element begins."""
        self._depth += 1
        name = tag.rpartition("}")[2]
        if not self._entry:
            if name in _ENTRIES:
                self._entry, self._tag, self._fields = self._depth, name, {}
                about = next((str(value) for key, value in attributes.items() if key.endswith("}about")), "")
                if about:
                    self._fields["about"] = about
            elif name == "link" and attributes.get("rel") == "next" and attributes.get("href"):
                self._found.append(Entry("next", str(attributes["href"]), ""))
        elif self._depth == self._entry + 1:
            self._field(name, attributes)

    def _field(self, name: str, attributes: Any) -> None:
        if name == "link" and attributes.get("href"):
            if attributes.get("rel", "alternate") == "alternate":
                self._fields.setdefault("link", str(attributes["href"]))
        elif name in _TIMES or (name in _ADDRESSES and attributes.get("isPermaLink", "true") != "false"):
            self._text, self._size = [], 0

    def data(self, text: str) -> None:
        """Text of the element."""
        if self._text is not None and self._size < _FIELD_CHARACTERS:
            self._text.append(text)
            self._size += len(text)

    def end(self, tag: str) -> None:
        """An element ends."""
        if self._text is not None and self._depth == self._entry + 1:
            text = "".join(self._text).strip()
            if text:
                self._fields.setdefault(tag.rpartition("}")[2], text)
            self._text = None
        elif self._entry and self._depth == self._entry:
            self._ended()
            self._entry = 0
        self._depth -= 1

    def _ended(self) -> None:
        fields = self._fields
        url = next((fields[name] for name in ("loc", "link", "guid", "about") if name in fields), "")
        hint = next(
            (fields[name] for name in ("lastmod", "updated", "modified", "pubDate", "date") if name in fields), ""
        )
        if url:
            self._found.append(Entry("listing" if self._tag == "sitemap" else "page", url, hint))

    def close(self) -> None:
        """The file ends."""
