"""What a connector's author writes to have it certified: the place where documents live, seen from the other side.

A place that can do more says so by having the methods of :class:`Renames`, :class:`Breaks` and so on.
What it cannot do is reported as *not shown*, never as passed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from pipeline.ports import Source

#: A document may hold so many bytes; the source must be made with this limit.
LIMIT_BYTES = 64 * 1024

Fault: TypeAlias = Literal["down", "slow", "unauthorised", "garbled"]
"""``down``: nobody answers. ``slow``: every answer takes half a second or more. ``unauthorised``: the
credentials are refused. ``garbled``: answers are broken in the middle, or make no sense.
"""


class NotShown(Exception):
    """This place cannot do what a check asks of it; the text says why."""


class Place(Protocol):
    """Where documents live. A check gets a new and empty one."""

    def put(self, path: str, text: str) -> None:
        """Create or change a document; ``path`` is the one that the source must list.

        Raises:
            NotShown: no document of this kind of source can be called so.
        """
        ...

    def remove(self, path: str) -> None:
        """Delete a document."""
        ...

    def source(self) -> Source:
        """A new source over this place, with the id ``place`` and the limit :data:`LIMIT_BYTES`. Called
        again, it is what a restarted process makes: what it kept on disk is still there, and nothing else.
        """
        ...


@runtime_checkable
class Renames(Protocol):
    """A place that can move a document in one step."""

    def rename(self, old: str, new: str) -> None:
        """Move a document."""
        ...


@runtime_checkable
class PutsMany(Protocol):
    """A place that takes many documents faster than one by one."""

    def put_many(self, documents: Mapping[str, str]) -> None:
        """Create documents: texts by path."""
        ...


@runtime_checkable
class Polls(Protocol):
    """A place whose source asks for changes from time to time instead of being told."""

    poll_seconds: float
    """Between two questions, as the source of this place is configured."""


@runtime_checkable
class Sends(Protocol):
    """A place whose documents are pushed: its senders keep what nobody has taken yet, and send it when they can."""

    def delivered(self) -> bool:
        """Whether everything was taken."""
        ...


@runtime_checkable
class Breaks(Protocol):
    """A place that can stop working, and work again."""

    faults: Collection[Fault]
    """Those that it can show."""

    def break_(self, fault: Fault) -> None:
        """From now on, for sources that are there and for new ones."""
        ...

    def mend(self) -> None:
        """As before the fault; documents are as they were, or as they were put meanwhile."""
        ...


@runtime_checkable
class Counts(Protocol):
    """A place that knows how often its sources come."""

    def asked(self) -> int:
        """Requests until now, or attempts to connect; also those that failed."""
        ...


@runtime_checkable
class Poisons(Protocol):
    """A place that can hold a document that nobody can ever read as it is."""

    def poison(self, path: str) -> None:
        """Put one: too large, of a broken format, or refused for itself alone."""
        ...


@runtime_checkable
class HasSecrets(Protocol):
    """A place whose source is given secrets in its settings."""

    secrets: Collection[str]
    """Their values: none may ever be shown."""


@runtime_checkable
class Closes(Protocol):
    """A place that holds processes, sockets or files."""

    def close(self) -> None:
        """Let them go; the check is over."""
        ...
