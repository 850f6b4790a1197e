"""Migrations with one guard left out or weakened, each with the kind of schedule that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from pipeline.cli import assembly, clearing, gating, job, line, lines, migration_status, migrations
from pipeline.deadline import Deadline
from pipeline.errors import CollectionMissing, Fatal, Fenced
from pipeline.generations import control, gate, operator, transitions
from pipeline.generations.control import ControlState
from pipeline.search import searcher, service
from pipeline.sync import reading
from pipeline.verification import Findings, Verdict
from tests.simulation.migration_changes import Change, changed
from tests.simulation.migration_schedules import JOBS, OPERATORS, Profile


@dataclass(frozen=True)
class Mutant:
    """Weaker migrations.

    Attributes:
        without: what they lack, for people.
        profile: schedules that show it; None: only a scenario does (test_migration_scenarios).
        changes: what is replaced.
    """

    without: str
    profile: Profile | None
    changes: tuple[Change, ...]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it migrations are these."""
        with changed(*self.changes):
            yield


# ------------------------------------------------------------------------------- transitions


def _whatever_was_examined(product: Any) -> Any:
    """The count that a decision was made on is taken for the present one."""

    def decide(state: ControlState, id: str, examined: int | None, *more: Any) -> Any:
        generation = state.generations.get(id)
        return product(state, id, None if generation is None else generation.transitions, *more)

    return decide


def _forced_whatever_was_examined(product: Any) -> Any:
    def cut_over(state: ControlState, id: str, examined: int | None, now: float, forced: str | None = None) -> Any:
        return product(state, id, examined if forced is None else None, now, forced)

    return cut_over


def _begun_again_by_a_job(product: Any) -> Any:
    def start(state: ControlState, spec: Any, now: float, *, again: bool = True) -> Any:
        return product(state, spec, now)

    return start


def _beside_the_live_one(product: Any) -> Any:
    def cut_over(*arguments: Any, **more: Any) -> Any:
        return product(*arguments, **more)[-1:]

    return cut_over


def _back_beside_the_live_one(product: Any) -> Any:
    def roll_back(*arguments: Any, **more: Any) -> Any:
        return product(*arguments, **more)[1:]

    return roll_back


def _over_another(product: Any) -> Any:
    def start(state: ControlState, spec: Any, now: float, **more: Any) -> Any:
        same = {id for id, one in state.generations.items() if one.spec.fingerprint == spec.fingerprint}
        others = {id: one for id, one in state.generations.items() if id in same or one.state not in control.UNDER_WAY}
        return product(replace(state, generations=others), spec, now, **more)

    return start


def _always_the_first_life(product: Any) -> Any:
    def start(state: ControlState, spec: Any, now: float, **more: Any) -> Any:
        changes = product(state, spec, now, **more)
        return [
            transitions._begun(change.generation.spec.model_copy(update={"life": 1}), "building", now, "started")
            for change in changes
        ]

    return start


def _back_whatever_is_under_way(product: Any) -> Any:
    def roll_back(state: ControlState, *arguments: Any, **more: Any) -> Any:
        ended = {id: one for id, one in state.generations.items() if one.state not in control.UNDER_WAY}
        return product(replace(state, generations=ended), *arguments, **more)

    return roll_back


def _whatever_state(product: Any) -> Any:
    """Refused in no state: what is done is done to live generations too."""

    def one(state: ControlState, id: str, states: Any, why_not: str) -> Any:
        return product(state, id, {*states, "live", "previous", "building", "ready"}, why_not)

    return one


def _failed_whatever_it_is(product: Any) -> Any:
    def fail(state: ControlState, id: str, now: float, reason: str) -> Any:
        generation = state.generations.get(id)
        return [] if generation is None else [transitions._changed(generation, now, reason, "failed")]

    return fail


def _refused_whatever_it_is(product: Any) -> Any:
    def refuse_gate(state: ControlState, id: str, examined: int, now: float, why: str, details: Any) -> Any:
        return [transitions._changed(state.generations[id], now, f"gate refused: {why}", "building", details)]

    return refuse_gate


def _retired_whatever_it_is(product: Any) -> Any:
    def retire(state: ControlState, id: str, now: float) -> Any:
        generation = state.generations.get(id)
        if generation is not None and generation.state == "live":
            return [transitions._changed(generation, now, "retired", "retired")]
        return product(state, id, now)

    return retire


def _aborted_whatever_it_is(product: Any) -> Any:
    def abort(state: ControlState, id: str, now: float, reason: str = "") -> Any:
        generation = state.generations.get(id)
        if generation is not None and generation.state in ("live", "previous"):
            return [transitions._changed(generation, now, "aborted", "aborted")]
        return product(state, id, now, reason)

    return abort


