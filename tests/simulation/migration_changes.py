"""The product, changed for a while: mutants lack a guard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """Something of the product, and what takes its place, made from it.

    Attributes:
        where: a module or a class.
        name: in there.
        make: the replacement of what is there.
    """

    where: Any
    name: str
    make: Callable[[Any], Any]


@contextmanager
def changed(*changes: Change) -> Iterator[None]:
    """Within it the product is another one."""
    kept = []
    try:
        for change in changes:
            original = change.where.__dict__[change.name]
            kept.append((change, original))
            setattr(change.where, change.name, change.make(original))
        yield
    finally:
        for change, original in reversed(kept):
            setattr(change.where, change.name, original)
