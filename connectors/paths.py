"""A small part of JSONPath (RFC 9535): ``$.owner``, ``$.author.name``, ``$['a.b']``, ``$.groups[*].id``, ``$.tags[0]``.

Names, positions and ``*``. No filters, slices, ``..`` or functions: a path costs at most what it looks at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

_STEP: Final = re.compile(
    r"""\.(?P<name>[^\W\d][\w-]*)|\[(?P<index>0|-?[1-9]\d{0,8})\]|(?P<every>\[\*\]|\.\*)"""
    r"""|\['(?P<single>[^'\\]*)'\]|\["(?P<double>[^"\\]*)"\]"""
)
#: Of a path, and of what it finds.
_STEPS: Final = 32
_FOUND: Final = 10_000

Step: TypeAlias = str | int | None
"""A name, a position, or every one."""


@dataclass(frozen=True, slots=True)
class Path:
    """Where a value lies in what nests as JSON does."""

    steps: tuple[Step, ...]

    @classmethod
    def parse(cls, text: str) -> Path:
        """From its text.

        Raises:
            ValueError: it is no path; says where and what would be one.
        """
        if not text.startswith("$"):
            raise ValueError("a path begins with $")
        steps: list[Step] = []
        at = 1
        while at < len(text):
            match = _STEP.match(text, at)
            if match is None:
                raise ValueError(f"{text[at:][:20]!r} is no step of a path; there are .name, ['name'], [0] and [*]")
            if match["every"]:
                steps.append(None)
            elif match["index"]:
                steps.append(int(match["index"]))
            else:
                steps.append(next(one for one in match.group("name", "single", "double") if one is not None))
            at = match.end()
        if not steps:
            raise ValueError("it is the whole document: name a value in it, as in $.owner")
        if len(steps) > _STEPS:
            raise ValueError(f"it has more than {_STEPS} steps")
        return cls(tuple(steps))

    @property
    def single(self) -> bool:
        """True if it leads to one value at most."""
        return None not in self.steps

    def find(self, root: object) -> list[Any]:
        """The values that it leads to, in order; null counts as none."""
        found: list[Any] = [root]
        for step in self.steps:
            found = [inner for value in found for inner in _inside(value, step)][:_FOUND]
        return [value for value in found if value is not None]


def _inside(value: object, step: Step) -> Sequence[Any]:
    match step, value:
        case str(), Mapping():
            return [value[step]] if step in value else []
        case int(), list() | tuple():
            return [value[step]] if -len(value) <= step < len(value) else []
        case None, Mapping():
            return list(value.values())
        case None, list() | tuple():
            return value
        case _:
            return []
