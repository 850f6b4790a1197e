"""Spreadsheets as Markdown: a heading for each sheet, its rows as those of a table. Values, not formulas."""

from __future__ import annotations

import datetime as dt
import io
import zipfile
from typing import Final

import python_calamine as calamine

from connectors.extraction.documents.packages import Package
from connectors.extraction.documents.writing import Text, line, row
from connectors.extraction.formats import Extracted
from pipeline.errors import Poison

#: Whole numbers up to here are exact as a float, which is what most cells hold.
_EXACT: Final = 1 << 53


def read(data: bytes, limit: int) -> Extracted:
    """All sheets that can be seen.

    Raises:
        Poison: no spreadsheet, encrypted, or over the limit.
    """
    try:
        book = calamine.CalamineWorkbook.from_filelike(io.BytesIO(data))
    except calamine.PasswordError:
        raise Poison("encrypted", "it needs a password") from None
    except (calamine.CalamineError, OSError, ValueError) as error:
        raise Poison("malformed_document", f"it is no spreadsheet that can be read: {line(str(error))}") from None
    text, sheets = Text(limit), 0
    for number, sheet in enumerate(book.sheets_metadata):
        if sheet.typ != calamine.SheetTypeEnum.WorkSheet or sheet.visible != calamine.SheetVisibleEnum.Visible:
            continue
        sheets += 1
        heading = f"# {line(sheet.name)}\n\n"
        try:
            found = book.get_sheet_by_index(number)
        except calamine.CalamineError as error:
            raise Poison("malformed_document", f"its sheet {line(sheet.name)}: {line(str(error))}") from None
        for cells in found.iter_rows():
            if written := row([_shown(cell) for cell in cells]):
                text.add(heading + written + "\n")
                heading = ""
        text.add("" if heading else "\n")
    properties = Package(data).properties() if zipfile.is_zipfile(io.BytesIO(data)) else {}
    return Extracted(text.text(), "text/markdown", {**properties, "sheets": sheets})


def _shown(cell: object) -> str:
    match cell:
        case bool():
            return "TRUE" if cell else "FALSE"
        case float() if abs(cell) < _EXACT and cell == int(cell):
            return str(int(cell))
        case dt.datetime() if cell.time() == dt.time():
            return cell.date().isoformat()
        case dt.datetime():
            return cell.isoformat(" ", "seconds")
        case dt.date() | dt.time():
            return cell.isoformat()
        case _:
            return str(cell)
