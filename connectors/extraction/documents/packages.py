"""Office documents and books are ZIP files of XML: read within bounds, whatever they say of themselves."""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from typing import Final
from urllib.parse import unquote

from lxml import etree

from connectors.extraction.documents.writing import line
from pipeline.errors import Poison
from pipeline.identity import MetadataValue

#: Bytes of one part, unpacked, and of all that are read: far beyond what a text within its limit needs. As
#: a tree a part takes up to ten times as much.
_PART_BYTES: Final = 64 * 1024 * 1024
_ALL_BYTES: Final = 256 * 1024 * 1024
_ENTRIES: Final = 50_000
_TITLE: Final = 200
_WORDS: Final = 100

_DC: Final = "{http://purl.org/dc/elements/1.1/}"
_TERMS: Final = "{http://purl.org/dc/terms/}"
_CORE: Final = "{http://schemas.openxmlformats.org/package/2006/metadata/core-properties}"
_RELATIONSHIP: Final = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"
_ENCRYPTED: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


class Package:
    """The parts of a document.

    Args:
        data: the file.

    Raises:
        Poison: it is no ZIP file.
    """

    def __init__(self, data: bytes) -> None:
        if data.startswith(_ENCRYPTED):
            raise Poison("encrypted", "it is encrypted, or of the format from before 2007")
        try:
            self._file = zipfile.ZipFile(io.BytesIO(data))
            self._names = {one.filename: one for one in self._file.infolist()}
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
            raise Poison("malformed_document", f"it is no whole ZIP file: {error}") from None
        if len(self._names) > _ENTRIES:
            raise Poison("malformed_document", f"it has more than {_ENTRIES} parts")
        self._left = _ALL_BYTES

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def read(self, name: str) -> bytes:
        """A part, unpacked.

        Raises:
            Poison: it is missing, broken, encrypted or too large.
        """
        entry = self._names.get(name)
        if entry is None:
            raise Poison("malformed_document", f"its part {line(name)} is missing")
        room = min(_PART_BYTES, self._left)
        try:
            with self._file.open(entry) as file:
                # Not by the size that it claims: it can say what it likes.
                data = file.read(room + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError) as error:
            raise Poison("malformed_document", f"its part {line(name)} is broken: {error}") from None
        except RuntimeError:  # what zipfile raises without a password
            raise Poison("encrypted", "it is encrypted") from None
        if len(data) > room:
            raise Poison("too_large", f"its part {line(name)} is over {room // 1024**2} MiB when it is unpacked")
        self._left -= len(data)
        return data

    def xml(self, name: str) -> etree._Element:
        """A part as XML. No entity is resolved, nothing is loaded, and it nests 256 deep at most.

        Raises:
            Poison: it cannot be read, or is no XML.
        """
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True)
        try:
            return etree.fromstring(self.read(name), parser)
        except etree.XMLSyntaxError as error:
            if error.code in (etree.ErrorTypes.ERR_INTERNAL_ERROR, etree.ErrorTypes.ERR_NO_MEMORY):
                raise MemoryError from None  # what libxml2 says then has no line and no words
            raise Poison("malformed_document", f"its part {line(name)} is no XML: {error}") from None

    def related(self, name: str) -> dict[str, tuple[str, str]]:
        """What a part refers to within the document: by id, the kind of relationship and the part's name."""
        folder, base = posixpath.split(name)
        path = f"{folder}/_rels/{base}.rels".lstrip("/")
        if path not in self:
            return {}
        found = {}
        for one in self.xml(path).iter(_RELATIONSHIP):
            if one.get("TargetMode") != "External":
                kind = (one.get("Type") or "").rpartition("/")[2]
                found[one.get("Id") or ""] = (kind, joined(folder, one.get("Target") or ""))
        return found

    def main(self) -> str:
        """The part that holds the document itself.

        Raises:
            Poison: it names none.
        """
        for kind, name in self.related("").values():
            if kind == "officeDocument":
                return name
        raise Poison("malformed_document", "it does not say which of its parts is the document")

    def properties(self) -> dict[str, MetadataValue]:
        """What an Office document says of itself; nothing, where that part alone is broken."""
        try:
            for kind, name in self.related("").values():
                if kind == "core-properties" and name in self:
                    return dublin_core(self.xml(name))
        except Poison:
            pass
        return {}


def dublin_core(root: etree._Element) -> dict[str, MetadataValue]:
    """Title, authors, language, times and keywords."""
    found: dict[str, MetadataValue] = {}
    names = {
        "title": f"{_DC}title", "author": f"{_DC}creator", "language": f"{_DC}language",
        "created": f"{_TERMS}created", "modified": f"{_TERMS}modified", "published": f"{_DC}date",
    }  # fmt: skip
    for name, tag in names.items():
        values = [line(one.text or "")[:_TITLE] for one in root.iter(tag)]
        if values := [value for value in values if value]:
            found[name] = ", ".join(values[:10]) if name == "author" else values[0]
    words = [line(one.text or "") for tag in (f"{_CORE}keywords", f"{_DC}subject") for one in root.iter(tag)]
    tags = [word.strip()[:_TITLE] for text in words for word in text.replace(";", ",").split(",")]
    if tags := list(dict.fromkeys(tag for tag in tags if tag))[:_WORDS]:
        found["tags"] = tags
    return found


def joined(folder: str, target: str) -> str:
    """The name of a part that another one refers to."""
    target = unquote(target.partition("#")[0])
    if target.startswith("/"):
        return posixpath.normpath(target).lstrip("/")
    return posixpath.normpath(posixpath.join(folder, target)).lstrip("/")
