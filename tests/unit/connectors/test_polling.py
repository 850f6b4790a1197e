"""When a polled source asks to be listed again."""

from __future__ import annotations

import threading

import pytest

from connectors.polling import Polling
from pipeline.errors import SourceUnavailable
from pipeline.ports import Hint


def test_a_listing_that_takes_longer_than_a_poll_asks_for_no_other_and_the_time_runs_from_its_end() -> None:
    polling = Polling(0.05, threading.Event())
    assert polling.hints(0.0) == [Hint(None)]
    with polling.listing():
        assert polling.hints(0.2) == []
    assert polling.hints(0.0) == []
    assert polling.hints(10.0) == [Hint(None)]


def test_a_listing_that_fails_is_asked_for_again() -> None:
    polling = Polling(0.05, threading.Event())
    with pytest.raises(SourceUnavailable), polling.listing():
        raise SourceUnavailable("the site is away")
    assert polling.hints(10.0) == [Hint(None)]


def test_who_waits_is_woken_by_the_end() -> None:
    closed = threading.Event()
    polling = Polling(600.0, closed)
    with polling.listing():
        pass
    closed.set()
    assert polling.hints(60.0) == []
