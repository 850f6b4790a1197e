"""Long work behind short requests: one at a time, the same one for who asks again, and its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.cli.tasks import Task, Tasks, raised
from pipeline.errors import ConfigError, Refused, Transient

SECONDS = 20.0


@pytest.fixture
def tasks() -> Iterator[Tasks]:
    made = Tasks()
    yield made
    made.close()


def ended(tasks: Tasks) -> dict[str, object]:
    until = time.monotonic() + SECONDS
    while True:
        task = tasks.polled()
        assert task is not None
        if not task["running"]:
            return tasks.asked_after({"id": task["id"]})
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_task_says_how_far_it_is_and_what_has_come_of_it(tasks: Tasks) -> None:
    assert tasks.polled() is None
    said, go = threading.Event(), threading.Event()

    def work(task: Task) -> dict[str, object]:
        task.at("reading", 3, 7)
        said.set()
        go.wait(SECONDS)
        return {"answer": 42}

    begun = tasks.begin("look", work)
    said.wait(SECONDS)
    now = tasks.asked_after(begun)
    assert (now["running"], now["phase"], now["done"], now["whole"], now["found"]) == (True, "reading", 3, 7, None)
    go.set()
    assert raised(ended(tasks)) == {"answer": 42}


def test_who_asks_for_the_same_waits_for_the_same_and_others_are_told_to_come_later(tasks: Tasks) -> None:
    go = threading.Event()

    def work(task: Task) -> dict[str, object]:
        go.wait(SECONDS)
        return {}

    first = tasks.begin("verify", work, "g1")
    assert tasks.begin("verify", work, "g1")["id"] == first["id"]
    with pytest.raises(Transient, match="a verify is running"):
        tasks.begin("verify", work, "g2")
    go.set()
    ended(tasks)
    assert tasks.begin("verify", work, "g1")["id"] != first["id"]
    with pytest.raises(Transient, match="not there any more"):
        tasks.asked_after({"id": first["id"]})


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (ConfigError("no model", "bring it"), ConfigError, "no model"),
        (Transient("away"), Transient, "away"),
        (KeyError("x"), Refused, "this is a bug of vectide"),
    ],
)
def test_what_a_task_fails_with_is_raised_where_it_is_asked_after(
    tasks: Tasks, error: Exception, kind: type[Exception], says: str
) -> None:
    def work(task: Task) -> dict[str, object]:
        raise error

    tasks.begin("look", work)
    with pytest.raises(kind, match=says):
        raised(ended(tasks))


def test_a_task_that_is_given_up_ends(tasks: Tasks) -> None:
    begun = threading.Event()

    def work(task: Task) -> dict[str, object]:
        begun.set()
        until = time.monotonic() + SECONDS
        while not task.stopped() and time.monotonic() < until:
            time.sleep(0.005)
        raise Transient("stopped")

    tasks.begin("look", work)
    begun.wait(SECONDS)
    tasks.close()
    task = tasks.polled()
    assert task is not None
    assert (task["running"], task["error"]) == (False, "stopped")
