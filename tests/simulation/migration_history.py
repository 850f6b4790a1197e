"""What must be true of ``control`` and of whatever is removed, watched as it happens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.identity import DocumentKey
from tests.simulation.migration_corpus import NAMES
from tests.simulation.migration_time import Timeline

#: Of docs/adr/0002-migration.md, and no other; a state that stays is a pause, a throttle or a gate.
ALLOWED = {
    (None, "live"),
    (None, "building"),
    ("building", "building"),
    ("building", "ready"),
    ("building", "live"),
    ("building", "aborted"),
    ("building", "failed"),
    ("ready", "ready"),
    ("ready", "building"),
    ("ready", "live"),
    ("ready", "aborted"),
    ("ready", "failed"),
    ("live", "previous"),
    ("live", "ready"),
    ("previous", "live"),
    ("previous", "retired"),
    ("aborted", "retired"),
    ("failed", "retired"),
}
FOLLOWED = {"building", "ready", "live", "previous"}
UNDER_WAY = {"building", "ready"}
#: What may be removed of a generation whose commands have been carried out this far.
REMOVABLE = {"aborted", "retired"}


class Violated(AssertionError):
    """Something that must never be was seen."""


@dataclass
class Asked:
    """One request to the migrations of a pipeline, and what was true when it came."""

    action: str
    arguments: Mapping[str, Any]
    entries: int
    """Of the history, before it."""
    versions: dict[DocumentKey, int]
    """Of the log, ``migrate.lag_seconds`` before it: what is not at these is too far behind."""


@dataclass
class Command:
    """What a person, a job or a worker is about."""

    who: Literal["operator", "job", "worker"]
    said: str
    again: bool = False
    """A job that may begin anew what is over."""
    asked: Asked | None = None
    examined: dict[str, int] = field(default_factory=dict)
    """By generation, its ``transitions`` when this command's gate began to look."""
    proven: dict[str, dict[DocumentKey, int]] = field(default_factory=dict)
    """By generation, the versions of the log at that time."""


@dataclass(frozen=True)
class Entry:
    """One change of one generation."""

    generation: str
    before: str | None
    after: str
    number: int
    """Its ``transitions``: a pause or a throttle counts apart."""
    reason: str
    at: float
    command: Command | None


