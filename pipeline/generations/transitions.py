"""What may become of a generation: every command as a pure function of what ``control`` says.

docs/adr/0002-migration.md has the picture. A command gives the changes to be written, all in one
transaction; none if it was carried out already; or it is refused, with what to do instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pipeline.errors import Refused
from pipeline.generations.control import FOLLOWED, UNDER_WAY, ControlState, Generation, State, Transition
from pipeline.generations.requests import refuse_while_collecting
from pipeline.specs import GenerationSpec

#: Below it a migration would not end.
LEAST_THROTTLE: Final = 0.01


@dataclass(frozen=True, slots=True)
class Change:
    """A generation after a change, and what the history says of it."""

    generation: Generation
    transition: Transition


def found(state: ControlState, spec: GenerationSpec, now: float) -> Sequence[Change]:
    """Make the first generation live. Nothing happens if one is live, whatever is proposed."""
    if state.live is not None:
        return []
    return [_begun(spec, "live", now, "the first generation")]


def start(state: ControlState, spec: GenerationSpec, now: float, *, again: bool = True) -> Sequence[Change]:
    """Begin a migration to ``spec``; nothing happens if it is under way or live.

    Without ``again``, what was aborted, has failed or was retired is not begun anew: a job that is
    started again must not undo what was decided meanwhile.

    Raises:
        Refused: another migration is under way, the previous generation is what is asked for,
            it is over, or a gc is open.
    """
    if state.live is None:
        raise Refused("no generation is live yet", "start `vectide up` or the workers once: that founds the first")
    same = [one for one in state.generations.values() if one.spec.fingerprint == spec.fingerprint]
    if any(one.state in UNDER_WAY or one.state == "live" for one in same):
        return []
    if any(one.state == "previous" for one in same):
        raise Refused(
            "that is the previous generation, which is still in step with the log",
            "`vectide migrate rollback` makes it live at once",
        )
    refuse_while_collecting(state)
    if state.target is not None:
        raise Refused(
            f"a migration to {_named(state.target)} is under way",
            "wait for it, or give it up with `vectide migrate abort`",
        )
    if same and not again:
        last = max(same, key=lambda one: one.spec.life)
        said = next(entry.reason for entry in reversed(state.history) if entry.generation == last.id)
        raise Refused(
            f"generation {last.id} is {last.state}: {said}",
            "`vectide migrate start` or `run --again` begins it anew",
        )
    life = max((one.spec.life for one in same), default=0) + 1
    return [_begun(spec.model_copy(update={"life": life}), "building", now, "migration started")]


def pass_gate(state: ControlState, id: str, examined: int, now: float, details: Mapping[str, Any]) -> Sequence[Change]:
    """The gate let a generation through.

    ``examined`` is the generation's ``transitions`` when the gate began to look.

    Raises:
        Refused: it was changed since.
    """
    generation = _one(state, id, UNDER_WAY, "passes no gate")
    _unchanged(generation, examined)
    return [_changed(generation, now, "gate passed", "ready", details)]


def refuse_gate(
    state: ControlState, id: str, examined: int, now: float, why: str, details: Mapping[str, Any]
) -> Sequence[Change]:
    """The gate did not let a generation through: it goes on building, and the history says why."""
    generation = state.generations.get(id)
    if generation is None or generation.state not in UNDER_WAY or generation.transitions != examined:
        return []  # overtaken: what it found is of no interest any more
    return [_changed(generation, now, f"gate refused: {why}", "building", details)]


def cut_over(
    state: ControlState, id: str, examined: int | None, now: float, forced: str | None = None
) -> Sequence[Change]:
    """Make a generation live, and the live one previous; nothing happens if it is live.

    ``examined`` is its ``transitions`` after it passed the gate: whoever slept meanwhile has an old
    one. ``forced`` says why it is done without having passed; without ``examined``, whatever
    happened meanwhile.

    Raises:
        Refused: it is not ready, or was changed since.
    """
    generation = _one(state, id, UNDER_WAY | {"live"}, "cannot become live")
    if generation.state == "live":
        return []
    if forced is None and generation.state != "ready":
        raise Refused(
            f"generation {id} is {generation.state}: it has not passed the gate",
            "`vectide migrate cutover` passes it first",
        )
    if forced is None or examined is not None:
        _unchanged(generation, examined)
    assert state.live is not None  # nothing is under way before one is
    reason = "cutover" if forced is None else f"cutover forced: {forced}"
    details = {} if forced is None else {"forced": forced}
    return [
        _changed(state.live, now, f"cutover to {id}", "previous"),
        _changed(generation, now, reason, "live", details),
    ]


def roll_back(
    state: ControlState, now: float, reason: str = "", *, seen: str | None = None, again: bool = False
) -> Sequence[Change]:
    """Make the previous generation live again, and the live one ready; or previous, while a
    migration to another one is under way.

    ``seen`` is the previous generation that was looked at. Twice in a row goes back further only
    with ``again``: an answer that was lost is asked for again.

    Raises:
        Refused: there is none, or it was rolled back to already.
    """
    previous, live = state.previous, state.live
    if live is not None and not again:
        last = next((entry for entry in reversed(state.history) if entry.generation == live.id), None)
        if last is not None and last.reason.startswith("rollback from"):
            raise Refused(
                f"{live.id} was rolled back to already", "`vectide migrate rollback --again` goes back further"
            )
    if previous is None or live is None:
        raise Refused("there is no previous generation to go back to", "`vectide migrate history` shows what there was")
    if seen is not None and previous.id != seen:
        raise Refused(f"the previous generation is {previous.id} now, and not {seen}", "look again")
    said = f"rolled back to {previous.id}" + (f": {reason}" if reason else "")
    return [
        _changed(live, now, said, "ready" if state.target is None else "previous"),
        _changed(previous, now, f"rollback from {live.id}", "live"),
    ]


def abort(state: ControlState, id: str, now: float, reason: str = "") -> Sequence[Change]:
    """Give a migration up; nothing happens if that was done.

    Raises:
        Refused: it is live or was.
    """
    generation = _one(state, id, UNDER_WAY | {"aborted"}, "cannot be aborted")
    if generation.state == "aborted":
        return []
    return [_changed(generation, now, f"aborted{f': {reason}' if reason else ''}", "aborted")]


def fail(state: ControlState, id: str, now: float, reason: str) -> Sequence[Change]:
    """A worker met what only a person can mend while it built a generation."""
    generation = state.generations.get(id)
    if generation is None or generation.state not in UNDER_WAY:
        return []
    return [_changed(generation, now, reason, "failed")]


def retire(state: ControlState, id: str, now: float) -> Sequence[Change]:
    """Let a generation go for good; nothing happens if that was done.

    Raises:
        Refused: it is live, or still being built.
    """
    generation = _one(state, id, frozenset({"previous", "aborted", "failed", "retired"}), "cannot be retired")
    if generation.state == "retired":
        return []
    return [_changed(generation, now, "retired", "retired")]


def pause(state: ControlState, id: str, now: float, *, paused: bool) -> Sequence[Change]:
    """Stop building a generation, or go on; nothing happens if it is so already.

    Raises:
        Refused: it is not being built.
    """
    generation = _one(state, id, UNDER_WAY, "is not being built")
    if generation.paused == paused:
        return []
    return [_adjusted(replace(generation, paused=paused), now, "paused" if paused else "resumed")]


def throttle(state: ControlState, id: str, now: float, share: float) -> Sequence[Change]:
    """Let building take this share of the time.

    Raises:
        Refused: it is not being built, or the share is not between 1 % and 100 %.
    """
    if not LEAST_THROTTLE <= share <= 1.0:
        raise Refused(f"a throttle of {share:.0%} is out of range", "give 1% to 100%")
    generation = _one(state, id, UNDER_WAY, "is not being built")
    if generation.throttle == share:
        return []
    return [_adjusted(replace(generation, throttle=share), now, f"throttled to {share:.0%}")]


def _begun(spec: GenerationSpec, state: State, now: float, reason: str) -> Change:
    return Change(Generation(spec, state, now, 1, now), Transition(spec.id, state, now, reason))


def _changed(
    generation: Generation, now: float, reason: str, state: State, details: Mapping[str, Any] | None = None
) -> Change:
    since = generation.since if state == generation.state else now
    after = replace(generation, state=state, since=since, transitions=generation.transitions + 1)
    return Change(after, Transition(generation.id, state, now, reason, dict(details or {})))


def _adjusted(generation: Generation, now: float, reason: str) -> Change:
    """Only its pace: what was decided about it stays right, so its ``transitions`` are not counted."""
    after = replace(generation, adjustments=generation.adjustments + 1)
    return Change(after, Transition(generation.id, generation.state, now, reason))


def _one(state: ControlState, id: str, states: frozenset[State] | set[State], why_not: str) -> Generation:
    generation = state.generations.get(id)
    if generation is None:
        known = ", ".join(one.id for one in state.generations.values() if one.state in FOLLOWED)
        raise Refused(f"there is no generation {id}", f"there are: {known}" if known else "none was founded yet")
    if generation.state not in states:
        raise Refused(
            f"generation {id} is {generation.state}: it {why_not}", "`vectide migrate status` shows where everything is"
        )
    return generation


def _unchanged(generation: Generation, examined: int | None) -> None:
    if generation.transitions != examined:
        raise Refused(
            f"generation {generation.id} was changed since it was examined",
            "`vectide migrate history` shows by what; start anew from there",
        )


def _named(generation: Generation) -> str:
    return f"{generation.id} ({generation.spec.model.name})"
