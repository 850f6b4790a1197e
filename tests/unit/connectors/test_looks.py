"""Looks that are due later."""

from __future__ import annotations

import pytest

from connectors import looks
from connectors.looks import Look, Looks


def look(path: str, tries: int = 0) -> Look:
    return Look(path, 0.0, 0.0, tries=tries)


def test_they_come_when_they_are_due_in_order() -> None:
    agenda = Looks()
    agenda.add(look("b"), 2.0)
    agenda.add(look("a"), 1.0)
    assert agenda.next() == 1.0
    assert agenda.due(0.5) == []
    assert agenda.due(2.0) == [look("a"), look("b")]
    assert agenda.due(9.0) == []
    assert agenda.next() is None


def test_a_later_one_replaces_an_earlier_one_of_the_same_document() -> None:
    agenda = Looks()
    agenda.add(look("a", 1), 1.0)
    agenda.add(look("a", 2), 5.0)
    assert agenda.due(4.0) == []
    assert agenda.due(5.0) == [look("a", 2)]


def test_one_that_was_taken_does_not_come() -> None:
    agenda = Looks()
    agenda.add(look("a"), 1.0)
    assert agenda.take("a") == look("a")
    assert agenda.take("a") is None
    assert agenda.due(2.0) == []


def test_they_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "_LIMIT", 2)
    agenda = Looks()
    assert agenda.add(look("a"), 1.0)
    assert agenda.add(look("b"), 1.0)
    assert not agenda.add(look("c"), 1.0)
    assert agenda.add(look("a"), 3.0)


def test_a_look_that_is_put_off_keeps_the_number_of_the_first_one_that_asked() -> None:
    """Given a hint that still waits when a scan asks for the same document, then the hint is not done."""
    agenda = Looks()
    agenda.add(Look("a", 0.0, 0.0, number=3), 1.0)
    agenda.add(Look("b", 0.0, 0.0, number=5), 1.0)
    agenda.add(Look("a", 0.0, 0.0, number=7), 2.0)
    assert agenda.oldest() == 3
    assert agenda.due(3.0)[-1].number == 3
    assert agenda.oldest() is None
