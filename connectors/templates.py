"""Templates of texts: ``# {title}`` with the fields of a row or a record, and braces of its own doubled."""

from __future__ import annotations

import string
from collections.abc import Callable


def fields_of(template: str, what: str = "field") -> tuple[str, ...]:
    """The fields that a template names, in order.

    Args:
        template: of a setting.
        what: it calls a field.

    Raises:
        ValueError: a brace is open, or there is more in one than a name.
    """
    found: dict[str, None] = {}
    for _, name, spec, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if not name or spec or conversion:
            raise ValueError(
                f"a template has {what}s in braces, {{title}}, and braces of its own doubled, {{{{ and }}}}"
            )
        found[name] = None
    return tuple(found)


def naming(what: str) -> Callable[[str], str]:
    """A validator of a setting: a template that names something, or none at all."""

    def check(value: str) -> str:
        if value and not fields_of(value, what):
            raise ValueError(f"the template names no {what}; write {{{what}}}")
        return value

    return check
