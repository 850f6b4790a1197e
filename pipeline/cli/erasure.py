"""Forgetting documents, as JSON in and JSON out: asked of their writers, applied, and proven by looking.

Each step can be repeated: what is asked is joined, what is done is found done, a tombstone that is
there is left as it is. docs/adr/0004-erasure.md has the picture.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from pipeline.broker.publishing import closed_after
from pipeline.cli import clearing, proof, traces
from pipeline.cli.asking import Asking
from pipeline.cli.assembly import Followed, Parts
from pipeline.cli.collecting import Collecting
from pipeline.cli.explaining import explained
from pipeline.cli.proof import Place
from pipeline.cli.receipts import FORMAT, VERSION, moment
from pipeline.cli.tasks import Task, Tasks
from pipeline.cli.traces import Wanted, key_of
from pipeline.codec import is_delete
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, CollectionMissing, ConfigError, ForeignCollection, Refused
from pipeline.generations import requests
from pipeline.generations.control import FOLLOWED, ControlState
from pipeline.identity import DocumentKey, version_of
from pipeline.masking import without_passwords
from pipeline.ports import Collection as StoredCollection
from pipeline.records import ChunkedDocument, Done, Provenance, Request, RequestKind
from pipeline.stages import dead_letters
from pipeline.sync import ToEmbed, synchronise

log = logging.getLogger(__name__)

#: Keys of one request: each is a record in one transaction.
MOST_KEYS: Final = 500
#: Points of an embedded collection whose files are written anew without being asked: some 20 seconds.
PURGED_POINTS: Final = 40_000

#: Places that workers read from.
_READ: Final = ("documents topic", "chunks topic", "dead letters")
#: What no receipt covers.
_NOT_LOOKED_AT: Final = (
    "backups and snapshots of the log, of the store and of the source",
    "files of Kafka's brokers and of a Qdrant server: segments hold what was deleted until they are written anew",
    "logs of processes, which hold keys and, of what failed, quoted causes",
    "workers that are stopped or cut off: what they go on with is below the delete, and a later look finds it swept",
    "copies and renames of a document in its source, which are documents of their own",
)
_CLOSE_SECONDS: Final = 5.0
_PURGE_POLL_SECONDS: Final = 1.0
_ANEW: Final = "written anew"
#: Tombstones of one round through the store protocol.
_TOMBSTONES: Final = 256


class Erasure:
    """One pipeline's forgetting, and what it says of single documents.

    Args:
        parts: broker and store, open.
        control: what ``control`` says.
        sources: those that this very process runs.
    """

    def __init__(self, parts: Parts, control: Followed, sources: Callable[[], Collection[str]]) -> None:
        self._parts = parts
        self._control = control
        self._sources = sources
        self._tasks = Tasks()

    def ask(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """``action``: ``forget``, ``lift``, ``explain``, ``gc`` or ``task``.

        Raises:
            ConfigError: an argument is wrong.
            Refused: it must not be done as things are.
        """
        match arguments.get("action"):
            case "forget" | "lift" as action:
                given = dict(arguments)
                kind: RequestKind = "forget" if action == "forget" else "lift"
                return self._tasks.begin(
                    action, lambda task: self._work(kind, given, task), repr(sorted(given.items()))
                )
            case "explain":
                key = traces.key_of(str(arguments.get("key")))
                return self._tasks.begin("explain", lambda task: explained(self._parts, self._control.again(), key))
            case "gc":
                run = partial(Collecting, self._parts, self._control, self._sources, given=dict(arguments))
                apply = bool(arguments.get("apply"))
                return self._tasks.begin("gc", lambda task: run(task).apply() if apply else run(task).look())
            case "task":
                return self._tasks.asked_after(arguments)
        raise ConfigError(f"unknown action {arguments.get('action')!r}", "forget, lift, explain, gc or task")

    def close(self) -> None:
        """Give up what still runs."""
        self._tasks.close()

    def _work(self, kind: RequestKind, given: Mapping[str, Any], task: Task) -> dict[str, Any]:
        run = Forgetting(self._parts, self._control, self._sources, task, given)
        return run.forget() if kind == "forget" else run.lift()


class Forgetting:
    """One run of a command: ``keys`` or ``source``, or ``requests`` that were asked before.

    Args:
        parts: broker and store, open.
        control: what ``control`` says.
        sources: those that this very process runs.
        task: told how far it is.
        given: besides, ``wait`` (seconds), ``purge``, ``take_over`` and ``beforehand``.
    """

    def __init__(
        self,
        parts: Parts,
        control: Followed,
        sources: Callable[[], Collection[str]],
        task: Task,
        given: Mapping[str, Any],
    ) -> None:
        self._parts = parts
        self._control = control
        self._task = task
        self._given = given
        deadline = Deadline.after(float(given.get("wait", 60.0)))
        self._asking = Asking(parts, control, sources, task, deadline, take_over=bool(given.get("take_over")))
        self._topic = parts.names.documents(parts.config.pipeline.epoch)

    # ------------------------------------------------------------------------ the commands

    def forget(self) -> dict[str, Any]:
        """What a receipt says, unsigned."""
        asked = self._asked("forget")
        before = {} if self._given.get("requests") else self._found(asked)
        done = self._asking.carried_out(asked)
        state = self._control.again()
        if done:
            self._tombstones(asked, done)
        behind = self._passed(done) if len(done) == len(asked) else []
        self._resolve(asked, done)
        self._trim(state, asked)
        files = self._purged()
        self._task.at("looking", 0, 0)
        places = self._connectors(asked, done)
        for request in asked:
            places += proof.look(self._parts, self._control.again(), _wanted(request))
        places += files
        if not self._asking.working() and all(place.state == "gone" for place in places if place.place in _READ):
            # Nobody has an older version in work, and there is none left that anybody could read.
            behind = [replace(place, state="gone", note="none runs, and nothing is left to read") for place in behind]
        places += behind
        state_of_all, latest = proof.standing(places)
        return {
            "format": FORMAT,
            "version": VERSION,
            "pipeline": self._parts.names.root.removesuffix("."),
            "requests": [self._described(request, done.get(request.id)) for request in asked],
            "kept_out": self._kept_out(asked),
            "looked": moment(time.time()),
            "not_looked_at": list(_NOT_LOOKED_AT),
            "places": [
                {**place.as_json(), "found_before": before.get((place.place, place.name))} for place in _merged(places)
            ],
            "state": state_of_all,
            "latest": moment(latest),
        }

    def lift(self) -> dict[str, Any]:
        """How many suppressions were lifted, and by whom."""
        asked = self._asked("lift")
        done = self._asking.carried_out(asked)
        return {
            "lifted": sum(one.count for one in done.values()),
            "pending": [request.source for request in asked if request.id not in done],
            "requests": [request.id for request in asked],
        }

    # ------------------------------------------------------------------------- asking

    def _asked(self, kind: RequestKind) -> list[Request]:
        """The requests, written to ``control`` or found there."""
        again = self._given.get("requests")
        if again is not None:
            state = self._control.again()
            missing = [id for id in again if id not in state.requests]
            if missing:
                raise Refused(f"control does not know request {missing[0]}", "it was lifted since, and gc removed it")
            found = [state.requests[id] for id in again]
            other = next((one for one in found if one.kind != kind), None)
            if other is not None:
                raise Refused(f"request {other.id} is a {other.kind} and no {kind}", "give keys, or a source")
            return found
        return self._asking.asked(list(self._wanted(kind)))

    def _wanted(self, kind: RequestKind) -> Iterator[Request]:
        source = self._given.get("source")
        if source is not None:
            if kind == "forget":
                self._refuse_unknown([], str(source))
            yield self._asking.request(kind, str(source))
            return
        texts = self._given.get("keys") or []
        if not isinstance(texts, list) or not texts or len(texts) > MOST_KEYS:
            raise ConfigError(f"`keys` must be 1 to {MOST_KEYS} document keys", "give the others to another command")
        keys = list(dict.fromkeys(key_of(str(text)) for text in texts))
        if kind == "forget" and not self._given.get("beforehand"):
            self._refuse_unknown(keys, None)
        for one in dict.fromkeys(key.source for key in keys):
            yield self._asking.request(kind, one, [key.path for key in keys if key.source == one])

    def _refuse_unknown(self, keys: Sequence[DocumentKey], source: str | None) -> None:
        """A key with a typing error must not pass for one that was forgotten."""
        wanted = Wanted(keys, source)
        known: set[DocumentKey] = set()
        for collection in traces.collections(self._parts):
            for page in traces.heads(collection, wanted):
                known |= {head.key for head in page}
                if source is not None:
                    return
        missing = [key for key in keys if key not in known]
        if keys and not missing:
            return
        for record in traces.records(self._parts, self._topic, Wanted(missing, source)):
            if source is not None:
                return
            known.add(DocumentKey.from_bytes(record.key or b""))
        unknown = [key.text for key in missing if key not in known] if keys else [f"source {source}"]
        if unknown:
            raise ConfigError(
                f"nothing is known of {unknown[0]}",
                "`vectide search --json` shows keys; --beforehand keeps out what is still to come",
            )

    # --------------------------------------------------------------------- applying

    def _tombstones(self, asked: Sequence[Request], done: Mapping[str, Done]) -> None:
        """What the workers will write, now: whatever they still have in work is below it."""
        self._task.at("writing tombstones", 0, 0)
        for collection in traces.collections(self._parts):
            batch: list[ChunkedDocument] = []
            with suppress(CollectionMissing):  # dropped meanwhile
                for key, version in self._deletes(asked, done):
                    generation = collection.spec.generation
                    batch.append(ChunkedDocument(key, version, generation, "deleted", Provenance(time.time())))
                    if len(batch) >= _TOMBSTONES:
                        _bury(collection, batch)
                        batch = []
                _bury(collection, batch)

    def _deletes(self, asked: Sequence[Request], done: Mapping[str, Done]) -> Iterator[tuple[DocumentKey, int]]:
        """Each document with its delete's version."""
        epoch = self._parts.config.pipeline.epoch
        for request in asked:
            found = done.get(request.id)
            if found is None:
                continue
            if request.paths:
                for path, (_, offset) in zip(request.paths, found.offsets, strict=True):
                    yield DocumentKey(request.source, path), version_of(epoch, offset)
                continue
            for record in traces.records(self._parts, self._topic, Wanted(source=request.source)):
                first, last = found.ranges.get(record.partition, (0, -1))
                if first <= record.offset <= last and is_delete(record):
                    yield DocumentKey.from_bytes(record.key or b""), version_of(epoch, record.offset)

    def _passed(self, done: Mapping[str, Done]) -> list[Place]:
        """Wait until every generation's workers are past the deletes; the places that they are."""
        ends: dict[int, int] = {}
        for one in done.values():
            for partition, (_, last) in one.ranges.items():
                ends[partition] = max(ends.get(partition, 0), last + 1)
        behind = self._asking.wait_passed(ends)
        generations = self._control.again().generations
        return [
            Place(
                "workers",
                f"of generation {id}",
                "pending" if partitions else "gone",
                partitions,
                note="" if not partitions else "paused" if generations[id].paused else "have not read the delete yet",
            )
            for id, partitions in behind.items()
        ]

    def _resolve(self, asked: Sequence[Request], done: Mapping[str, Done]) -> None:
        """End the dead letters of these documents; not those of what was let in again."""
        suppressed = requests.suppressed(self._control.again())
        epoch = self._parts.config.pipeline.epoch
        ended: set[str] = set()
        for request in asked:
            if request.id not in done:
                continue
            # A whole source that stays out has no living document, and no bounds by document.
            offsets = zip(request.paths, done[request.id].offsets, strict=False)
            deletes = {DocumentKey(request.source, path): version_of(epoch, offset) for path, (_, offset) in offsets}
            for id, letter in traces.letters(self._parts, _wanted(request)).standing.items():
                key = DocumentKey.from_bytes(letter.record_key or b"")
                if suppressed.by(key) and letter.version <= deletes.get(key, letter.version):
                    ended.add(id)
        if ended:
            with closed_after(self._parts.broker.publisher("forget"), _CLOSE_SECONDS) as publisher:
                dead_letters.resolve(publisher, self._parts.names, sorted(ended))

    def _trim(self, state: ControlState, asked: Sequence[Request]) -> None:
        """Chunks topics, below what is committed; of generations that are over, all of it."""
        broker, names = self._parts.broker, self._parts.names
        for topic in broker.topics(names.chunks("")):
            if not any(True for request in asked for _ in traces.texts_in_chunks(self._parts, topic, _wanted(request))):
                continue
            id = topic.removeprefix(names.chunks(""))
            known = state.generations.get(id)
            clearing.trim(self._parts, id, over=known is not None and known.state not in FOLLOWED)

    def _purged(self) -> list[Place]:
        """What has files here, and whether they were written anew."""
        parts = self._parts
        self._task.at("purging files", 0, 0)
        found = list(self._purged_log())
        for name in parts.store.names(parts.names.root):
            try:
                collection = parts.store.open(name)
                points = collection.count_chunks() + sum(collection.count_heads().values())
                if parts.config.store == "embedded" and points > PURGED_POINTS and not self._given.get("purge"):
                    note = f"{points} points: --purge writes its files anew, and holds up writers meanwhile"
                    found.append(Place("files", name, "waiting", note=note))
                elif parts.store.purge(name):
                    found.append(Place("files", name, "gone", note=_ANEW))
            except CollectionMissing:
                continue
            except ForeignCollection as error:
                # Ours, if its name is a generation's: then what it says of itself was changed.
                ours = clearing.is_generation(name.removeprefix(parts.names.root))
                note = without_passwords(error.what)
                found.append(Place("files", name, "pending" if ours else "gone", int(ours), note=note))
        return found

    def _purged_log(self) -> Iterator[Place]:
        names = self._parts.names
        while True:
            try:
                if self._parts.broker.purge([self._topic, names.connector_state, names.dead_letters]):
                    yield Place("files", "log", "gone", note=_ANEW)
                return
            except BrokerUnavailable as error:
                if self._asking.over:
                    yield Place("files", "log", "pending", 1, note=without_passwords(str(error)))
                    return
                time.sleep(_PURGE_POLL_SECONDS)

    # -------------------------------------------------------------------------- telling

    def _found(self, asked: Sequence[Request]) -> dict[tuple[str, str], int]:
        """What there is of them before anything is done, by place."""
        self._task.at("looking", 0, 0)
        state = self._control.again()
        found: list[Place] = []
        for request in asked:
            found += proof.look(self._parts, state, _wanted(request))
        return {(place.place, place.name): place.found for place in _merged(found)}

    def _connectors(self, asked: Sequence[Request], done: Mapping[str, Done]) -> list[Place]:
        return [
            Place("connector", request.source, "pending", 1, note="it runs, and has not answered yet")
            for request in asked
            if request.id not in done
        ]

    def _described(self, request: Request, done: Done | None) -> dict[str, Any]:
        epoch = self._parts.config.pipeline.epoch
        keys = [DocumentKey(request.source, path).text for path in request.paths]
        found: dict[str, Any] = {
            "id": request.id,
            "source": request.source,
            "whole_source": not request.paths,
            "asked": moment(request.at),
            "done": None if done is None else moment(done.at),
            "topic": self._topic,
            "deletes": 0 if done is None else done.count,
            "offsets": {}
            if done is None
            else {str(partition): list(ends) for partition, ends in sorted(done.ranges.items())},
        }
        offsets = [] if done is None else done.offsets
        if request.paths:
            found["documents"] = [
                {"key": key, "partition": at[0], "offset": at[1], "version": version_of(epoch, at[1])}
                for key, at in zip(keys, offsets, strict=False)
            ] or [{"key": key} for key in keys]
        return found

    def _kept_out(self, asked: Sequence[Request]) -> bool:
        """Whether all of it stays out of the index until it is lifted."""
        suppressed = requests.suppressed(self._control.again())
        return all(
            request.source in suppressed.sources
            if not request.paths
            else all(suppressed.by(DocumentKey(request.source, path)) for path in request.paths)
            for request in asked
        )


def _bury(collection: StoredCollection, batch: Sequence[ChunkedDocument]) -> None:
    if batch:
        synchronise(collection, batch, _nothing_to_embed, donor_seconds=0.0)
        collection.flush()


def _nothing_to_embed(items: Sequence[ToEmbed]) -> Any:
    raise AssertionError("a delete has nothing to embed")


def _wanted(request: Request) -> Wanted:
    if not request.paths:
        return Wanted(source=request.source)
    return Wanted([DocumentKey(request.source, path) for path in request.paths])


def _merged(places: Sequence[Place]) -> Iterator[Place]:
    """One of each place: several sources in one command share topics and collections."""
    order = ("gone", "waiting", "pending")
    by_name: dict[tuple[str, str], list[Place]] = {}
    for place in places:
        by_name.setdefault((place.place, place.name), []).append(place)
    for found in by_name.values():
        worst = max(found, key=lambda one: (order.index(one.state), one.until or 0.0))
        yield Place(
            worst.place, worst.name, worst.state, sum(one.found for one in found), worst.until, worst.note, worst.looked
        )