def _founded_again(product: Any) -> Any:
    def found(state: ControlState, spec: Any, now: float) -> Any:
        return product(ControlState(), spec, now)

    return found


# ---------------------------------------------------------------------------------- operator


def _decided_before_the_takeover(product: Any) -> Any:
    def tried(broker: Any, names: Any, records: Any) -> bool:
        new = records(control.read(broker, names))
        publisher = broker.transactional_publisher(names.operator)
        try:
            if new:
                publisher.publish(new, Deadline.after(10.0))
        finally:
            publisher.close(Deadline.after(10.0))
        return True

    return tried


def _done_though_fenced(product: Any) -> Any:
    def tried(*arguments: Any) -> bool:
        with suppress(Fenced):
            product(*arguments)
        return True

    return tried


def _not_alone(product: Any) -> Any:
    """Whoever writes control does not fence others."""

    def tried(broker: Any, names: Any, records: Any) -> bool:
        new = records(control.read(broker, names))
        publisher = broker.transactional_publisher(f"{names.operator}.{id(new)}")
        if new:
            publisher.publish(new, Deadline.after(10.0))
        return True

    return tried


def _one_change_after_the_other(product: Any) -> Any:
    def tried(broker: Any, names: Any, records: Any) -> bool:
        publisher = broker.transactional_publisher(names.operator)
        new = records(control.read(broker, names))
        log, changes = (new[:1], new[1:]) if len(new) % 2 else ([], new)
        for part in ([log] if log else []) + [changes[at : at + 2] for at in range(0, len(changes), 2)]:
            publisher.publish(part, Deadline.after(10.0))
        return True

    return tried


def _by_clock(product: Any) -> Any:
    def previous(self: ControlState) -> Any:
        found = [one for one in self.generations.values() if one.state == "previous"]
        return max(found, key=lambda one: one.since, default=None)

    return property(previous)


# -------------------------------------------------------------------------------- migrations


def _whatever_was_seen(product: Any) -> Any:
    return lambda self, given: product(self, {name: value for name, value in given.items() if name != "seen"})


def _only_if_it_is_ready(product: Any) -> Any:
    """A job looks for a rollback only where it finds a generation ready."""

    def turn(self: Any, ask: Any, stop: Any, id: str, now: Any) -> Any:
        if any(one["id"] == id and one["state"] == "building" for one in now["generations"]):
            self._refuse_rolled_back = lambda *arguments: None
        try:
            return product(self, ask, stop, id, now)
        finally:
            self.__dict__.pop("_refuse_rolled_back", None)

    return turn


def _back_whatever_was_seen(product: Any) -> Any:
    return lambda state, now, reason="", *, seen=None, again=False: product(state, now, reason, again=again)


def _back_and_back(product: Any) -> Any:
    return lambda state, now, reason="", *, seen=None, again=False: product(state, now, reason, seen=seen, again=True)


def _for_good(product: Any) -> Any:
    """What is missing is no passing thing."""

    def lag_of(*arguments: Any) -> Any:
        try:
            return product(*arguments)
        except Fatal as error:
            raise LookupError(str(error)) from error

    return lag_of


def _unexplained(product: Any) -> Any:
    return lambda self, *arguments: self._examine(*arguments)


def _nothing_suppressed(product: Any) -> Any:
    return SimpleNamespace(suppress=lambda *errors: nullcontext())


def _collection_before_offsets(product: Any) -> Any:
    def collection_of(parts: Any, spec: Any) -> Any:
        name, names = parts.names.collection(spec.id), parts.names
        absent = name not in parts.store.names(name)
        if absent and any(parts.broker.committed(names.group("embed", spec.id), names.chunks(spec.id)).values()):
            raise CollectionMissing(f"collection {name} was filled before, and is gone")
        return product(parts, spec)

    return collection_of


def _cleared_first(product: Any) -> Any:
    def ask(self: Any, given: Any) -> Any:
        state = self._control.again()
        id = given.get("generation") or (state.target and state.target.id) or (state.previous and state.previous.id)
        if id is not None and id in state.generations and state.generations[id].state != "live":
            self._cleared(id)
        return product(self, given)

    return ask


def _nothing(product: Any) -> Any:
    return lambda *arguments, **more: None


def _oldest(product: Any) -> Any:
    def previous(self: ControlState) -> Any:
        found = [one for one in self.generations.values() if one.state == "previous"]
        return min(found, key=lambda one: self.history.index(_demoted(self, one.id)), default=None)

    return property(previous)


def _demoted(state: ControlState, id: str) -> Any:
    return [one for one in state.history if one.generation == id and one.state == "previous"][-1]


