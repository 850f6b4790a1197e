"""What may be asked of sources' writers, in which order it counts, and what it keeps out of the index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.config import ChunkingConfig, Config, ModelConfig
from pipeline.embedding.generation import generation_spec
from pipeline.errors import Refused
from pipeline.generations import operator, requests, transitions
from pipeline.generations.control import ControlState, LogIdentity, read
from pipeline.identity import DocumentKey
from pipeline.records import Request
from tests.support.workers import NAMES

MODEL = ModelConfig(provider="hashing", name="hashing")
A = generation_spec(Config(model=MODEL))
B = generation_spec(Config(model=MODEL, chunking=ChunkingConfig(target_tokens=64)))
ODD = "caf\udce9/漢字 %.txt"


def request(id: str, kind: str = "forget", paths: Sequence[str] = ("a",), source: str = "s") -> Request:
    return Request(id, kind, source, 1.0, 0, tuple(paths))  # type: ignore[arg-type]


def after(state: ControlState, *changed: Request) -> ControlState:
    return replace(state, requests={**state.requests, **{one.id: one for one in changed}})


def asked(state: ControlState, *wanted: Request) -> ControlState:
    return after(state, *requests.ask(state, wanted))


def test_a_request_comes_back_from_control_as_it_was_asked(broker: EmbeddedBroker) -> None:
    wanted = Request("r", "gc", "s:\udcff", 12.5, 0, ("a", ODD), {0: 7, 3: 1 << 41}, 11.5, 42, 0.0)
    operator.operate(broker, NAMES, lambda state: requests.ask(state, [wanted]))
    assert read(broker, NAMES).requests == {"r": replace(wanted, number=1)}
    operator.operate(broker, NAMES, lambda state: requests.close(state, ["r", "gone"], 20.0))
    state = operator.operate(broker, NAMES, lambda state: requests.close(state, ["r"], 99.0))
    assert state.requests["r"].closed == 20.0, "closed once"
    end = broker.offsets(NAMES.control)[0].end
    operator.operate(broker, NAMES, lambda state: requests.ask(state, [wanted]))
    assert broker.offsets(NAMES.control)[0].end == end, "asked once"
    state = operator.forget_requests(broker, NAMES, lambda state: requests.needless(state, 30.0))
    assert state.requests == {}


def test_an_open_request_for_the_same_is_joined_and_a_closed_one_asked_anew() -> None:
    state = asked(ControlState(), request("r1", paths=("a", "b")))
    assert requests.ask(state, [request("r2", paths=("b", "a"))]) == []
    assert requests.joined(state, request("r2", paths=("b", "a"))) == state.requests["r1"]
    assert len(requests.ask(state, [request("r2", paths=("a",)), request("r3", paths=("a", "b"), source="t")])) == 2
    state = after(state, *requests.close(state, ["r1"], 5.0))
    assert [one.number for one in requests.ask(state, [request("r2", paths=("b", "a"))])] == [2]


def test_what_is_kept_out_follows_the_order_of_asking_and_no_clock_and_no_log_order() -> None:
    """Given a forget that is closed after its lift was asked, so that its record comes last, then it is lifted."""
    state = asked(ControlState(), request("r1", paths=("a", "b")))
    state = asked(state, replace(request("r2", "lift"), at=-5.0))
    closed = requests.close(state, ["r1"], 9.0)
    state = after(replace(state, requests={"r2": state.requests["r2"]}), *closed)
    found = requests.suppressed(state)
    assert set(found.documents) == {DocumentKey("s", "b")}
    assert found.by(DocumentKey("s", "a")) is None
    assert found.by(DocumentKey("s", "b")) == state.requests["r1"]


def test_a_whole_source_is_kept_out_and_its_lift_leaves_single_documents_out() -> None:
    state = asked(ControlState(), request("r1"), request("r2", paths=()))
    assert requests.suppressed(state).by(DocumentKey("s", "z")) == state.requests["r2"]
    state = asked(state, request("r3", "lift", ()))
    found = requests.suppressed(state)
    assert (set(found.documents), found.sources) == ({DocumentKey("s", "a")}, {})


def test_only_what_is_closed_and_has_no_effect_is_needless() -> None:
    state = asked(ControlState(), request("forgotten"), request("lifted", paths=("b",)), request("open", "gc", ()))
    state = asked(state, request("lift", "lift", ("b",)))
    assert requests.needless(state, 100.0) == []
    state = after(state, *requests.close(state, ["forgotten", "lifted", "lift"], 50.0))
    assert {one.id for one in requests.needless(state, 100.0)} == {"lifted", "lift"}
    assert requests.needless(state, 50.0) == []


def test_gc_and_a_migration_exclude_each_other(broker: EmbeddedBroker) -> None:
    operator.found(broker, NAMES, lambda state: transitions.found(state, A, 1.0), LogIdentity(0, "id"))
    gc = request("gc", "gc", ())
    operator.operate(broker, NAMES, lambda state: requests.ask(state, [gc]))
    with pytest.raises(Refused, match="vectide gc --apply"):
        operator.operate(broker, NAMES, lambda state: transitions.start(state, B, 2.0))
    operator.operate(broker, NAMES, lambda state: requests.close(state, ["gc"], 3.0))
    operator.operate(broker, NAMES, lambda state: transitions.start(state, B, 4.0))
    with pytest.raises(Refused, match="being built"):
        operator.operate(broker, NAMES, lambda state: requests.ask(state, [request("gc2", "gc", ())]))
    state = operator.operate(broker, NAMES, lambda state: requests.ask(state, [request("r")]))
    assert "r" in state.requests, "forgetting waits for nothing"


@pytest.mark.parametrize(("kind", "opposite"), [("forget", "lift"), ("lift", "forget")])
def test_an_open_request_that_was_reversed_since_is_not_joined(kind: str, opposite: str) -> None:
    """Given one that was carried out and that nobody saw done, then its opposite, then the same is asked anew."""
    state = asked(ControlState(), request("r1", kind, ("a", "b")))
    for number, other in enumerate((request("o1", opposite, ("c",)), request("o2", opposite, ()))):
        state = asked(state, other)
        assert requests.ask(state, [request("r2", kind, ("a", "b"))]) == [], f"{number} is of something else"
    state = asked(state, request("o3", opposite, ("b", "c")))
    assert [one.id for one in requests.ask(state, [request("r2", kind, ("a", "b"))])] == ["r2"]
    state = asked(state, request("r2", kind, ("a", "b")))
    assert requests.joined(state, request("r3", kind, ("b", "a"))) == state.requests["r2"]
    assert requests.joined(state, request("r1", kind, ("a", "b"))) == state.requests["r1"], "itself"
    whole = asked(ControlState(), request("w1", kind, ()), request("w2", opposite, ()))
    assert [one.id for one in requests.ask(whole, [request("w3", kind, ())])] == ["w3"]


def test_a_lift_stays_as_long_as_a_forget_of_more_than_it_lifts() -> None:
    """Given a forget of two of which one was lifted, then a gc does not bring that suppression back."""
    state = asked(ControlState(), request("f", paths=("a", "c")))
    state = asked(state, request("l", "lift", ("a",)), request("other", "lift", ("z",)), request("t", "lift", (), "s"))
    state = after(state, *requests.close(state, ["f", "l", "other", "t"], 5.0))
    gone = requests.needless(state, 100.0)
    assert {one.id for one in gone} == {"other", "t"}
    left = ControlState(requests={id: one for id, one in state.requests.items() if one not in gone})
    assert set(requests.suppressed(left).documents) == {DocumentKey("s", "c")}
