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
    text = sound(text)
    try:
        found = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)))
    except csv.Error:  # a field of more than 128 kB, or quotes without an end
        return text
    rows = [written for cells in found if (written := row(cells))]
    return "\n".join(rows) + "\n" if rows else ""


def _delimiter(text: str) -> str:
    lines = text[: _SAMPLE * 1_000].split("\n")[:_SAMPLE]
    return max(
        _DELIMITERS, key=lambda one: (sum(one in line for line in lines), sum(line.count(one) for line in lines))
    )
