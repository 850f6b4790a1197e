"""Which of a sender's operations counts: pure rules about revisions.

A document's revision only grows, through deletes as well. So whatever is sent twice, late or in another order ends in
the newest revision, and a sender may repeat whatever it got no answer to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from connectors.push.operations import REVISIONS, Condition, Outcome, Place, Refusal


class Content(NamedTuple):
    """What tells one content of a document from another."""

    digest: str
    """Of the text."""
    facts: str
    """Of everything else that is published with it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one document."""

    revision: int | None = None
    """The newest that was accepted; None: nothing was ever heard of it, or that is long ago."""
    content: Content | None = None
    """As it is published; None: it does not exist."""
    place: Place | None = None
    forgotten: bool = False

    @property
    def exists(self) -> bool:
        """Whether there is such a document."""
        return self.content is not None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The operation counts."""

    revision: int
    """That the document has from now on."""
    content: Content | None
    """That it has; None: it is gone."""
    event: bool
    """Whether there is something to publish: the content is another one."""


def decide(
    standing: Standing,
    revision: int | None,
    condition: Condition,
    content: Callable[[], Content] | None,
    *,
    create: bool = True,
) -> Accepted | Outcome:
    """What becomes of an operation.

    Args:
        standing: of its document.
        revision: the sender's; None: the next one.
        condition: that the sender makes.
        content: that the document would have, worked out only if that matters; None: it is to be deleted.
        create: False: the document must exist.
    """
    known = standing.revision
    if standing.forgotten:
        return _refused(standing, "forgotten", "it was forgotten, and stays out until an operator lifts that")
    if not _holds(standing, condition):
        now = "it does not exist" if not standing.exists else f"its revision is {known}"
        return _refused(standing, "precondition-failed", now)
    if revision is not None and known is not None and revision < known:
        return _refused(standing, "stale-revision", f"revision {revision} is older than {known}")
    if not standing.exists and (
        (content is not None and not create) or (content is None and _unheard(known, revision))
    ):
        return _refused(standing, "not-found", "there is no such document")
    wanted = None if content is None else content()
    same = wanted == standing.content
    if same and known is not None and revision in (None, known):
        return Accepted(known, wanted, event=False)
    if revision == known and revision is not None:
        return _refused(standing, "revision-taken", f"revision {known} has another content")
    next_ = revision if revision is not None else 1 if known is None else known + 1
    if next_ >= REVISIONS:
        return _refused(standing, "stale-revision", f"there is no revision after {known}")
    return Accepted(next_, wanted, event=not same)


def _unheard(known: int | None, revision: int | None) -> bool:
    """A delete of what nobody ever spoke of; with a revision it is kept, for a put that may come late."""
    return known is None and revision is None


def _holds(standing: Standing, condition: Condition) -> bool:
    if condition.absent and standing.exists:
        return False
    if condition.revisions is None:
        return True
    return standing.exists and (not condition.revisions or standing.revision in condition.revisions)


def _refused(standing: Standing, refusal: Refusal, detail: str) -> Outcome:
    return Outcome("refused", standing.revision, standing.place, refusal, detail)
