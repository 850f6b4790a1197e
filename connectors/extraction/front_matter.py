"""What a Markdown file says about itself between two ``---`` lines at its top, as YAML."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Any, Final

import yaml

from pipeline.identity import MetadataValue

_BLOCK: Final = re.compile(r"---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*$", re.DOTALL | re.MULTILINE)
#: A block beyond this is not front matter but a document that begins with a rule.
_LIMIT: Final = 16_384
_FIELDS: Final = 64


def front_matter(text: str) -> dict[str, MetadataValue]:
    """Its scalars and lists of scalars; what is nested or not YAML is left out."""
    if not text.startswith("---"):
        return {}
    match = _BLOCK.match(text[:_LIMIT])
    if match is None:
        return {}
    try:
        found = yaml.safe_load(match.group(1))
        if not isinstance(found, dict):
            return {}
        fields = {name: _value(value) for name, value in list(found.items())[:_FIELDS] if isinstance(name, str)}
    except Exception:  # PyYAML trips over `!!int ""`, `!!bool x` and the like with errors of every kind
        return {}
    # An anchor can stand for much, and be named often: then it is more than the block could say.
    if sum(_length(value) for value in fields.values()) > 2 * _LIMIT:
        return {}
    return {name: value for name, value in fields.items() if value is not None}


def _length(value: MetadataValue | None) -> int:
    return sum(map(len, value)) if isinstance(value, list) else len(str(value))


def _value(value: Any) -> MetadataValue | None:
    match value:
        case bool() | str():
            return value
        case int():
            return value if -(1 << 63) <= value < 1 << 63 else str(value)
        case float():
            return value if math.isfinite(value) else None
        case dt.date() | dt.datetime():
            return value.isoformat()
        case list():
            return [str(item) for item in value if isinstance(item, str | int | float)]
        case _:
            return None
