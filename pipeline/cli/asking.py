"""Asking the writers of sources, and waiting for them and for the workers; or being the writer where none runs."""

from __future__ import annotations

import logging
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any, Final

from connectors.duties import Duties, carry_out, decode_done, done_name
from connectors.state import State, mark_key
from pipeline.broker.partitioner import partition_of
from pipeline.broker.publishing import closed_after
from pipeline.broker.reading import to_the_end
from pipeline.cli.assembly import Followed, Parts
from pipeline.cli.tasks import Task
from pipeline.deadline import Deadline
from pipeline.errors import Fatal, Fenced, Poison
from pipeline.generations import operator, requests
from pipeline.generations.control import ControlState, Generation
from pipeline.records import Done, Request, RequestKind
from pipeline.stages.reports import read_reports

log = logging.getLogger(__name__)

#: Roles of processes that read the log.
_WORKING: Final = ("chunk", "embed", "up")
_PUBLISH_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.3
_STALL_SECONDS: Final = 30.0
_PAGE: Final = 500


class Asking:
    """Requests of one command, from ``control`` to their marks.

    Args:
        parts: broker and store, open.
        control: what ``control`` says.
        sources: those that this very process runs.
        task: told how far it is.
        deadline: of all waits.
        take_over: be the writer of a source although its connector runs.
    """

    def __init__(
        self,
        parts: Parts,
        control: Followed,
        sources: Callable[[], Collection[str]],
        task: Task,
        deadline: Deadline,
        *,
        take_over: bool = False,
    ) -> None:
        self._parts = parts
        self._control = control
        self._sources = sources
        self._task = task
        self._deadline = deadline
        self._always = take_over
        self._topic = parts.names.documents(parts.config.pipeline.epoch)
        self._chunks: dict[str, dict[int, int]] = {}
        """By generation, where its chunks topic ended once the chunk stage was past what is waited for."""

    def request(self, kind: RequestKind, source: str, paths: Sequence[str] = (), **more: Any) -> Request:
        """A new request, not yet asked."""
        id = uuid.uuid4().hex[:16]
        bounds = self._parts.broker.offsets(self._parts.names.connector_state)
        since = bounds[partition_of(mark_key(source, done_name(id)), len(bounds))].end
        return Request(id, kind, source, time.time(), paths=tuple(paths), since=since, **more)

    def asked(self, wanted: Sequence[Request]) -> list[Request]:
        """Write requests to ``control``, or find there what is as good.

        Raises:
            Refused: it must not be asked as things are.
        """
        self._task.at("asking", 0, 0)
        found: list[Request] = []

        def decide(now: ControlState) -> Sequence[Request]:
            # What is joined is decided on this very state: who asks later may reverse it.
            new = requests.ask(now, wanted)
            by_id = {one.id: one for one in new}
            each = (by_id.get(one.id) or requests.joined(now, one) for one in wanted)
            found[:] = [one for one in each if one is not None]
            return new

        operator.operate(self._parts.broker, self._parts.names, decide)
        return found

    def carried_out(self, asked: Sequence[Request]) -> dict[str, Done]:
        """Wait for the sources' writers, or be it where there is none; those that are done by the deadline."""
        done: dict[str, Done] = {}
        while True:
            for request in asked:
                if request.id not in done and (found := self._carried(request)) is not None:
                    done[request.id] = found
            if len(done) == len(asked) or self.over:
                break
            self._task.at("waiting for the connectors", len(done), len(asked))
            time.sleep(_POLL_SECONDS)
        closed = [request.id for request in asked if request.id in done and not request.closed]
        if closed:
            operator.operate(
                self._parts.broker, self._parts.names, lambda now: requests.close(now, closed, time.time())
            )
        return done

    @property
    def over(self) -> bool:
        """Whether there is no time left, or the task was told to stop."""
        return self._deadline.expired or self._task.stopped()

    def working(self) -> bool:
        """Whether any worker of a stage runs."""
        reports = read_reports(self._parts.broker, self._parts.names)
        return any(report.alive and report.role in _WORKING for report in reports)

    def wait_passed(self, ends: Mapping[int, int]) -> dict[str, int]:
        """Wait, while workers run, until every generation has applied the log below these ends; by
        generation, the partitions in which it has not.
        """
        while True:
            followed = self._control.again().followed
            behind = {one.id: len(self.behind(one, ends)) for one in followed}
            if not any(behind.values()) or self.over or not self.working():
                return behind
            waiting = next(id for id, partitions in behind.items() if partitions)
            self._task.at(f"waiting for the workers of generation {waiting}", 0, 0)
            time.sleep(_POLL_SECONDS)

    def behind(self, generation: Generation, ends: Mapping[int, int]) -> set[int]:
        """The partitions that a generation has not applied below these ends, chunk stage and embed stage."""
        broker, names = self._parts.broker, self._parts.names
        chunks = names.chunks(generation.id)
        at = broker.committed(names.group("chunk", generation.id), self._topic)
        behind = {partition for partition, end in ends.items() if at.get(partition, 0) < end}
        passed = self._chunks.setdefault(generation.id, {})
        try:
            # What the chunk stage made of it lies below the end that the topic has afterwards.
            bounds = broker.offsets(chunks)
            for partition in ends.keys() - behind - passed.keys():
                passed[partition] = bounds[partition].end
            at = broker.committed(names.group("embed", generation.id), chunks)
        except Fatal:
            # Without its topics: retired since, and nothing of it is left, or not begun by any worker.
            return behind if any(one.id == generation.id for one in self._control.again().followed) else set()
        return behind | {partition for partition, end in passed.items() if at.get(partition, 0) < end}

    # --------------------------------------------------------------------------- private

    def _carried(self, request: Request) -> Done | None:
        found = self._done(request)
        if found is None and (self._always or not self._runs(request.source)):
            self._task.at(f"doing it for source {request.source}", 0, 0)
            self._take_over(request)
            found = self._done(request)
        return found

    def _done(self, request: Request) -> Done | None:
        """Its mark in connector-state, which came after it was asked."""
        topic = self._parts.names.connector_state
        key = mark_key(request.source, done_name(request.id))
        bounds = self._parts.broker.offsets(topic)
        where = partition_of(key, len(bounds))
        start = {partition: one.end for partition, one in bounds.items()} | {where: request.since}
        found: Done | None = None
        with closing(to_the_end(self._parts.broker.reader(topic, start), topic, _PAGE, _STALL_SECONDS)) as pages:
            for record in chain.from_iterable(pages):
                if record.key == key and record.value is not None:
                    try:
                        found = decode_done(record.value)
                    except Poison as error:
                        log.warning("mark not read", extra={"request": request.id, "error": str(error)})
        return found if found is not None and found.complete else None

    def _runs(self, source: str) -> bool:
        if source in self._sources():
            return True
        reports = read_reports(self._parts.broker, self._parts.names)
        return any(report.alive and source in report.sources for report in reports)

    def _take_over(self, request: Request) -> None:
        """Be the source's writer for a moment. A runner that starts meanwhile fences this, and does it."""
        broker, names, source = self._parts.broker, self._parts.names, request.source
        taken_over = broker.transactional_publisher(names.connector(source))
        try:
            with (
                closed_after(taken_over, _CLOSE_SECONDS) as publisher,
                tempfile.TemporaryDirectory(prefix="vectide-") as folder,
            ):
                state = State(broker, names.connector_state, source, Path(folder))
                try:
                    state.refresh()
                    known = self._control.again().asked
                    duties = Duties(source, broker, self._topic, lambda: known)
                    carry_out(duties, state, publisher, request, _PUBLISH_SECONDS, self._task.stopped)
                finally:
                    state.close()
        except Fenced:
            log.info("the source is run again", extra={"source": source})
