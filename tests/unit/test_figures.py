"""What ``status`` counts while a pipeline comes into being."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.cli import figures
from pipeline.errors import CollectionUnfinished
from pipeline.naming import Names


class Store:
    """A store whose one collection has its indexes after some looks at it."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def open(self, name: str) -> Any:
        return self

    def count_heads(self) -> dict[str, int]:
        self.looks -= 1
        if self.looks >= 0:
            raise CollectionUnfinished("the collection is being made")
        return {"complete": 2, "failed": 1, "deleted": 5}

    def count_chunks(self) -> int:
        return 7


def stored(looks: int) -> dict[str, Any]:
    parts: Any = SimpleNamespace(store=Store(looks), names=Names("t", "p"))
    live: Any = SimpleNamespace(id="g0")
    return figures._stored(parts, live)


def test_a_collection_that_is_being_made_is_waited_for() -> None:
    assert stored(3) == {"documents": 3, "chunks": 7, "incomplete": 0, "failed": 1, "omitted": 0}


def test_one_that_is_never_finished_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_MADE_SECONDS", 0.3)
    with pytest.raises(CollectionUnfinished):
        stored(1_000_000)
