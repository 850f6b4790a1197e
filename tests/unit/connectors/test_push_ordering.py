"""Which operation counts: any order, any repetition, and the newest revision is what remains."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.push.operations import REVISIONS, Condition, Outcome
from connectors.push.ordering import Accepted, Content, Standing, decide

ALWAYS = Condition()


def content(text: str) -> Content:
    return Content(text, "facts")


def apply(
    standing: Standing, revision: int | None, text: str | None, condition: Condition = ALWAYS
) -> tuple[Standing, str]:
    """Text None: a delete."""
    verdict = decide(standing, revision, condition, None if text is None else lambda: content(text))
    if isinstance(verdict, Outcome):
        assert verdict.refusal is not None
        return standing, verdict.refusal
    return Standing(verdict.revision, verdict.content), "event" if verdict.event else "unchanged"


#: By revision, what the sender has: None is a delete.
histories = st.lists(st.one_of(st.none(), st.sampled_from("abc")), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(histories, st.integers(0, 2**32))
def test_whatever_comes_late_or_twice_the_newest_revision_remains(history: list[str | None], seed: int) -> None:
    """Given a sender's history, sent in any order and any number of times, then the last of it is what there is."""
    chance = random.Random(seed)
    sent = [*enumerate(history), *chance.choices(list(enumerate(history)), k=len(history))]
    chance.shuffle(sent)
    standing, events = Standing(), 0
    for revision, text in sent:
        before = standing
        standing, said = apply(standing, revision, text)
        events += said == "event"
        assert (standing.revision or 0) >= (before.revision or 0), "a revision never goes back"
        if before.revision is not None and revision < before.revision:
            assert said == "stale-revision"
    newest = len(history) - 1
    assert standing.revision == newest
    assert standing.content == (None if history[newest] is None else content(history[newest]))
    assert events <= len(history), "what is repeated is no event"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.none(), st.sampled_from("ab")), max_size=10))
def test_without_revisions_the_last_word_counts_and_is_one_higher(texts: list[str | None]) -> None:
    standing = Standing()
    for text in texts:
        before = standing
        standing, said = apply(standing, None, text)
        if said == "event":
            assert standing.revision == (before.revision or 0) + 1
        elif said == "not-found":
            assert before.revision is None
            assert text is None
        assert standing.content == (None if text is None else content(text))


@pytest.mark.parametrize(
    ("standing", "revision", "text", "said"),
    [
        (Standing(5, content("a")), 5, "a", "unchanged"),
        (Standing(5, content("a")), 5, "b", "revision-taken"),
        (Standing(5, content("a")), 5, None, "revision-taken"),
        (Standing(5, content("a")), 4, "a", "stale-revision"),
        (Standing(5, content("a")), 4, None, "stale-revision"),
        (Standing(5, content("a")), 6, "a", "unchanged"),
        (Standing(5, None), 5, None, "unchanged"),
        (Standing(5, None), 5, "a", "revision-taken"),
        (Standing(5, None), 4, "a", "stale-revision"),
        (Standing(5, None), None, None, "unchanged"),
        (Standing(), None, None, "not-found"),
        (Standing(), 7, None, "unchanged"),
        (Standing(forgotten=True), 7, "a", "forgotten"),
        (Standing(REVISIONS - 1, content("a")), None, "b", "stale-revision"),
    ],
)
def test_each_case(standing: Standing, revision: int | None, text: str | None, said: str) -> None:
    after, got = apply(standing, revision, text)
    assert got == said
    if said == "unchanged" and revision is not None:
        assert after.revision == revision, "a newer revision of the same is remembered"


def test_a_patch_needs_a_document_and_reads_nothing_that_is_stale() -> None:
    def never() -> Content:
        raise AssertionError("the log was read for nothing")

    for standing, revision, refusal in (
        (Standing(), None, "not-found"),
        (Standing(3, None), None, "not-found"),
        (Standing(3, content("a")), 2, "stale-revision"),
    ):
        verdict = decide(standing, revision, ALWAYS, never, create=False)
        assert isinstance(verdict, Outcome)
        assert verdict.refusal == refusal


@pytest.mark.parametrize(
    ("standing", "condition", "holds"),
    [
        (Standing(3, content("a")), Condition((3,)), True),
        (Standing(3, content("a")), Condition((2, 4)), False),
        (Standing(3, content("a")), Condition(()), True),
        (Standing(3, None), Condition((3,)), False),
        (Standing(), Condition(()), False),
        (Standing(), Condition(None, absent=True), True),
        (Standing(3, None), Condition(None, absent=True), True),
        (Standing(3, content("a")), Condition(None, absent=True), False),
    ],
)
def test_conditions(standing: Standing, condition: Condition, holds: bool) -> None:
    verdict = decide(standing, None, condition, lambda: content("b"))
    assert isinstance(verdict, Accepted) is holds
