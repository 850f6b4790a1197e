"""A migration in the middle of it all: run, cutover, rollback, cutover; retired at the next quiet point."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable

from pipeline.errors import VectideError
from pipeline.generations.control import ControlState
from tests.soak.cluster import Cluster, Worker
from tests.soak.weather import Weather

_RUN_SECONDS = 300.0
_COMMAND_SECONDS = 150.0
#: 7: no answer; 9: the gate refused for now; 10: told to stop.
_AGAIN = (7, 9, 10)


class Migration:
    """One migration, in a thread of its own.

    Args:
        cluster: where.
        proposal: what is asked for.
        weather: puts deadlines off while the machine is taken.
        rng: how long it stays as it is between two switches.
    """

    def __init__(
        self,
        cluster: Cluster,
        proposal: tuple[str, ...],
        weather: Weather,
        rng: random.Random,
        counts: Counter[str],
    ) -> None:
        self._cluster = cluster
        self._weather = weather
        self._proposal = proposal
        self._pauses = [rng.uniform(1.0, 6.0) for _ in range(3)]
        self._counts = counts
        self._thread = threading.Thread(target=self._run, name="migration", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Until it is over, well or not."""
        while self._thread.is_alive():  # each of its steps has a deadline
            self._thread.join(1.0)

    def retire(self) -> None:
        """Remove the generation before."""
        self._switch("retire", lambda state: state.previous is None, "migrate", "retire")

    def _run(self) -> None:
        time.sleep(self._pauses[0])
        try:
            before = self._live()
            if not self._job(before):
                return
            new = self._live()
            self._counts["cutovers"] += 1
            time.sleep(self._pauses[1])
            if not self._switch(
                "rollback", lambda state: _live_in(state) == before, "migrate", "rollback", "--reason", "soak"
            ):
                return
            self._counts["rollbacks"] += 1
            time.sleep(self._pauses[2])
            if self._switch("cutover", lambda state: _live_in(state) == new, "migrate", "cutover"):
                self._counts["cutovers"] += 1
        except Exception as error:
            self._cluster.events.violation("migration", f"{type(error).__name__}: {error}")

    def _job(self, before: str) -> bool:
        cluster = self._cluster
        arguments = ("migrate", "run", *self._proposal, "--cutover", "auto", "--again", "--json")
        job = Worker("job", lambda more: cluster.begin_job(*arguments), cluster.folder, cluster.events, self._weather)
        started = time.monotonic()
        try:
            while self._in_time(started, _RUN_SECONDS):
                job.start()
                cluster.job = job
                assert job.command is not None
                process = job.command.process
                while process.poll() is None and self._in_time(started, _RUN_SECONDS):
                    time.sleep(0.2)
                code = process.poll()
                if code is None:
                    break
                if job.killed:
                    time.sleep(0.5)
                    continue
                said = "" if code == 0 else job.command.errors()[-1500:]
                cluster.events.note("job ended", code=code, said=said)
                if code == 0:
                    return True
                if code == 8 and self._live() != before:
                    return True  # the answer to its cutover was lost
                if code not in _AGAIN:
                    cluster.events.violation("migration", f"the job ended with {code}: {said[-400:]}")
                    return False
                self._counts[f"job ended with {code}"] += 1
                time.sleep(2.0)
        finally:
            cluster.job = None
            if job.command is not None and job.command.process.poll() is None:
                job.command.kill()
        cluster.events.violation("migration", f"not live within {_RUN_SECONDS:.0f} s: {self._proposal}")
        return False

    def _switch(self, what: str, done: Callable[[ControlState], bool], *arguments: str) -> bool:
        """A command until what it asks for is so: its answer may be lost, or it may be refused for a while."""
        cluster = self._cluster
        started, said = time.monotonic(), ""
        while self._in_time(started, _COMMAND_SECONDS):
            code, said = cluster.said(*arguments)
            try:
                if done(cluster.control()):
                    return True
            except VectideError:
                pass  # asked again
            cluster.events.note("command", arguments=arguments, code=code, said=said)
            if code not in (0, *_AGAIN, 8):
                break
            time.sleep(1.0)
        cluster.events.violation("migration", f"{what} did not happen: {said[-400:]}")
        return False

    def _in_time(self, started: float, seconds: float) -> bool:
        return time.monotonic() < started + seconds + self._weather.starved_since(started)

    def _live(self) -> str:
        return str(self._cluster.until(lambda: _live_in(self._cluster.control()), _COMMAND_SECONDS))


def _live_in(state: ControlState) -> str:
    assert state.live is not None
    return state.live.id