# --------------------------------------------------------------------------- lines and search


def _failure_at_its_word(product: Any) -> Any:
    """A failed line's generation is taken for what it was at the last look."""

    def look(self: Any, generation: Any, line: Any) -> None:
        kept, self._control = (
            self._control,
            SimpleNamespace(again=lambda: SimpleNamespace(generations={generation.id: generation})),
        )
        try:
            product(self, generation, line)
        finally:
            self._control = kept

    return look


def _without_the_previous(product: Any) -> Any:
    return product - {"previous"}


def _never_again(product: Any) -> Any:
    def search(self: Any, query: str, top: int = 5, where: Any = None, *, by_document: bool = False) -> Any:
        return service._ask(self._live(), query, top, where, by_document)

    return search


def _newest_model(product: Any) -> Any:
    """While a generation is opened, the one before answers, asked by the new one's model."""

    def live(self: Any) -> Any:
        found = product(self)
        spec = self._generations().live
        if spec is not None and spec.id != found.collection.spec.generation:
            mixed = object.__new__(searcher.Searcher)
            mixed._collection, mixed._embedder = found.collection, self._load(spec)
            return service._Open(found.collection, mixed)
        return found

    return live


def _whatever_model(product: Any) -> Any:
    def siblings(self: Any) -> Any:
        parts, names = self._parts, self._parts.store.names(self._parts.names.root)
        return [parts.store.open(name) for name in names if name != parts.names.collection(self.spec.id)]

    return siblings


def _donors_of_any_model(product: Any) -> Any:
    def donors(collection: Any, siblings: Any, hashes: list[str]) -> Any:
        found = {}
        for donor in (*siblings, collection):
            with suppress(CollectionMissing):
                if donor.spec.dimension == collection.spec.dimension:
                    found.update(donor.vectors(hashes))
        return found

    return donors


def _never_looks_again(product: Any) -> Any:
    def look(self: Any) -> ControlState:
        with self._lock:
            return self._control.state if self._control.state.live else self._control.refresh()

    return look


def _equal_whatever_there_is(product: Any) -> Any:
    return lambda *arguments, **more: Verdict(0, {}, Findings(), 0, 0, 0, 0, 0.0)


