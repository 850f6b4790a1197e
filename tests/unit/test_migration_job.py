"""The job of a migration, told by turns what a pipeline answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.cli.job import Job
from pipeline.config import Config
from pipeline.errors import Refused


class Pipeline:
    """Refuses its gate to a generation of which another job cuts over, or nobody does."""

    def __init__(self, *, cut_over: bool) -> None:
        self.cut_over = cut_over
        self.generation = {"id": "g1", "state": "ready", "transitions": 3, "paused": False, "lag": 0}
        self.generation["oldest_unprocessed_event_age_seconds"] = 0.0

    def ask(self, method: str, path: str, arguments: Mapping[str, Any]) -> Any:
        match arguments["action"]:
            case "status":
                return {"generations": [dict(self.generation)]}
            case "history":
                return {"history": []}
            case "gate":
                if self.cut_over:
                    self.generation |= {"state": "live", "transitions": 4}
                raise Refused("generation g1 is live: it passes no gate", "look")
            case other:
                raise AssertionError(other)


def turn(pipeline: Pipeline) -> Mapping[str, Any] | None:
    job = Job(Config(), {}, None, None, automatic=True, force=None, quiet=True)
    stop = threading.Event()
    return job._turn(pipeline.ask, stop, "g1", pipeline.ask("POST", "/migrate", {"action": "status"}))


def test_a_cutover_of_a_job_that_was_killed_is_no_refusal_to_the_next() -> None:
    """Given one that takes effect after the next job has looked, and before that one's gate begins."""
    pipeline = Pipeline(cut_over=True)
    assert turn(pipeline) is None
    done = turn(pipeline)
    assert done is not None
    assert done["generation"]["state"] == "live"


def test_a_gate_that_is_refused_of_what_has_not_moved_is_a_refusal() -> None:
    with pytest.raises(Refused, match="passes no gate"):
        turn(Pipeline(cut_over=False))
