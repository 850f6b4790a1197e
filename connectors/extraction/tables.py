"""CSV as the rows of a Markdown table, so that it is cut between rows."""

from __future__ import annotations

import csv
import io
from typing import Final

from connectors.extraction.documents.writing import row, sound

#: The field's own characters in the order in which a tie is decided.
_DELIMITERS: Final = ",;\t|"
#: Rows that tell which delimiter it is.
_SAMPLE: Final = 20


def csv_to_markdown(text: str) -> str:
    """The rows of a table; the text as it is if it is no CSV."""
    text, table = sound(text), io.StringIO()
    try:
        # Row by row: as lists, short rows take a hundred times the memory of the text.
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)):
            if written := row(cells):
                table.write(written + "\n")
    except csv.Error:  # a field of more than 128 kB, or quotes without an end
        return text
    return table.getvalue()


def _delimiter(text: str) -> str:
    lines = text[: _SAMPLE * 1_000].split("\n")[:_SAMPLE]
    return max(
        _DELIMITERS, key=lambda one: (sum(one in line for line in lines), sum(line.count(one) for line in lines))
    )
