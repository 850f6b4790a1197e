"""The embedded store: Qdrant's own engine in this process (qdrant-edge), a folder per collection.

A write is searchable when it returns and survives a killed process; only ``flush`` survives a
power cut, and it holds the interpreter lock for some 0.2 s: so it is called every few seconds.
It also gives back the room of deleted points, once they are as many as those that are left.
No index of the vectors is built, which would hold the lock for seconds: searches are exact scans,
6 ms at 20,000 chunks.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pipeline.errors import (
    CollectionMissing,
    Fatal,
    ForeignCollection,
    StateInUse,
    StoreBusy,
    StoreUnavailable,
    VectideError,
)
from pipeline.points import Vectors
from pipeline.ports import CollectionSpec
from pipeline.store.collection import Mode, PointCollection, RawPoint, check_same, metadata_of, spec_of
from pipeline.store.conditions import Filter, indexes
from pipeline.store.edge_filters import edge_filter, field_index
from pipeline.store.payload import VECTOR, Payload

_DISTANCES: Final = {"cosine": "Cosine", "dot": "Dot", "euclid": "Euclid"}
#: The engine maps sparse files of 32 MiB into memory and fills them later: where the disk has no
#: page left then, the kernel kills the process (SIGBUS). So it must never come to that.
_RESERVE_BYTES: Final = 128 * 1024 * 1024
_FULL_SECONDS: Final = 5.0
#: Points that are written again at a time.
_REWRITTEN: Final = 256
#: Points of one page of a walk: some milliseconds.
_WALK: Final = 1_000
#: A segment of at least so many points is written anew when this part of them is deleted. That
#: holds the interpreter lock for 0.3 s per 5,000 points that are left, so each time pays for as
#: many deletes.
VACUUM_POINTS = 2_000
VACUUM_DELETED = 0.5
#: Beside a shard: one that is being written in its place, and the one that it has replaced.
_FRESH: Final = "shard.new"
_OLD: Final = "shard.old"
#: Points of one request while files are written anew.
_COPIED: Final = 500
#: For readers to end, and for them to wait until they may go on.
_SHUT_SECONDS: Final = 30.0

#: Where collections lie while they are removed; none is called so.
_DROPPED: Final = "dropped"


class EdgeStore:
    """The Store port over a directory; one process.

    Args:
        directory: made if it does not exist.
    """

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Fatal(f"state folder {directory}: {error.strerror}", "give a writable folder with --state") from None
        self._directory = directory
        shutil.rmtree(directory / _DROPPED, ignore_errors=True)  # a drop that was cut off
        self._lock = threading.RLock()
        self._open: dict[str, tuple[PointCollection, EdgeEngine]] = {}

    def create(self, spec: CollectionSpec) -> PointCollection:
        """Make a collection with its payload indexes, or open the one that is there.

        Raises:
            StoreBusy: the disk has no room for a new one.
        """
        with self._lock:
            folder = self._directory / spec.name
            if not (folder / "collection.json").exists():
                _refuse_full(self._directory)
                self._make(spec, folder)
            # Before the shard is opened: the engine says of another dimension only that it is damaged.
            check_same(spec, self._described(spec.name))
            return self.open(spec.name)

    def open(self, name: str) -> PointCollection:
        """Open a collection.

        Raises:
            CollectionMissing: there is none of that name.
            ForeignCollection: vectide did not make it.
            StateInUse: another process has it open.
        """
        with self._lock:
            if name in self._open:
                return self._open[name][0]
            spec = self._described(name)
            engine = EdgeEngine(self._directory / name / "shard", spec)
            collection = PointCollection(spec, engine, durable=False)
            self._open[name] = collection, engine
            return collection

    def _described(self, name: str) -> CollectionSpec:
        described = self._directory / name / "collection.json"
        try:
            metadata = json.loads(described.read_text())
        except FileNotFoundError:
            raise CollectionMissing(f"there is no collection {name}", "resolve the live generation anew") from None
        except (OSError, ValueError) as error:
            raise ForeignCollection(f"{described}: {error}", "was it changed by hand?") from None
        return spec_of(name, metadata)

    def names(self, prefix: str) -> list[str]:
        """The collections whose names start with ``prefix``."""
        return sorted(
            path.parent.name
            for path in self._directory.glob("*/collection.json")
            if path.parent.name.startswith(prefix)
        )

    def defer_index(self, name: str) -> None:
        """Nothing to do: there is never an index."""

    def build_index(self, name: str) -> bool:
        """True: there is never an index."""
        return True

    def size(self, name: str) -> int:
        """Bytes of a collection's files on the disk."""
        files = (path for path in (self._directory / name).rglob("*") if path.is_file())
        return sum(path.stat().st_blocks * 512 for path in files)

    def purge(self, name: str) -> bool:
        """Write a collection's files anew, without what was deleted; True."""
        self.open(name)
        self._open[name][1].purge()
        return True

    def drop(self, name: str) -> None:
        """Delete a collection and every alias of it."""
        with self._lock:
            opened = self._open.pop(name, None)
            if opened is not None:
                opened[1].drop()
            self._remove(name)
            aliases = self._aliases()
            self._write_json("aliases.json", {alias: target for alias, target in aliases.items() if target != name})

    def point_alias(self, alias: str, name: str) -> None:
        """Make ``alias`` mean ``name`` in one atomic step."""
        with self._lock:
            self.open(name)
            self._write_json("aliases.json", {**self._aliases(), alias: name})

    def alias(self, alias: str) -> str | None:
        """The collection that ``alias`` means."""
        with self._lock:
            return self._aliases().get(alias)

    def check(self) -> None:
        """Reach the store once.

        Raises:
            StoreUnavailable: the folder is gone.
        """
        if not self._directory.is_dir():
            raise StoreUnavailable(f"state folder {self._directory} is gone")

    def close(self) -> None:
        """Flush and release all collections."""
        with self._lock:
            for _, engine in self._open.values():
                engine.close()
            self._open.clear()

    def _remove(self, name: str) -> None:
        """Out of the way in one step: a crash leaves what the next start removes, never half of a collection."""
        folder, dropped = self._directory / name, self._directory / _DROPPED
        try:
            dropped.mkdir(exist_ok=True)
            shutil.rmtree(dropped / name, ignore_errors=True)
            folder.rename(dropped / name)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreUnavailable(f"{folder} cannot be removed: {error.strerror}") from None
        shutil.rmtree(dropped, ignore_errors=True)
        if dropped.exists():
            raise StoreUnavailable(f"{dropped} cannot be removed: remove it by hand, or start again")

    def _make(self, spec: CollectionSpec, folder: Path) -> None:
        if folder.exists():
            shutil.rmtree(folder)  # a creation that was cut off: it has no collection.json
        _created(folder / "shard", spec).close()
        self._write_json(f"{spec.name}/collection.json", metadata_of(spec))

    def _aliases(self) -> dict[str, str]:
        try:
            aliases: dict[str, str] = json.loads((self._directory / "aliases.json").read_text())
        except FileNotFoundError:
            return {}
        return aliases

    def _write_json(self, name: str, value: object) -> None:
        path = self._directory / name
        temporary = path.with_suffix(".new")
        try:
            with temporary.open("w") as file:
                json.dump(value, file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise StoreUnavailable(f"{path}: {error.strerror}") from None


class EdgeEngine:
    """An open shard. Writers take turns; readers need no lock.

    Raises:
        StateInUse: another process has the shard open.
    """

    def __init__(self, folder: Path, spec: CollectionSpec) -> None:
        import qdrant_edge

        self._edge = qdrant_edge
        self._folder = folder
        self._spec = spec
        self._writing = threading.Lock()
        self._gate = threading.Condition()
        self._inside = 0
        self._shut = False
        self._dropped = False
        _whole(folder)
        self._shard = self._loaded()
        _settle(folder)  # only now is it known that no other process has it open

    def upsert(
        self, points: Sequence[tuple[str, Vectors | None, Payload]], condition: Filter | None, mode: Mode
    ) -> None:
        """Write points under a condition."""
        edge = self._edge
        modes = {
            "upsert": edge.UpdateMode.Upsert,
            "insert_only": edge.UpdateMode.InsertOnly,
            "update_only": edge.UpdateMode.UpdateOnly,
        }
        made = [edge.Point(id, {} if vector is None else {VECTOR: vector}, payload) for id, vector, payload in points]
        where = None if condition is None else edge_filter(condition)
        self._update(lambda: edge.UpdateOperation.upsert_points(made, where, modes[mode]))

    def delete(self, matching: Filter) -> None:
        """Delete points."""
        self._update(lambda: self._edge.UpdateOperation.delete_points_by_filter(edge_filter(matching)))

    def rewrite(self, ids: Sequence[str], matching: Filter) -> None:
        """Write points again as they are, those with these ids and those that match: this process alone writes
        here, and nothing else while it does.
        """
        with self._writing, self._called():
            _refuse_full(self._folder)
            self._rewrite(self._shard.retrieve(list(ids), True, True))
            after: str | None = None
            while True:
                request = self._edge.ScrollRequest(
                    offset=after, limit=_REWRITTEN, filter=edge_filter(matching), with_payload=True, with_vector=True
                )
                records, following = self._shard.scroll(request)
                self._rewrite(records)
                if following is None:
                    return
                after = str(following)

    def _rewrite(self, records: Sequence[Any]) -> None:
        edge = self._edge
        made = [edge.Point(str(one.id), dict(one.vector or {}), one.payload or {}) for one in records]
        if made:
            self._shard.update(edge.UpdateOperation.upsert_points(made, None, edge.UpdateMode.Upsert))

    def set_payload(self, changes: Sequence[tuple[Filter, Payload]]) -> None:
        """Set top-level payload fields."""
        for matching, payload in changes:
            self._update(
                lambda matching=matching, payload=payload: self._edge.UpdateOperation.set_payload_by_filter(  # type: ignore[misc]
                    edge_filter(matching), payload
                )
            )

    def retrieve(self, ids: Sequence[str], payload: bool, vector: bool) -> list[RawPoint]:
        """Points by id; absent ones are left out."""
        with self._called():
            return [_raw(record) for record in self._shard.retrieve(list(ids), payload, vector)]

    def scroll(
        self, matching: Filter, limit: int, after: str | None, vector: bool, fields: Sequence[str] | None = None
    ) -> tuple[list[RawPoint], str | None]:
        """A page of points by id, with all of their payload or some fields of it."""
        payload = True if fields is None else self._edge.PayloadSelector.Include(list(fields))
        request = self._edge.ScrollRequest(
            offset=after, limit=limit, filter=edge_filter(matching), with_payload=payload, with_vector=vector
        )
        with self._called():
            records, following = self._shard.scroll(request)
        return [_raw(record) for record in records], None if following is None else str(following)

    def first_of_each(self, filters: Sequence[Filter]) -> list[RawPoint]:
        """For each filter one point that matches, with its vector."""
        requests = [
            self._edge.QueryRequest(limit=1, filter=edge_filter(one), with_payload=True, with_vector=True)
            for one in filters
        ]
        with self._called():
            answers = self._shard.query_batch(self._edge.QueryBatchRequest(requests))
        return [_raw(point) for answer in answers for point in answer]

    def search(self, vector: Vectors, matching: Filter, limit: int) -> list[tuple[RawPoint, float]]:
        """The nearest points."""
        request = self._edge.QueryRequest(
            limit=limit,
            query=self._edge.Query.Nearest(vector.tolist(), using=VECTOR),
            filter=edge_filter(matching),
            with_payload=True,
            with_vector=False,
        )
        with self._called():
            return [(_raw(point), float(point.score)) for point in self._shard.query(request)]

    def count(self, matching: Filter) -> int:
        """How many points match, exactly."""
        with self._called():
            return int(self._shard.count(self._edge.CountRequest(exact=True, filter=edge_filter(matching))))

    def facet(self, key: str, matching: Filter, limit: int) -> dict[str, int]:
        """How many points match, by the value of a field."""
        request = self._edge.FacetRequest(key=key, limit=limit, exact=True, filter=edge_filter(matching))
        with self._called():
            return {str(hit.value): int(hit.count) for hit in self._shard.facet(request).hits}

    def tally(self, key: str, limit: int) -> dict[int, int]:
        """How many points have each value of an integer field, exactly.

        An exact facet holds the interpreter lock for a second at 60,000 points. The index's own
        counts come in a twentieth of that, and are exact as long as no point is counted twice or
        after it was deleted, which shows in their sum; then the points are walked.
        """
        request = self._edge.FacetRequest(key=key, limit=limit, exact=False)
        there = {"must": [{"key": key, "range": {"gte": 0}}]}
        with self._called():
            found = {int(hit.value): int(hit.count) for hit in self._shard.facet(request).hits}
        first = self.scroll(there, 1, None, vector=False, fields=(key,))[0]
        values = len(first[0].payload[key]) if first else 0
        if sum(found.values()) == values * self.count(there):
            return {value: count for value, count in found.items() if count}
        return self._walked(key, there)

    def _walked(self, key: str, there: Filter) -> dict[int, int]:
        counts: Counter[int] = Counter()
        after: str | None = None
        while True:
            points, after = self.scroll(there, _WALK, after, vector=False, fields=(key,))
            for point in points:
                counts.update(point.payload[key])
            if after is None:
                return counts

    def flush(self) -> None:
        """Make everything durable, and give back the room of deleted points when it is worth it."""
        with self._writing, self._called():
            self._shard.flush()
            if self._shard.optimize():
                self._shard.flush()

    def purge(self) -> None:
        """Write all points into new files and let the old ones go: the engine keeps deleted points in
        its segments and the operations that wrote them in its log, whose numbers must go on.

        Writers wait for all of it, readers for the moment of the change.
        """
        fresh = self._folder.with_name(_FRESH)
        with self._writing:
            if self._dropped:
                raise _dropped()
            size = sum(path.stat().st_blocks * 512 for path in self._folder.rglob("*") if path.is_file())
            _refuse_full(self._folder, size)
            shutil.rmtree(fresh, ignore_errors=True)
            with _translated():
                made = _created(fresh, self._spec)
                self._copy_to(made)
                made.flush()
                made.close()
            with self._alone(), _translated():
                self._shard.close()
                # A crash between these leaves one of both: the next start knows which.
                self._folder.rename(self._folder.with_name(_OLD))
                fresh.rename(self._folder)
                self._shard = self._loaded()
            _settle(self._folder)

    def close(self) -> None:
        """Flush and release the shard."""
        with self._writing, _translated():
            self._shard.flush()
            self._shard.close()

    def drop(self) -> None:
        """Release the shard for good: whoever still has it finds the collection missing."""
        self._dropped = True
        self.close()

    @contextmanager
    def _called(self) -> Iterator[None]:
        if self._dropped:
            raise _dropped()
        with self._gate:
            if not self._gate.wait_for(lambda: not self._shut, _SHUT_SECONDS):
                raise StoreUnavailable(f"{self._folder} is being written anew")
            self._inside += 1
        try:
            with _translated():
                yield
        finally:
            with self._gate:
                self._inside -= 1
                self._gate.notify_all()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody reads meanwhile."""
        with self._gate:
            self._shut = True
            left = self._gate.wait_for(lambda: self._inside == 0, _SHUT_SECONDS)
        try:
            if not left:
                raise StoreUnavailable(f"{self._folder} is read without a pause; try again")
            yield
        finally:
            with self._gate:
                self._shut = False
                self._gate.notify_all()

    def _loaded(self) -> Any:
        try:
            return self._edge.EdgeShard.load(str(self._folder), _config(self._spec))
        except Exception as error:
            if "WouldBlock" in str(error):
                raise StateInUse(
                    f"{self._folder} is open in another process",
                    "`vectide search` and `vectide status` ask it; stop it first, or give another folder with --state",
                ) from None
            raise Fatal(
                f"{self._folder} cannot be opened: {error}",
                "restore it, or delete the whole state folder: everything is built again from the sources",
            ) from None

    def _copy_to(self, made: Any) -> None:
        after: Any = None
        while True:
            request = self._edge.ScrollRequest(offset=after, limit=_COPIED, with_payload=True, with_vector=True)
            records, after = self._shard.scroll(request)
            points = [self._edge.Point(one.id, one.vector or {}, one.payload or {}) for one in records]
            if points:
                made.update(self._edge.UpdateOperation.upsert_points(points))
            if after is None:
                return

    def _update(self, operation: Callable[[], Any]) -> None:
        with self._writing, self._called():
            _refuse_full(self._folder)
            self._shard.update(operation())


def _refuse_full(folder: Path, needed: int = 0) -> None:
    free = shutil.disk_usage(folder).free
    if free < _RESERVE_BYTES + needed:
        raise StoreBusy(
            f"the embedded store's disk is full: {free >> 20} MiB are free for {folder}, "
            f"{(_RESERVE_BYTES + needed) >> 20} MiB must be",
            _FULL_SECONDS,
        )


def _created(folder: Path, spec: CollectionSpec) -> Any:
    """A new, open shard with its payload indexes."""
    import qdrant_edge

    folder.mkdir(parents=True)
    with _translated():
        made = qdrant_edge.EdgeShard.create(str(folder), _config(spec))
        for field, kind in indexes(spec.filter_fields):
            made.update(field_index(field, kind))
    return made


def _whole(folder: Path) -> None:
    """A crash while files were written anew may have left the old ones aside: they are whole."""
    old = folder.with_name(_OLD)
    if old.exists() and not folder.exists():
        old.rename(folder)


def _settle(folder: Path) -> None:
    """Remove what is left of files that were written anew."""
    for left in (folder.with_name(_OLD), folder.with_name(_FRESH)):
        if left.exists():
            shutil.rmtree(left)


def _dropped() -> CollectionMissing:
    return CollectionMissing("the collection was dropped", "resolve the live generation anew")


def _config(spec: CollectionSpec) -> Any:
    import qdrant_edge

    distance = getattr(qdrant_edge.Distance, _DISTANCES[spec.distance])
    return qdrant_edge.EdgeConfig(
        vectors={VECTOR: qdrant_edge.EdgeVectorParams(spec.dimension, distance)},
        optimizers=qdrant_edge.EdgeOptimizersConfig(
            deleted_threshold=VACUUM_DELETED,
            vacuum_min_vector_number=VACUUM_POINTS,
            default_segment_number=1,
            indexing_threshold=0,  # never
        ),
    )


@contextmanager
def _translated() -> Iterator[None]:
    """The engine raises plain exceptions; all of ours have a class that decides what happens."""
    try:
        yield
    except (TypeError, ValueError, VectideError):
        raise  # a mistake of ours, or said already
    except Exception as error:
        if "No space left" in str(error):
            raise StoreBusy(f"the embedded store's disk is full: {error}", _FULL_SECONDS) from None
        raise StoreUnavailable(f"the embedded store: {error}") from None


def _raw(record: Any) -> RawPoint:
    return RawPoint(str(record.id), record.payload or {}, record.vector)