class History:
    """The changes so far.

    Args:
        broker: has the control topic.
        timeline: of the schedule.
        in_step: which documents of a generation are behind these versions.
    """

    def __init__(self, broker: EmbeddedBroker, timeline: Timeline, in_step: Any) -> None:
        self.entries: list[Entry] = []
        self.states: dict[str, str] = {}
        self.lives: list[tuple[int, str]] = []
        """Which generation was live from which number of entries on."""
        self.violation: Violated | None = None
        self.specs: dict[str, Mapping[str, Any]] = {}
        self._timeline = timeline
        self._reader = broker.reader(NAMES.control)
        self._keys: set[str] = set()
        self._counts: dict[str, int] = {}
        self._rolled_back: set[str] = set()
        self._demoted: list[str] = []
        """What was live, the last of them last."""
        self._in_step = in_step

    # ------------------------------------------------------------------------ what is asked

    @property
    def live(self) -> str | None:
        """The generation that is live now."""
        return self.lives[-1][1] if self.lives else None

    def follows(self, generation: str) -> bool:
        """Workers are to keep it in step with the log."""
        return self.states[generation] in FOLLOWED

    def lived(self, since: int) -> set[str]:
        """Those that were live at some moment since there were so many entries."""
        before = [id for count, id in self.lives if count <= since][-1:]
        return {*before, *(id for count, id in self.lives if count > since)}

    def of(self, generation: str, since: int = 0) -> list[Entry]:
        """The changes of one generation."""
        return [one for one in self.entries[since:] if one.generation == generation]

    def require(self, true: bool, text: str) -> None:
        """Keep the first violation: whoever raises it may be in a thread whose errors are caught."""
        if not true:
            self._timeline.note("VIOLATED", text)
            if self.violation is None:
                self.violation = Violated(text)
            raise self.violation

    # ---------------------------------------------------------------------------- looking on

    def look(self) -> None:
        """After each transaction: everything that it wrote."""
        actor = self._timeline.current
        command = None if actor is None else actor.command
        batch: list[Entry] = []
        for record in self._reader.poll(0.0, 500):
            key, value = (record.key or b"").decode(), json.loads(record.value or b"null")
            if key.startswith("generation/"):
                batch.append(self._entry(key.removeprefix("generation/"), value, command))
            elif key.startswith("transition/"):
                self.require(key not in self._keys, f"{key} is overwritten")
                self._keys.add(key)
                batch[-1] = replace(batch[-1], reason=value["reason"])
        for entry in batch:
            self.entries.append(entry)
            self.states[entry.generation] = entry.after
            self._timeline.note("CONTROL", f"{entry.generation} {entry.before} -> {entry.after}: {entry.reason}")
        if batch:
            self._judge(batch)

    def removed(self, name: str) -> None:
        """Before a collection, a topic or a group is removed: its generation must be over."""
        id = name.rsplit(".", 1)[-1]
        state = self.states.get(id)
        self.require(state in REMOVABLE, f"{name} is removed while generation {id} is {state}")

    def _entry(self, id: str, value: Mapping[str, Any], command: Command | None) -> Entry:
        count = int(value["transitions"]) + int(value.get("adjustments", 0))
        self.require(
            count == self._counts.get(id, 0) + 1,
            f"entry {count} of {id} comes after its entry {self._counts.get(id, 0)}: history is overwritten",
        )
        self._counts[id] = count
        self.specs[id] = value["spec"]
        before, now = self.states.get(id), self._timeline.now
        return Entry(id, before, value["state"], int(value["transitions"]), "", now, command)

    def _judge(self, batch: list[Entry]) -> None:
        for one in batch:
            self.require((one.before, one.after) in ALLOWED, f"{one.generation} went {one.before} -> {one.after}")
        live = [id for id, state in self.states.items() if state == "live"]
        self.require(len(live) == 1, f"{len(live)} generations are live")
        under_way = [id for id, state in self.states.items() if state in UNDER_WAY]
        self.require(len(under_way) <= 1, f"migrations to {under_way} are under way at once")
        for one in batch:
            if one.reason == "gate passed" or one.reason.startswith("gate refused"):
                self._judge_gate(one)
            if one.before is None and one.command is not None and one.command.who == "job":
                lives = [id for id in self.states if id.split("-")[0] == one.generation.split("-")[0]]
                self.require(
                    one.command.again or len(lives) == 1, f"a job began {one.generation}, and there were {lives}"
                )
            if one.after == "live" and one.before is not None:
                self._judge_switch(one, [other.generation for other in batch if other.before == "live"])
            if one.after == "retired":
                self._demoted = [id for id in self._demoted if id != one.generation]
        if live[0] != self.live:
            self.lives.append((len(self.entries), live[0]))

    def _judge_gate(self, one: Entry) -> None:
        examined = None if one.command is None else one.command.examined.get(one.generation)
        self.require(
            examined == one.number - 1,
            f"the gate's word of {one.generation} is its entry {one.number}, and it had examined {examined}",
        )
        assert one.command is not None
        behind = self._in_step(one.generation, one.command.proven[one.generation])
        self.require(
            not behind or one.reason != "gate passed",
            f"{one.generation} passed its gate without {behind}, which were in the log when it began",
        )

    def _judge_switch(self, one: Entry, left: list[str]) -> None:
        id, command = one.generation, one.command
        assert command is not None, "only commands switch"
        if one.before == "previous":
            self.require(self._demoted[-1:] == [id], f"a rollback went to {id}; before it were live {self._demoted}")
            self._demoted.pop()
            self._rolled_back |= set(left)
            # Beside a migration to another one, what is rolled back from is the previous one now.
            self._demoted += [other for other in left if self.states[other] == "previous"]
        else:
            self._demoted += left
            before = next(entry.reason for entry in self.of(id) if entry.number == one.number - 1)
            if not one.reason.startswith("cutover forced"):
                self.require(before == "gate passed", f"{id} was switched to after {before!r}, without a gate")
            self.require(not (command.who == "job" and id in self._rolled_back), f"a job undid the rollback from {id}")
        asked = command.asked
        if asked is not None and not asked.arguments.get("force"):
            behind = self._in_step(id, asked.versions)
            self.require(
                not behind, f"{id} became live without {behind}, which were in the log long before it was asked for"
            )
