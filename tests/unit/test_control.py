"""The control topic: one first generation whoever founds it, and no work on another log."""

from __future__ import annotations

import threading

import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.config import ChunkingConfig, Config, ModelConfig
from pipeline.deadline import Deadline
from pipeline.embedding.generation import generation_spec
from pipeline.errors import LogDiverged, MalformedRecord, NewerSchema
from pipeline.generations import operator, transitions
from pipeline.generations.control import Control, ControlState, LogIdentity
from pipeline.naming import Names
from pipeline.ports import NewRecord
from pipeline.specs import GenerationSpec
from tests.support.workers import NAMES

LOG = LogIdentity(0, "topic-id")
HASHING = ModelConfig(provider="hashing", name="hashing")
SPEC = generation_spec(Config(model=HASHING))
OTHER = generation_spec(Config(model=HASHING, chunking=ChunkingConfig(target_tokens=64)))


def found(broker: EmbeddedBroker, names: Names, spec: GenerationSpec, log: LogIdentity) -> ControlState:
    return operator.found(broker, names, lambda state: transitions.found(state, spec, 1.0), log)


def write(broker: EmbeddedBroker, key: bytes, value: bytes) -> None:
    broker.publisher("test").publish([NewRecord(NAMES.control, key, value)], Deadline.after(5))


def test_the_first_generation_is_live_and_its_spec_comes_back_whole(broker: EmbeddedBroker) -> None:
    state = found(broker, NAMES, SPEC, LOG)
    assert state.live is not None
    assert (state.live.spec, state.live.state, state.log) == (SPEC, "live", LOG)
    assert [one.id for one in state.followed] == [SPEC.id]


def test_founding_again_changes_nothing_whatever_is_proposed(broker: EmbeddedBroker) -> None:
    """Given a live generation, then a configuration that names another model does not replace it."""
    found(broker, NAMES, SPEC, LOG)
    end = broker.offsets(NAMES.control)[0].end
    state = found(broker, NAMES, OTHER, LOG)
    assert state.live is not None
    assert state.live.spec == SPEC
    assert broker.offsets(NAMES.control)[0].end == end


def test_founders_at_the_same_time_agree(broker: EmbeddedBroker) -> None:
    states: list[ControlState] = []
    start = threading.Barrier(6)

    def go(number: int) -> None:
        start.wait(10)
        states.append(found(broker, NAMES, SPEC if number % 2 else OTHER, LOG))

    threads = [threading.Thread(target=go, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(states) == 6
    assert len({state.live.id for state in states if state.live is not None}) == 1
    follower = Control(broker, NAMES)
    assert len(follower.refresh().generations) == 1, "the others found it made, and made none"
    follower.close()


def test_a_log_that_was_made_again_or_has_another_epoch_is_refused(broker: EmbeddedBroker) -> None:
    found(broker, NAMES, SPEC, LOG)
    for other in (LogIdentity(0, "made again"), LogIdentity(1, "topic-id")):
        with pytest.raises(LogDiverged, match=r"pipeline\.epoch"):
            found(broker, NAMES, SPEC, other)


def test_a_follower_sees_what_is_written_later(broker: EmbeddedBroker) -> None:
    follower = Control(broker, NAMES)
    assert follower.refresh().live is None
    found(broker, NAMES, SPEC, LOG)
    live = follower.refresh().live
    assert live is not None
    assert live.id == SPEC.id
    assert follower.state.live == live
    follower.close()


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b'{"schema": 2}', NewerSchema),
        (b"not json", MalformedRecord),
        (b"[]", MalformedRecord),
        (b'{"schema": 1}', MalformedRecord),
        (b'{"schema": "1"}', MalformedRecord),
    ],
)
def test_what_it_does_not_understand_is_refused_each_time(
    broker: EmbeddedBroker, value: bytes, error: type[Exception]
) -> None:
    """Half of the truth is none: a second look must not pass over what the first refused."""
    found(broker, NAMES, SPEC, LOG)
    write(broker, b"generation/x", value)
    follower = Control(broker, NAMES)
    for _ in range(2):
        with pytest.raises(error, match="generation/x"):
            follower.refresh()
    follower.close()


def test_a_key_of_later_versions_is_passed_over(broker: EmbeddedBroker) -> None:
    found(broker, NAMES, SPEC, LOG)
    write(broker, b"something/new", b'{"schema": 1}')
    follower = Control(broker, NAMES)
    assert follower.refresh().live is not None
    follower.close()
