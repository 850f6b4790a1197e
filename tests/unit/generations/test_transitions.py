"""What may become of a generation, command by command: allowed, done already, or refused with what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from pipeline.config import ChunkingConfig, Config, ModelConfig
from pipeline.embedding.generation import generation_spec
from pipeline.errors import Refused
from pipeline.generations import transitions
from pipeline.generations.control import ControlState
from pipeline.generations.transitions import Change
from pipeline.specs import GenerationSpec


def spec(target_tokens: int) -> GenerationSpec:
    model = ModelConfig(provider="hashing", name="hashing")
    return generation_spec(Config(model=model, chunking=ChunkingConfig(target_tokens=target_tokens)))


A, B, C = spec(100), spec(60), spec(40)


class Story:
    """A control state, and commands that change it."""

    def __init__(self) -> None:
        self.state = ControlState()
        self.clock = 0.0

    def do(self, decide: Callable[..., Sequence[Change]], *arguments: object, **more: object) -> Sequence[Change]:
        self.clock += 1.0
        changes = decide(self.state, *arguments, self.clock, **more)
        for change in changes:
            one = change.generation
            before = self.state.generations.get(one.id, replace(one, transitions=0, adjustments=0))
            assert one.transitions + one.adjustments == before.transitions + before.adjustments + 1
            self.state = replace(
                self.state,
                generations={**self.state.generations, one.id: one},
                history=(*self.state.history, change.transition),
            )
        assert sum(one.state == "live" for one in self.state.generations.values()) == 1
        return changes

    def of(self, one: GenerationSpec) -> str:
        return self.state.generations[one.id].state

    def count(self, one: GenerationSpec) -> int:
        return self.state.generations[one.id].transitions

    def pass_gate(self, one: GenerationSpec) -> int:
        self.clock += 1.0
        self._apply(transitions.pass_gate(self.state, one.id, self.count(one), self.clock, {}))
        return self.count(one)

    def cut_over(self, one: GenerationSpec, examined: int | None, forced: str | None = None) -> Sequence[Change]:
        self.clock += 1.0
        return self._apply(transitions.cut_over(self.state, one.id, examined, self.clock, forced))

    def switched(self, one: GenerationSpec) -> None:
        self.do(transitions.start, one)
        self.cut_over(one, self.pass_gate(one))

    def _apply(self, changes: Sequence[Change]) -> Sequence[Change]:
        return self.do(lambda state, now: changes)


@pytest.fixture
def story() -> Story:
    made = Story()
    made.do(transitions.found, A)
    return made


def test_a_migration_from_start_to_retirement(story: Story) -> None:
    story.do(transitions.start, B)
    assert (story.of(A), story.of(B)) == ("live", "building")
    examined = story.pass_gate(B)
    assert story.of(B) == "ready"
    story.cut_over(B, examined)
    assert (story.of(A), story.of(B)) == ("previous", "live")
    story.do(transitions.roll_back)
    assert (story.of(A), story.of(B)) == ("live", "ready")
    story.cut_over(B, story.pass_gate(B))
    story.do(transitions.retire, A.id)
    assert (story.of(A), story.of(B)) == ("retired", "live")
    assert [one.state for one in story.state.history if one.generation == B.id] == [
        "building", "ready", "live", "ready", "ready", "live",
    ]  # fmt: skip


def test_what_was_done_already_changes_nothing(story: Story) -> None:
    assert story.do(transitions.found, B) == []
    story.do(transitions.start, B)
    assert story.do(transitions.start, B) == []
    assert story.do(transitions.start, A) == [], "it is live"
    story.cut_over(B, story.pass_gate(B))
    assert story.cut_over(B, None) == []
    story.do(transitions.retire, A.id)
    assert story.do(transitions.retire, A.id) == []
    story.do(transitions.start, C)
    story.do(transitions.abort, C.id)
    assert story.do(transitions.abort, C.id) == []


def test_one_migration_at_a_time(story: Story) -> None:
    story.do(transitions.start, B)
    with pytest.raises(Refused, match="under way"):
        story.do(transitions.start, C)


def test_the_previous_generation_is_rolled_back_to_not_built_again(story: Story) -> None:
    story.switched(B)
    with pytest.raises(Refused, match="rollback"):
        story.do(transitions.start, A)


def test_a_generation_that_is_over_begins_a_new_life_under_a_new_name(story: Story) -> None:
    story.do(transitions.start, B)
    story.do(transitions.abort, B.id)
    story.do(transitions.start, B)
    assert story.state.target is not None
    assert story.state.target.id == f"{B.id}-2"
    assert story.state.target.spec.fingerprint == B.fingerprint
    assert story.of(B) == "aborted"


def test_a_decision_on_old_news_is_refused(story: Story) -> None:
    """A job that examined a generation, and slept while it was cut over and rolled back."""
    story.do(transitions.start, B)
    examined = story.pass_gate(B)
    story.cut_over(B, examined)
    story.do(transitions.roll_back)
    assert story.of(B) == "ready"
    with pytest.raises(Refused, match="changed since"):
        story.cut_over(B, examined)
    with pytest.raises(Refused, match="changed since"):
        story.do(lambda state, now: transitions.pass_gate(state, B.id, examined, now, {}))
    assert story.do(lambda state, now: transitions.refuse_gate(state, B.id, examined, now, "worse", {})) == []


def test_a_job_that_forces_decides_on_what_it_saw_too(story: Story) -> None:
    story.do(transitions.start, B)
    seen = story.count(B)
    story.cut_over(B, None, "an operator")
    story.do(transitions.roll_back)
    with pytest.raises(Refused, match="changed since"):
        story.cut_over(B, seen, "the job")


def test_a_job_that_is_started_again_does_not_undo_an_abort(story: Story) -> None:
    story.do(transitions.start, B, again=False)
    story.do(transitions.abort, B.id, reason="too slow")
    with pytest.raises(Refused, match="aborted: too slow"):
        story.do(transitions.start, B, again=False)
    story.do(transitions.start, B)
    assert story.state.target is not None


def test_a_pause_does_not_make_a_decision_old_news(story: Story) -> None:
    story.do(transitions.start, B)
    examined = story.count(B)
    story.do(transitions.pause, B.id, paused=True)
    story.do(transitions.pause, B.id, paused=False)
    story.do(lambda state, now: transitions.pass_gate(state, B.id, examined, now, {}))
    assert story.of(B) == "ready"


def test_cutover_needs_the_gate_or_a_reason(story: Story) -> None:
    story.do(transitions.start, B)
    with pytest.raises(Refused, match="gate"):
        story.cut_over(B, story.count(B))
    story.cut_over(B, None, "it is a holiday")
    assert story.state.history[-1].details == {"forced": "it is a holiday"}


def test_a_refusal_of_the_gate_is_kept_and_a_ready_generation_is_not_ready_any_more(story: Story) -> None:
    story.do(transitions.start, B)
    story.pass_gate(B)
    count = story.count(B)
    story.do(lambda state, now: transitions.refuse_gate(state, B.id, count, now, "worse", {"ok": False}))
    assert story.of(B) == "building"
    assert story.state.history[-1].reason == "gate refused: worse"


def test_rollback_goes_to_the_last_that_was_live(story: Story) -> None:
    story.switched(B)
    story.switched(C)
    assert (story.of(A), story.of(B), story.of(C)) == ("previous", "previous", "live")
    story.do(transitions.roll_back)
    assert (story.of(A), story.of(B), story.of(C)) == ("previous", "live", "ready")
    with pytest.raises(Refused, match="rolled back to already"):
        story.do(transitions.roll_back)
    # C is ready, and one can be: B becomes previous again.
    story.do(transitions.roll_back, again=True)
    assert (story.of(A), story.of(B), story.of(C)) == ("live", "previous", "ready")


def test_a_rollback_goes_to_what_was_looked_at_or_nowhere(story: Story) -> None:
    story.switched(B)
    story.switched(C)
    with pytest.raises(Refused, match="look again"):
        story.do(transitions.roll_back, seen=A.id)
    story.do(transitions.roll_back, seen=B.id)
    assert story.of(B) == "live"


def test_which_was_last_is_told_by_the_history_and_not_by_clocks(story: Story) -> None:
    story.switched(B)
    story.clock = -100.0
    story.switched(C)
    assert story.state.previous is not None
    assert story.state.previous.id == B.id


def test_there_is_nothing_to_roll_back_to_at_first(story: Story) -> None:
    with pytest.raises(Refused, match="no previous"):
        story.do(transitions.roll_back)


@pytest.mark.parametrize("command", ["retire", "abort"])
def test_what_is_live_is_neither_retired_nor_aborted(story: Story, command: str) -> None:
    with pytest.raises(Refused, match="is live"):
        story.do(getattr(transitions, command), A.id)
    story.do(transitions.start, B)
    if command == "retire":
        with pytest.raises(Refused, match="is building"):
            story.do(transitions.retire, B.id)
    else:
        story.cut_over(B, story.pass_gate(B))
        with pytest.raises(Refused, match="is previous"):
            story.do(transitions.abort, A.id)


def test_a_worker_fails_what_is_being_built_and_nothing_else(story: Story) -> None:
    assert story.do(transitions.fail, A.id, reason="x") == []
    story.do(transitions.start, B)
    story.do(transitions.fail, B.id, reason="no such dimension")
    assert (story.of(B), story.state.history[-1].reason) == ("failed", "no such dimension")
    assert story.do(transitions.fail, B.id, reason="again") == []
    story.do(transitions.retire, B.id)


def test_pause_and_throttle(story: Story) -> None:
    story.do(transitions.start, B)
    story.do(transitions.pause, B.id, paused=True)
    assert story.do(transitions.pause, B.id, paused=True) == []
    story.do(transitions.throttle, B.id, share=0.25)
    target = story.state.target
    assert target is not None
    assert (target.paused, target.throttle, target.since) == (True, 0.25, target.begun), "the state is as old as it was"
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(Refused, match="out of range"):
            story.do(transitions.throttle, B.id, share=share)
    with pytest.raises(Refused, match="not being built"):
        story.do(transitions.pause, A.id, paused=True)


def test_a_generation_nobody_knows_is_named(story: Story) -> None:
    with pytest.raises(Refused, match="there is no generation gnone"):
        story.do(transitions.retire, "gnone")
