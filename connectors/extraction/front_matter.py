"""What a Markdown file says about itself between two ``---`` lines at its top, as YAML."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import yaml

from pipeline.identity import MetadataValue

_BLOCK: Final = re.compile(r"---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*$", re.DOTALL | re.MULTILINE)
#: A block beyond this is not front matter but a document that begins with a rule.
_LIMIT: Final = 16_384
_FIELDS: Final = 64
#: Of all values: no more than the block itself says, unless it says the same thing again and again by
#: YAML's aliases, with which 16 kB can stand for 20 MB.
_CHARACTERS: Final = 2 * _LIMIT
#: PyYAML looks at every open bracket for each token: 16,000 of them took two seconds.
_DEPTH: Final = 64


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """YAML as data, and no deeper than people write it."""

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level >= _DEPTH:
            raise yaml.YAMLError(f"more than {_DEPTH} open brackets")
        super().fetch_flow_collection_start(token)


class FrontMatter(NamedTuple):
    """What a document says about itself."""

    fields: Mapping[str, MetadataValue]
    """Its scalars and lists of scalars: these are published."""
    nested: Mapping[str, Any]
    """What nests, as JSON would have it: only a mapping of metadata sees it."""


_NONE: Final = FrontMatter({}, {})


def front_matter(text: str) -> FrontMatter:
    """What stands between two lines ``---``; nothing if it is not YAML."""
    if not text.startswith("---"):
        return _NONE
    match = _BLOCK.match(text[:_LIMIT])
    if match is None:
        return _NONE
    try:
        found = yaml.load(match.group(1), _Loader)  # noqa: S506 - a safe loader
        items = list(found.items())[:_FIELDS] if isinstance(found, dict) else []
        given = [(name, _value(value)) for name, value in items if isinstance(name, str)]
    except Exception:  # PyYAML trips over `!!int ""`, `!!bool x` and the like with errors of every kind
        return _NONE
    fields: dict[str, MetadataValue] = {}
    # An anchor can stand for much, and be named often: then it is more than the block could say.
    room = _CHARACTERS
    for name, value in given:
        if value is None or (size := _size(value)) > room:
            continue
        room -= size
        fields[name] = value
    return FrontMatter(fields, _nested([(name, value) for name, value in items if isinstance(value, dict | list)]))


def _nested(items: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Tables, and lists of them, as far as they are no more than the block itself says."""
    room = _CHARACTERS

    def plain(value: Any) -> Any:
        nonlocal room
        room -= 1 + (len(value) if isinstance(value, str) else 0)
        if room < 0:
            raise OverflowError
        match value:
            case dict():
                return {plain(name): plain(inner) for name, inner in value.items() if isinstance(name, str)}
            case list():
                return [plain(inner) for inner in value]
            case _:
                return _value(value)

    found = {}
    for name, value in items:
        try:
            if isinstance(name, str) and (isinstance(value, dict) or any(isinstance(one, dict) for one in value)):
                found[name] = plain(value)
        except (OverflowError, RecursionError):  # it says one thing again and again, or itself within itself
            return found
    return found


def _value(value: Any) -> MetadataValue | None:
    match value:
        case bool() | str():
            return value
        case int():
            return _whole(value)
        case float():
            return value if math.isfinite(value) else None
        case dt.date() | dt.datetime():
            return value.isoformat()
        case list():
            items = (_whole(item) if type(item) is int else item for item in value)
            return [str(item) for item in items if isinstance(item, str | int | float)]
        case _:
            return None


def _whole(number: int) -> int | str | None:
    """A store keeps integers in 64 bits; Python does not write those of thousands of digits."""
    if -(1 << 63) <= number < 1 << 63:
        return number
    try:
        return str(number)
    except ValueError:
        return None


def _size(value: MetadataValue) -> int:
    return sum(map(len, value)) if isinstance(value, list) else len(str(value))
