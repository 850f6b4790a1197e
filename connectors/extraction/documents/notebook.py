"""Jupyter notebooks as Markdown: texts and code. Outputs are left out: they change with every run."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from connectors.extraction.documents.writing import Text
from connectors.extraction.formats import Extracted, markdown_title
from pipeline.errors import Poison
from pipeline.identity import MetadataValue

_LANGUAGE: Final = re.compile(r"[A-Za-z0-9+#_.-]{1,30}")
_MARKS: Final = re.compile(r"^\s*(`{3,})", re.MULTILINE)


def read(data: bytes, limit: int) -> Extracted:
    """All cells in order.

    Raises:
        Poison: no notebook, or over the limit.
    """
    try:
        book = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Poison("malformed_document", f"it is no JSON: {error}") from None
    cells = _cells(book)
    text, language = Text(limit), _language(book)
    for cell in cells:
        source = _source(cell)
        match cell.get("cell_type") if source.strip() else None:
            case "code":
                # Longer than what stands in it, so that nothing ends it early.
                mark = "`" * max([3, *(len(found) + 1 for found in _MARKS.findall(source))])
                text.block(f"{mark}{language}\n{source.rstrip()}\n{mark}")
            case "markdown" | "raw" | "heading":
                text.block(source)
            case _:
                pass
    metadata: dict[str, MetadataValue] = {"programming_language": language} if language else {}
    return Extracted(text.text(), "text/markdown", {**metadata, **markdown_title(text.text())})


def _cells(book: object) -> list[dict[str, Any]]:
    if not isinstance(book, dict):
        raise Poison("malformed_document", "it is no notebook: no object")
    sheets = book.get("worksheets")  # before version 4
    within = sheets[0] if isinstance(sheets, list) and sheets and isinstance(sheets[0], dict) else book
    cells = within.get("cells")
    if not isinstance(cells, list):
        raise Poison("malformed_document", "it is no notebook: it has no cells")
    return [cell for cell in cells if isinstance(cell, dict)]


def _source(cell: dict[str, Any]) -> str:
    match cell.get("source", cell.get("input", "")):
        case str() as source:
            return source
        case list() as lines:
            return "".join(one for one in lines if isinstance(one, str))
        case _:
            return ""


def _language(book: dict[str, Any]) -> str:
    found: Any = book.get("metadata")
    for path in (("kernelspec", "language"), ("language_info", "name")):
        value = found
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, str) and _LANGUAGE.fullmatch(value):
            return value
    return ""
