"""A publisher for one piece of work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from pipeline.deadline import Deadline
from pipeline.ports import Publisher, TransactionalPublisher

P = TypeVar("P", Publisher, TransactionalPublisher)


@contextmanager
def closed_after(publisher: P, seconds: float) -> Iterator[P]:
    """The publisher, which is closed however the work ends: it has a thread and connections of its own.

    Args:
        publisher: nobody else's.
        seconds: for closing.
    """
    try:
        yield publisher
    finally:
        publisher.close(Deadline.after(seconds))
