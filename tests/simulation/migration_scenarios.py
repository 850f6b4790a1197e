"""Single interleavings of migrations, step by step: each is one way in which something goes wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline.errors import Refused, Transient
from tests.simulation.migration_commands import Desk, SimulatedJob, cut_over
from tests.simulation.migration_corpus import CONFIG, EPOCH, NAMES, PROPOSALS
from tests.simulation.migration_history import Command, Violated
from tests.simulation.migration_pipeline import Pipeline
from tests.simulation.migration_ports import Fate
from tests.simulation.migration_time import Actor, Process
from tests.simulation.migration_workers import Habits

_MOST_TURNS = 20_000
_FOR_EVER = 1 << 40
SMALLER, LARGER_CHUNKS, PROMPTED, FIRST = PROPOSALS


class Hand:
    """Somebody who does one thing."""

    def __init__(self, scene: Scene, process: Process, command: Command, do: Callable[[Desk], Any]) -> None:
        self.process = process
        self.outcome: Any = None
        self._scene = scene
        self._do = do
        self._actor = scene.pipeline.start(process, "", self._run, command)

    def until(self, what: str, about: str = "", thread: str = "") -> Hand:
        """On up to a request, which is not sent: then everything of it stands still."""
        self._scene.run(
            lambda: any(
                one.next == what and about in str(one.about) and one.name.endswith(thread) for one in self._threads()
            )
        )
        self.process.frozen_until = _FOR_EVER
        return self

    def finish(self) -> Any:
        """On to the end; what came of it."""
        self.process.frozen_until = 0
        self._scene.run(lambda: self._actor.dead)
        return self.outcome

    def kill(self) -> None:
        """No further."""
        self._scene.pipeline.crash(self.process)

    def _threads(self) -> list[Actor]:
        return [one for one in self._scene.pipeline.timeline.actors if one.process is self.process]

    def _run(self) -> None:
        try:
            self.outcome = self._do(self._scene.pipeline.desk()) or "done"
        except (Transient, Refused) as error:
            self.outcome = error
        except Exception as error:
            self._scene.pipeline.history.require(False, f"it ended with {type(error).__name__}: {error}")


class Scene:
    """One pipeline, whose workers go on while hands are told to stop and to go on."""

    def __init__(self, *, together: bool, step_seconds: float, poll_seconds: float) -> None:
        habits = Habits(commit=1.0, slices=0.0, poll_seconds=poll_seconds)
        self.pipeline = Pipeline(random.Random(0), step_seconds, 3, habits, together=together)
        self.workers: list[Process] = []
        self._place = 0

    # ----------------------------------------------------------------------------- running

    def run(self, until: Callable[[], bool]) -> None:
        """Everybody who is awake in turn, until it is true."""
        timeline = self.pipeline.timeline
        for _ in range(_MOST_TURNS):
            if until():
                return
            awake = timeline.awake()
            if not awake:
                timeline.skip()
                continue
            self._place += 1
            timeline.step(awake[self._place % len(awake)])
            if self.pipeline.history.violation is not None:
                raise self.pipeline.history.violation
        raise Violated(f"in {_MOST_TURNS} turns it never came to that")

    def settle(self) -> None:
        """Until every followed generation is in step with the log."""
        versions, history = self.pipeline.corpus.versions(), self.pipeline.history
        self.run(
            lambda: (
                self.pipeline.lag() == 0
                and not any(self.pipeline.behind(id, versions) for id in history.states if history.follows(id))
            )
        )

    def turns(self, count: int) -> None:
        """A while."""
        end = self.pipeline.timeline.steps + count
        self.run(lambda: self.pipeline.timeline.steps >= end)

    def later(self, seconds: float) -> None:
        """So much time passes, and nothing happens."""
        self.pipeline.timeline.now += seconds

    # ------------------------------------------------------------------------------- hands

    def hand(self, do: Callable[[Desk], Any], *, job: bool = False, skew: float = 0.0) -> Hand:
        """Somebody who is about to do something."""
        command = Command("job" if job else "operator", "")
        return Hand(self, self.pipeline.process("job" if job else "hand", skew), command, do)

    def asks(self, action: str, **more: Any) -> Hand:
        """Somebody who is about to ask one thing."""
        return self.hand(lambda desk: desk.ask("POST", "/migrate", {"action": action, **more}))

    def do(self, action: str, **more: Any) -> Any:
        """One thing is asked and answered."""
        outcome = self.asks(action, **more).finish()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def job(self, proposal: dict[str, Any], force: str | None = None) -> Hand:
        """``migrate run --cutover auto``."""
        return self.hand(lambda desk: SimulatedJob(desk, proposal, force, automatic=True).run(), job=True)

    def migrated(self, proposal: dict[str, Any], skew: float = 0.0) -> str:
        """A migration from start to cutover, by hand; the generation."""
        id = str(self.do("start", **proposal)["generation"]["id"])
        self.settle()
        outcome = self.hand(lambda desk: cut_over(desk.ask, None), skew=skew).finish()
        if isinstance(outcome, Exception):
            raise outcome
        return id

    def forced(self) -> None:
        """A person insists on the target."""
        self.do("cutover", force="by hand")

    def state(self, id: str) -> str:
        """Of a generation."""
        return self.pipeline.history.states[id]

    def crash_workers(self) -> None:
        """They are gone, and their groups have noticed."""
        for process in self.workers:
            self.pipeline.crash(process)
            self.pipeline.evict(process)
        self.workers = []

    def start_worker(self) -> Process:
        """Another one."""
        self.workers.append(self.pipeline.worker())
        return self.workers[-1]


@contextmanager
def staged(*, together: bool = False, step_seconds: float = 0.002, poll_seconds: float = 0.2) -> Iterator[Scene]:
    """Three documents, a worker and a generation that is live and in step."""
    scene = Scene(together=together, step_seconds=step_seconds, poll_seconds=poll_seconds)
    with scene.pipeline.running():
        for key in scene.pipeline.corpus.keys:
            scene.pipeline.corpus.put(key, f"This is what document {key.path} has to say.", "x")
        scene.start_worker()
        scene.run(lambda: scene.pipeline.history.live is not None)
        scene.settle()
        yield scene


def _require(true: bool, text: str) -> None:
    if not true:
        raise Violated(text)


def _refused(outcome: Any, text: str) -> None:
    _require(isinstance(outcome, Refused), f"{text}: it was {outcome!r}")


# ------------------------------------------------------------------------------- the operator


def two_start_at_once() -> None:
    """Given a start that has decided, when another is carried out, then the first is fenced, decides anew and
    is refused.
    """
    with staged() as scene:
        first = scene.asks("start", **SMALLER).until("commit transaction")
        scene.do("start", **LARGER_CHUNKS)
        _refused(first.finish(), "two migrations at once")


def one_has_started_before_the_takeover() -> None:
    """Given a start that has looked and not yet taken over, when another is carried out, then the first decides by
    what is there now and is refused.
    """
    with staged() as scene:
        first = scene.asks("start", **SMALLER).until("take over")
        scene.do("start", **LARGER_CHUNKS)
        _refused(first.finish(), "two migrations at once")


def one_dies_within_its_switch() -> None:
    """Given a cutover that dies, wherever that is, then one generation is live at every moment."""
    with staged() as scene:
        scene.do("start", **SMALLER)
        scene.settle()
        scene.asks("cutover", force="by hand").until("commit transaction").kill()
        scene.forced()


def an_answer_is_lost() -> None:
    """Given a rollback that was carried out without an answer, when it is asked for again, then it does not go on to
    the generation before.
    """
    with staged() as scene:
        scene.migrated(SMALLER)
        second = scene.migrated(LARGER_CHUNKS)
        hand = scene.asks("rollback").until("commit transaction")
        scene.pipeline.fate = _once("unanswered", hand.process, scene)
        _require(isinstance(hand.finish(), Transient), "the answer came")
        _refused(scene.asks("rollback").finish(), "a second rollback")
        _require(scene.state(second) == "ready", "the second rollback went on")


def a_removal_is_killed_after_its_record() -> None:
    """Given a retire that dies before it removes anything, when it is asked for again, then nothing is left."""
    with staged() as scene:
        first = scene.pipeline.history.live
        assert first is not None
        scene.migrated(SMALLER)
        scene.asks("retire").until("delete group").kill()
        _require(scene.state(first) == "retired", "the record came after the removal")
        scene.do("retire", generation=first)
        _require(not scene.pipeline.left(first), f"left is {scene.pipeline.left(first)}")


def a_removal_waits_for_who_still_works() -> None:
    """Given a worker that stands still, when what it works for is retired, then that is removed only after the
    worker has left.
    """
    with staged() as scene:
        first = str(scene.pipeline.history.live)
        scene.migrated(SMALLER)
        scene.workers[0].frozen_until = _FOR_EVER
        retire = scene.asks("retire")
        scene.turns(100)
        _require(
            NAMES.collection(first) in " ".join(scene.pipeline.left(first)), "it is removed under the worker's hands"
        )
        scene.workers[0].frozen_until = 0
        retire.finish()
        _require(not scene.pipeline.left(first), f"left is {scene.pipeline.left(first)}")


def the_last_one_is_rolled_back_to() -> None:
    """Given three generations that were live, when the newest is rolled back, then the one before it is live."""
    with staged() as scene:
        second = scene.migrated(SMALLER)
        scene.migrated(LARGER_CHUNKS)
        scene.do("rollback")
        _require(scene.state(second) == "live", "not the last one")


def it_is_rolled_back_to_by_the_log_and_not_by_clocks() -> None:
    """Given a first cutover by a person whose clock is five minutes ahead, when a second one, by a right clock, is
    rolled back, then the one before it is live all the same.
    """
    with staged() as scene:
        second = scene.migrated(SMALLER, skew=300.0)
        scene.migrated(LARGER_CHUNKS)
        scene.do("rollback")
        _require(scene.state(second) == "live", "not the last one")


def a_line_fails_while_it_becomes_live() -> None:
    """Given a line of a building generation that has failed, when a person insists on that generation before its
    worker has said so, then it is live, and not failed.
    """
    with staged() as scene:
        id = scene.do("start", **SMALLER)["generation"]["id"]
        scene.pipeline.habits.fatal = 1.0
        worker = scene.workers[0]
        scene.run(lambda: any(one.next == "take over" for one in scene.pipeline.timeline.actors))
        worker.frozen_until = _FOR_EVER
        scene.pipeline.habits.fatal = 0.0
        scene.forced()
        worker.frozen_until = 0
        scene.settle()
        _require(scene.state(id) == "live", f"it is {scene.state(id)}")


# -------------------------------------------------------------------------- gate and cutover


def a_gate_is_overtaken() -> None:
    """Given a gate that has examined a generation, when that is switched to and back before it says so, then its
    word does not count.
    """
    with staged() as scene:
        id = scene.do("start", **SMALLER)["generation"]["id"]
        scene.settle()
        job = scene.job(SMALLER).until("take over", thread="/gate")
        scene.forced()
        scene.do("rollback")
        _refused(job.finish(), "a job that was overtaken in its gate")
        _require(scene.state(id) == "ready", f"it is {scene.state(id)}")


def a_refusal_is_overtaken() -> None:
    """Given a gate that refuses, when the generation is aborted before it says so, then it stays aborted."""
    with staged() as scene:
        id = scene.do("start", **SMALLER)["generation"]["id"]
        scene.settle()
        _spoil(scene, id)
        scene.do("gate")
        gate = next(one.process for one in scene.pipeline.timeline.actors if one.name.endswith("/gate"))
        scene.run(
            lambda: any(one.next == "take over" and one.process is gate for one in scene.pipeline.timeline.actors)
        )
        gate.frozen_until = _FOR_EVER
        scene.do("abort")
        gate.frozen_until = 0
        scene.turns(200)
        _require(scene.state(id) == "aborted", f"it is {scene.state(id)}")


def a_cutover_is_overtaken() -> None:
    """Given a gate that was passed, when the generation is switched to and back before the cutover that it was
    passed for, then that is refused.
    """
    with staged() as scene:
        id = scene.do("start", **SMALLER)["generation"]["id"]
        scene.settle()
        hand = scene.hand(lambda desk: cut_over(desk.ask, None)).until("ask cutover")
        scene.forced()
        scene.do("rollback")
        _refused(hand.finish(), "a cutover that was overtaken")
        _require(scene.state(id) == "ready", f"it is {scene.state(id)}")


def it_lags_when_it_is_to_become_live() -> None:
    """Given a generation that passed its gate and then fell behind, when it is to become live, then it is not."""
    with staged() as scene:
        scene.do("start", **SMALLER)
        scene.settle()
        hand = scene.hand(lambda desk: cut_over(desk.ask, None)).until("ask cutover")
        scene.crash_workers()
        scene.pipeline.corpus.delete(scene.pipeline.corpus.keys[0])
        scene.later(2 * CONFIG.migrate.lag_seconds)
        _refused(hand.finish(), "a cutover to what lags")


def a_clock_is_behind() -> None:
    """Given a previous generation that lags, when it is rolled back to by a person whose clock is five minutes
    behind, then it is not made live all the same.
    """
    with staged() as scene:
        scene.migrated(SMALLER)
        scene.crash_workers()
        scene.pipeline.corpus.delete(scene.pipeline.corpus.keys[0])
        scene.later(2 * CONFIG.migrate.lag_seconds)
        rollback = scene.hand(lambda desk: desk.ask("POST", "/migrate", {"action": "rollback"}), skew=-300.0)
        _refused(rollback.finish(), "a rollback to what lags")


def an_old_change_is_chunked_late() -> None:
    """Given a previous generation whose workers were away for long, when their first stage has caught up and the
    second has not, then it is not rolled back to.
    """
    with staged() as scene:
        group = NAMES.group("chunk", str(scene.pipeline.history.live))
        scene.migrated(SMALLER)
        scene.crash_workers()
        scene.pipeline.corpus.delete(scene.pipeline.corpus.keys[0])
        scene.later(10 * CONFIG.migrate.lag_seconds)
        scene.workers.append(scene.pipeline.worker(("chunk",)))
        scene.run(lambda: not any(scene.pipeline.broker.lag(group, NAMES.documents(EPOCH)).values()))
        _refused(scene.asks("rollback").finish(), "a rollback to what lags")


def a_rollback_finds_another_generation_than_it_has_looked_at() -> None:
    """Given two generations that were live before, of which the older lags, when the newer is retired after a
    rollback has seen that it does not lag, then the rollback does not go to the older.
    """
    with staged() as scene:
        first = scene.pipeline.history.live
        second = scene.migrated(SMALLER)
        third = scene.migrated(LARGER_CHUNKS)
        scene.crash_workers()
        scene.pipeline.corpus.delete(scene.pipeline.corpus.keys[0])
        scene.pipeline.follow(second)
        scene.later(2 * CONFIG.migrate.lag_seconds)
        rollback = scene.asks("rollback").until("take over")
        scene.do("retire", generation=second)
        _refused(rollback.finish(), f"{first} is live instead of {second}")
        _require(scene.state(third) == "live", "the rollback went to the oldest")


# ----------------------------------------------------------------------------------- the job


def a_job_is_started_again_after_a_rollback() -> None:
    """Given a job that made a generation live, and a rollback, when it is started again, then it is refused."""
    with staged() as scene:
        outcome = scene.job(SMALLER).finish()
        _require(outcome["generation"]["state"] == "live", f"the job ended with {outcome!r}")
        scene.do("rollback")
        _refused(scene.job(SMALLER).finish(), "a job that was started again")


def a_job_is_started_again_after_an_abort() -> None:
    """Given a job whose migration was aborted, when it is started again, then it does not begin it anew."""
    with staged() as scene:
        job = scene.job(SMALLER).until("ask status")
        scene.do("abort")
        job.kill()
        _refused(scene.job({**SMALLER, "again": False}).finish(), "a job that was started again")


def a_job_sleeps_between_its_look_and_its_gate() -> None:
    """Given a job that has seen a building generation, when it sleeps through a cutover and a rollback before its
    gate begins, then it does not undo the rollback.
    """
    with staged() as scene:
        id = scene.do("start", **SMALLER)["generation"]["id"]
        scene.settle()
        job = scene.job(SMALLER).until("ask gate")
        scene.forced()
        scene.do("rollback")
        _refused(job.finish(), "a job that has slept")
        _require(scene.state(id) == "ready", f"it is {scene.state(id)}")


def a_gate_refuses_what_was_rolled_back() -> None:
    """Given a generation that was rolled back and then refused by a gate, when a job for it is started again, then
    it does not undo the rollback.
    """
    with staged() as scene:
        id = scene.do("start", **SMALLER)["generation"]["id"]
        scene.settle()
        scene.forced()
        scene.do("rollback")
        spoiled = _spoil(scene, id)
        scene.do("gate")
        scene.run(lambda: scene.state(id) == "building")
        spoiled()
        _refused(scene.job(SMALLER).finish(), "a job that was started again")


def a_forced_job_sleeps_between_its_gate_and_its_cutover() -> None:
    """Given a job with --force whose gate has refused, when it sleeps through a cutover and a rollback, then it does
    not undo the rollback.
    """
    with staged() as scene:
        id = scene.do("start", **SMALLER)["generation"]["id"]
        scene.settle()
        _spoil(scene, id)
        job = scene.job(SMALLER, force="a job says so").until("ask cutover")
        scene.forced()
        scene.do("rollback")
        _refused(job.finish(), "a job that has slept")
        _require(scene.state(id) == "ready", f"it is {scene.state(id)}")


def _spoil(scene: Scene, id: str) -> Callable[[], None]:
    """A generation lacks a document, whatever its offsets say; called, it has it again."""
    collection = scene.pipeline.store.open(NAMES.collection(id))
    doc = scene.pipeline.corpus.keys[0].doc
    head = collection._heads.pop(doc)
    return lambda: collection._heads.update({doc: head})


# --------------------------------------------------------------------------------- searching


def a_searcher_has_old_news_of_a_generation_that_is_removed() -> None:
    """Given a searcher that has looked at control a moment ago, when what it knows to be live is switched away from
    and removed within that moment, then its next search finds the other one.
    """
    with staged() as scene:
        scene.do("start", **SMALLER)
        scene.settle()
        serve = scene.pipeline.searcher()
        searcher = scene.pipeline.searchers[-1]
        scene.run(lambda: searcher.answers > 2)
        scene.crash_workers()
        reads = len(scene.pipeline.timeline.trace)
        scene.run(lambda: _has_looked(scene, serve, reads))
        serve.frozen_until = _FOR_EVER
        scene.forced()
        scene.do("retire")
        serve.frozen_until = 0
        answers = searcher.answers
        scene.run(lambda: searcher.answers > answers)


def _has_looked(scene: Scene, process: Process, since: int) -> bool:
    """It has read control, and has asked again: the look is over."""
    seen = [what for _, who, what, _ in scene.pipeline.timeline.trace[since:] if who.startswith(process.name)]
    return "read" in seen and seen[-1] == "heads"


def a_look_at_control_fails_while_others_search() -> None:
    """Given one process that searches and answers commands, when a command cannot read control, then searches go on
    with what was known before.
    """
    with staged(together=True) as scene:
        scene.run(lambda: scene.pipeline.searchers[-1].answers > 2)
        status = scene.asks("status")
        scene.pipeline.fate = _once("lost", scene.workers[0], scene, what="read", thread="asked by")
        _require(isinstance(status.finish(), Transient), "control was read")
        answers = scene.pipeline.searchers[-1].answers
        scene.run(lambda: scene.pipeline.searchers[-1].answers > answers + 3)


# ---------------------------------------------------------------------------------- removing


def a_line_begins_while_its_generation_is_removed() -> None:
    """Given a worker that is about to make what a new generation needs, when that is aborted and removed, then
    nothing of it is left in the end.
    """
    with staged() as scene:
        id = scene.do("start", **SMALLER)["generation"]["id"]
        worker = scene.workers[0]
        scene.run(lambda: any(one.next == "ensure topics" for one in scene.pipeline.timeline.actors))
        worker.frozen_until = _FOR_EVER
        scene.do("abort")
        worker.frozen_until = 0
        scene.turns(3_000)
        _require(not scene.pipeline.left(id), f"left is {scene.pipeline.left(id)}")


def a_line_commits_after_its_group_is_forgotten() -> None:
    """Given one process that does everything, when a generation is removed while its line is about to commit, then
    nothing of it is left in the end.
    """
    with staged(together=True) as scene:
        id = scene.do("start", **SMALLER)["generation"]["id"]
        scene.run(lambda: bool(scene.pipeline.broker.committed(NAMES.group("chunk", id), NAMES.documents(EPOCH))))
        scene.pipeline.corpus.delete(scene.pipeline.corpus.keys[0])
        lines = [one for one in scene.pipeline.timeline.actors if one.name.endswith("/chunk-worker")]
        scene.run(lambda: lines[-1].next == "commit")
        lines[-1].held = True
        scene.do("abort")
        lines[-1].held = False
        scene.turns(3_000)
        _require(not scene.pipeline.left(id), f"left is {scene.pipeline.left(id)}")


def a_generation_is_removed_while_its_lag_is_read() -> None:
    """Given a job that looks how far generations are, when one of them is retired and removed, then the job goes on."""
    with staged() as scene:
        first = scene.pipeline.history.live
        scene.migrated(SMALLER)
        job = scene.job(LARGER_CHUNKS).until("lag", f"embed.{first}")
        scene.do("retire")
        outcome = job.finish()
        _require(outcome["generation"]["state"] == "live", f"the job ended with {outcome!r}")


def a_generation_is_removed_while_it_is_examined() -> None:
    """Given a job in its gate, when the generation is aborted and removed, then the job says that it is aborted."""
    with staged() as scene:
        id = scene.do("start", **SMALLER)["generation"]["id"]
        scene.settle()
        job = scene.job(SMALLER).until("scan_heads", id, thread="/gate")
        scene.do("abort", reason="by hand")
        outcome = job.finish()
        _refused(outcome, "a job whose generation was aborted")
        _require("by hand" in str(outcome), f"it says {outcome}")


def two_remove_a_generation_at_once() -> None:
    """Given two who retire the same generation, then both are told that it is gone."""
    with staged() as scene:
        first = scene.pipeline.history.live
        scene.migrated(SMALLER)
        hand = scene.asks("retire", generation=first).until("count_chunks")
        scene.do("retire", generation=first)
        _require(not isinstance(hand.finish(), Exception), "one failed")


def a_collection_is_made_while_another_looks_for_it() -> None:
    """Given a worker that has not found the collection of a new generation, when another makes it, fills it and
    commits before the first looks whether that was done, then the migration has not failed.
    """
    with staged() as scene:
        scene.start_worker()
        scene.settle()
        id = scene.do("start", **SMALLER)["generation"]["id"]
        actors, group = scene.pipeline.timeline.actors, NAMES.group("embed", id)

        def looking() -> list[Process]:
            return [one.process for one in actors if one.next == "committed" and group in one.about]

        scene.run(lambda: bool(looking()))
        slow = looking()[0]
        slow.frozen_until = _FOR_EVER
        scene.pipeline.evict(slow)
        scene.settle()
        slow.frozen_until = 0
        scene.turns(200)
        _require(scene.state(id) == "building", f"it is {scene.state(id)}")


def a_worker_starts_while_what_was_live_is_removed() -> None:
    """Given a worker that starts and has read what the live generation has committed, when that is switched away
    from and removed before the worker looks for its collection, then the worker goes on.
    """
    with staged() as scene:
        first = str(scene.pipeline.history.live)
        scene.do("start", **SMALLER)
        scene.settle()
        worker, actors = scene.start_worker(), scene.pipeline.timeline.actors
        lines = next(one for one in actors if one.process is worker)
        scene.run(lambda: _last_of(scene, lines) == "committed" and lines.next == "names")
        lines.held = True
        scene.forced()
        scene.do("retire", generation=first)
        lines.held = False
        scene.turns(300)
        _require(not worker.dead, "the worker has ended")


def _last_of(scene: Scene, actor: Actor) -> str:
    """The last request that a thread has sent."""
    return next((what for _, who, what, _ in reversed(scene.pipeline.timeline.trace) if who == actor.name), "")


def a_line_fails_because_its_generation_is_gone() -> None:
    """Given a worker that looked at control a moment ago, when what was live is switched away from and removed, and
    its line fails for that before the next look, then the worker goes on.
    """
    with staged(together=True, step_seconds=0.0001, poll_seconds=0.01) as scene:
        first = scene.pipeline.history.live
        scene.do("start", **SMALLER)
        scene.settle()
        actors = scene.pipeline.timeline.actors
        lines = next(one for one in actors if one.name.endswith("/lines"))
        lines.held = True
        reads = len(scene.pipeline.timeline.trace)
        scene.run(lambda: any(what == "read" for _, _, what, _ in scene.pipeline.timeline.trace[reads:]))
        scene.forced()
        scene.do("retire", generation=first)
        scene.run(lambda: sum(one.name.endswith("/embed-worker") for one in actors) == 1)
        lines.held = False
        scene.turns(100)
        _require(not scene.workers[0].dead, "the worker has ended")


def what_was_live_is_removed_within_a_worker_s_turn() -> None:
    """Given a worker that is about to look where the alias points, when what was live is switched away from and
    removed, then the worker goes on.
    """
    with staged(together=True) as scene:
        first = scene.pipeline.history.live
        scene.do("start", **SMALLER)
        scene.settle()
        lines = next(one for one in scene.pipeline.timeline.actors if one.name.endswith("/lines"))
        scene.run(lambda: lines.next == "alias")
        lines.held = True
        scene.forced()
        scene.do("retire", generation=first)
        lines.held = False
        scene.turns(100)
        _require(not scene.workers[0].dead, "the worker has ended")


def the_index_is_started_again_during_a_gate() -> None:
    """Given a person who waits for a gate, when the process that examines is killed and started again, then the
    person is told so.
    """
    with staged(together=True) as scene:
        scene.do("start", **SMALLER)
        scene.settle()
        hand = scene.hand(lambda desk: cut_over(desk.ask, None)).until("ask task")
        scene.crash_workers()
        scene.start_worker()
        scene.turns(100)
        _require(isinstance(hand.finish(), Transient), f"it ended with {hand.outcome!r}")


def _once(
    fate: Fate, process: Process, scene: Scene, what: str = "commit transaction", thread: str = ""
) -> Callable[[bool], Fate]:
    """The next such request of a process, or of one of its threads, has this fate."""
    left = [fate]

    def of(reads: bool) -> Fate:
        actor = scene.pipeline.timeline.current
        assert actor is not None
        if left and actor.process is process and actor.next == what and thread in actor.name:
            return left.pop()
        return "answered"

    return of


#: Scenario, and the mutants that it must kill.
SCENARIOS: Sequence[tuple[Callable[[], None], tuple[str, ...]]] = (
    (two_start_at_once, ("fenced-is-done", "not-alone", "start-anyway")),
    (one_has_started_before_the_takeover, ("old-news", "start-anyway")),
    (one_dies_within_its_switch, ("change-by-change", "two-live")),
    (an_answer_is_lost, ("rollback-twice",)),
    (a_removal_is_killed_after_its_record, ("clear-first", "clear-nothing")),
    (a_removal_waits_for_who_still_works, ("members-stay",)),
    (the_last_one_is_rolled_back_to, ("oldest-previous", "two-live-again")),
    (it_is_rolled_back_to_by_the_log_and_not_by_clocks, ("previous-by-clock",)),
    (a_line_fails_while_it_becomes_live, ("fail-live",)),
    (a_gate_is_overtaken, ("gate-unexamined",)),
    (a_refusal_is_overtaken, ("refusal-unexamined",)),
    (a_cutover_is_overtaken, ("cutover-unexamined",)),
    (it_lags_when_it_is_to_become_live, ("lag-allowed",)),
    (a_clock_is_behind, ("lag-allowed",)),
    (an_old_change_is_chunked_late, ()),
    (a_rollback_finds_another_generation_than_it_has_looked_at, ("rollback-unseen",)),
    (a_job_is_started_again_after_a_rollback, ("job-forgets",)),
    (a_job_is_started_again_after_an_abort, ("again-by-itself",)),
    (a_job_sleeps_between_its_look_and_its_gate, ("gate-unseen",)),
    (a_gate_refuses_what_was_rolled_back, ("job-looks-late",)),
    (a_forced_job_sleeps_between_its_gate_and_its_cutover, ("forced-unexamined",)),
    (a_searcher_has_old_news_of_a_generation_that_is_removed, ("search-once", "news-once")),
    (a_look_at_control_fails_while_others_search, ()),
    (a_line_begins_while_its_generation_is_removed, ("left-for-ever",)),
    (a_line_commits_after_its_group_is_forgotten, ()),
    (a_generation_is_removed_while_its_lag_is_read, ("status-fails",)),
    (a_generation_is_removed_while_it_is_examined, ("gate-unexplained",)),
    (two_remove_a_generation_at_once, ("clean-up-alone",)),
    (a_collection_is_made_while_another_looks_for_it, ("collection-first",)),
    (a_worker_starts_while_what_was_live_is_removed, ()),
    (a_line_fails_because_its_generation_is_gone, ("failure-believed",)),
    (what_was_live_is_removed_within_a_worker_s_turn, ("turn-alone",)),
    (the_index_is_started_again_during_a_gate, ()),
)