MUTANTS: dict[str, Mutant] = {
    "previous-by-clock": Mutant(
        "the order of the history in what was live last (clocks instead)",
        None,
        (Change(ControlState, "previous", _by_clock),),
    ),
    "gate-unseen": Mutant(
        "the count that a job saw before its gate", None, (Change(migrations.Migrations, "_gate", _whatever_was_seen),)
    ),
    "job-looks-late": Mutant(
        "the job's look for a rollback of what a gate has refused since",
        None,
        (Change(job.Job, "_turn", _only_if_it_is_ready),),
    ),
    "rollback-unseen": Mutant(
        "the generation that a rollback has looked at",
        None,
        (Change(transitions, "roll_back", _back_whatever_was_seen),),
    ),
    "rollback-twice": Mutant(
        "a person's word for a second rollback", None, (Change(transitions, "roll_back", _back_and_back),)
    ),
    "status-fails": Mutant(
        "status of a generation that goes meanwhile", None, (Change(migration_status, "lag_of", _for_good),)
    ),
    "gate-unexplained": Mutant(
        "what a gate says of a generation that goes meanwhile",
        None,
        (Change(gating.Gating, "_report", _unexplained),),
    ),
    "clean-up-alone": Mutant(
        "another clean-up at the same time", None, (Change(clearing, "contextlib", _nothing_suppressed),)
    ),
    "turn-alone": Mutant("a removal within a worker's turn", None, (Change(lines, "contextlib", _nothing_suppressed),)),
    "collection-first": Mutant(
        "offsets before the collection, where a worker looks what was there",
        None,
        (Change(line, "collection_of", _collection_before_offsets),),
    ),
    "left-for-ever": Mutant(
        "the look for what a late line has made again", None, (Change(clearing.Leftovers, "remove", _nothing),)
    ),
    "news-once": Mutant(
        "waiting for the news of a switch", None, (Change(service, "_NEWS_SECONDS", lambda product: 0.0),)
    ),
    "cutover-unexamined": Mutant(
        "the count that a cutover was decided on", None, (Change(transitions, "cut_over", _whatever_was_examined),)
    ),
    "forced-unexamined": Mutant(
        "the count that a job's forced cutover was decided on",
        None,
        (Change(transitions, "cut_over", _forced_whatever_was_examined),),
    ),
    "again-by-itself": Mutant(
        "a person's word for what is begun anew", None, (Change(transitions, "start", _begun_again_by_a_job),)
    ),
    "gate-unexamined": Mutant(
        "the count that a gate began with", JOBS, (Change(transitions, "pass_gate", _whatever_was_examined),)
    ),
    "refusal-unexamined": Mutant(
        "the count and the state that a gate's refusal is of",
        None,
        (Change(transitions, "refuse_gate", _refused_whatever_it_is),),
    ),
    "two-live": Mutant(
        "demoting the live generation", OPERATORS, (Change(transitions, "cut_over", _beside_the_live_one),)
    ),
    "two-live-again": Mutant(
        "demoting the live generation in a rollback",
        OPERATORS,
        (Change(transitions, "roll_back", _back_beside_the_live_one),),
    ),
    "oldest-previous": Mutant(
        "going back to the last one that was live (the oldest instead)",
        None,
        (Change(ControlState, "previous", _oldest),),
    ),
    "rollback-anyway": Mutant(
        "making what is rolled back from previous, and not ready, beside a migration",
        OPERATORS,
        (Change(transitions, "roll_back", _back_whatever_is_under_way),),
    ),
    "start-anyway": Mutant(
        "refusing to start beside another migration", OPERATORS, (Change(transitions, "start", _over_another),)
    ),
    "one-life": Mutant(
        "a life of its own for a generation that is begun anew",
        OPERATORS,
        (Change(transitions, "start", _always_the_first_life),),
    ),
    "found-again": Mutant(
        "founding nothing where something is live", OPERATORS, (Change(transitions, "found", _founded_again),)
    ),
    "retire-live": Mutant(
        "refusing to retire what is live", OPERATORS, (Change(transitions, "retire", _retired_whatever_it_is),)
    ),
    "abort-live": Mutant(
        "refusing to abort what is or was live", OPERATORS, (Change(transitions, "abort", _aborted_whatever_it_is),)
    ),
    "fail-live": Mutant(
        "failing nothing but what is being built", None, (Change(transitions, "fail", _failed_whatever_it_is),)
    ),
    "old-news": Mutant(
        "reading control after the take-over", None, (Change(operator, "_tried", _decided_before_the_takeover),)
    ),
    "fenced-is-done": Mutant(
        "deciding anew after being fenced", None, (Change(operator, "_tried", _done_though_fenced),)
    ),
    "not-alone": Mutant("the one transactional id of control", OPERATORS, (Change(operator, "_tried", _not_alone),)),
    "change-by-change": Mutant(
        "one transaction for both sides of a switch",
        OPERATORS,
        (Change(operator, "_tried", _one_change_after_the_other),),
    ),
    "clear-first": Mutant(
        "the record before the removal",
        OPERATORS,
        (
            Change(migrations.Migrations, "_retire", _cleared_first),
            Change(migrations.Migrations, "_abort", _cleared_first),
        ),
    ),
    "clear-nothing": Mutant(
        "the removal", None, (Change(migrations.Migrations, "_cleared", lambda product: lambda self, id: {}),)
    ),
    "members-stay": Mutant("waiting for the members of a group", None, (Change(clearing, "leave", _nothing),)),
    "lag-allowed": Mutant(
        "refusing a target that lags", None, (Change(migrations.Migrations, "_refuse_lagging", _nothing),)
    ),
    "job-forgets": Mutant("the job's look for a rollback", None, (Change(job.Job, "_refuse_rolled_back", _nothing),)),
    "failure-believed": Mutant(
        "looking again whether a failed line's generation is over",
        None,
        (Change(lines.Lines, "_look", _failure_at_its_word),),
    ),
    "previous-left": Mutant(
        "following what may be rolled back to",
        OPERATORS,
        (Change(control, "FOLLOWED", _without_the_previous), Change(transitions, "FOLLOWED", _without_the_previous)),
    ),
    "search-once": Mutant(
        "looking again when a collection is gone", None, (Change(service.SearchService, "search", _never_again),)
    ),
    "mixed-spaces": Mutant(
        "asking with the model of the very collection",
        OPERATORS,
        (Change(service.SearchService, "_live", _newest_model),),
    ),
    "any-sibling": Mutant(
        "vectors of one model only",
        OPERATORS,
        (Change(line.Line, "_siblings", _whatever_model), Change(reading, "_donors", _donors_of_any_model)),
    ),
    "never-looks-again": Mutant(
        "looking at control a few times a second",
        OPERATORS,
        (Change(assembly.Followed, "__call__", _never_looks_again),),
    ),
    "gate-unproven": Mutant(
        "the gate's proof that the collection is the log",
        OPERATORS,
        (
            Change(gate, "verify", _equal_whatever_there_is),
            Change(gate, "caught_up", lambda product: lambda *arguments: 0),
        ),
    ),
}
