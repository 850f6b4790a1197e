"""PDF: its text layer, page by page. A document that is only images says that it needs OCR."""

from __future__ import annotations

import ctypes
import re
from typing import Final

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from connectors.extraction.documents.writing import Text, line
from connectors.extraction.formats import Extracted
from pipeline.anchors import ANCHORS
from pipeline.errors import Poison
from pipeline.identity import MetadataValue

#: A word that goes on in the next line: PDFium marks the hyphen.
_HYPHEN: Final = re.compile("(?:\ufffe|\x02)\r?\n?")
_TIME: Final = re.compile(r"D:(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?([Zz+-])?(?:(\d\d)'?(\d\d)?'?)?")
_FORMAT_ERROR: Final = 3
_PASSWORD_ERROR: Final = 4
_SECURITY_ERROR: Final = 5
_SHOWN: Final = 200

#: No font of the machine: where one is not embedded, its widths decide where words end, and the same
#: bytes must give the same text everywhere. PDFium brings the fonts that every reader has.
_NO_FONTS: Final = (ctypes.POINTER(ctypes.c_char) * 1)()


def _without_fonts() -> None:
    pdfium_c.FPDF_DestroyLibrary()
    config = pdfium_c.FPDF_LIBRARY_CONFIG(version=2, m_pUserFontPaths=_NO_FONTS, m_pIsolate=None, m_v8EmbedderSlot=0)
    pdfium_c.FPDF_InitLibraryWithConfig(config)


_without_fonts()


def read(data: bytes, limit: int) -> Extracted:
    """The text of all pages, with an anchor for each.

    Raises:
        Poison: no PDF, encrypted, no text layer, over the limit.
    """
    try:
        document = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        if getattr(error, "err_code", None) in (_PASSWORD_ERROR, _SECURITY_ERROR):
            raise Poison("encrypted", "it needs a password") from None
        raise Poison("malformed_document", f"it is no PDF that can be read: {error}") from None
    text, images, unreadable = Text(limit), 0, 0
    for number in range(len(document)):
        text.begin()
        try:
            page = document[number]
        except pdfium.PdfiumError:
            unreadable += 1
            continue
        try:
            said = _HYPHEN.sub("", _text(page))
            if said.strip():
                text.block(said)
            elif pdfium_c.FPDFPage_CountObjects(page):
                images += 1
        finally:
            page.close()
    pages = text.parts
    if unreadable and unreadable == pages:
        raise Poison("malformed_document", f"none of its {pages} pages can be read")
    if not text.length and images:
        raise Poison("no_text", f"it has no text layer: {_pages(images)} of images; it needs OCR first")
    metadata: dict[str, MetadataValue] = {**_properties(document), "pages": pages}
    if images:
        metadata["pages_without_text"] = images
    if unreadable:
        metadata["pages_unreadable"] = unreadable
    if text.length:
        metadata[ANCHORS] = text.anchors("page")
    return Extracted(text.text(), "text/plain", metadata)


def _text(page: pdfium.PdfPage) -> str:
    try:
        textpage = page.get_textpage()
    except pdfium.PdfiumError:
        return ""
    try:
        said: str = textpage.get_text_bounded()
        return said
    finally:
        textpage.close()


def _pages(count: int) -> str:
    return f"{count} page" + ("s" if count > 1 else "")


def _properties(document: pdfium.PdfDocument) -> dict[str, MetadataValue]:
    said = document.get_metadata_dict(skip_empty=True)
    found: dict[str, MetadataValue] = {}
    for name, key in (("title", "Title"), ("author", "Author")):
        if value := line(said.get(key, ""))[:_SHOWN]:
            found[name] = value
    for name, key in (("created", "CreationDate"), ("modified", "ModDate")):
        if value := _time(said.get(key, "")):
            found[name] = value
    words = [line(word)[:_SHOWN] for word in re.split("[,;]", said.get("Keywords", ""))]
    if words := list(dict.fromkeys(word for word in words if word))[:100]:
        found["tags"] = words
    return found


def _time(said: str) -> str:
    """``D:20240131120000+01'00'`` as ISO 8601; empty if it is something else."""
    match = _TIME.fullmatch(said.strip())
    if match is None:
        return ""
    year, month, day, hour, minute, second, sign, hours, minutes = match.groups()
    date = f"{year}-{month or '01'}-{day or '01'}"
    if hour is None:
        return date
    zone = {None: "", "Z": "Z", "z": "Z"}.get(sign, f"{sign}{hours or '00'}:{minutes or '00'}")
    return f"{date}T{hour}:{minute or '00'}:{second or '00'}{zone}"
