"""The Qdrant store: the Store port on qdrant-client, over REST or gRPC, server 1.19 or later.

Every write waits. Before 1.19 a server could resurrect points that a filter had deleted when it
replayed its log, so an older one is refused. With replicas, conditional writes go through one
leader (ordering=medium) and heads are read with the majority.
"""

from __future__ import annotations

import re
import ssl
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import (
    CollectionMissing,
    CollectionUnfinished,
    ConfigError,
    Fatal,
    NotAllowed,
    RequestRefused,
    StoreBusy,
    StoreUnavailable,
    VectideError,
)
from pipeline.points import Vectors
from pipeline.ports import CollectionSpec
from pipeline.store.collection import Mode, PointCollection, RawPoint, check_same, metadata_of, spec_of
from pipeline.store.conditions import Filter, indexes
from pipeline.store.payload import VECTOR, Payload

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

#: Vectors of a segment in kilobytes above which it gets an index: a server's own default.
_INDEXING_KILOBYTES: Final = 10_000
#: Heads are points without a vector, about one in five.
_INDEXED_SHARE: Final = 0.7
_OLDEST_SERVER: Final = (1, 19)
_DISTANCES: Final = {"cosine": "Cosine", "dot": "Dot", "euclid": "Euclid"}
_BUSY_SECONDS: Final = 2.0
#: One pass over the index of a field in each segment, which grows with the collection.
_TALLY_SECONDS: Final = 300
#: A facet, or in strict mode a filter, on a field that has no index yet.
_NO_INDEX: Final = re.compile("no appropriate index|index required", re.IGNORECASE)
#: Errors that wrap each other; the client's, httpx's and httpcore's are four.
_CAUSES: Final = 10


@dataclass(frozen=True, slots=True)
class QdrantSettings:
    """How to reach a server."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    grpc: bool = False
    grpc_port: int = 6334
    ca_file: str | None = None
    timeout_seconds: float = 20.0
    shard_number: int | None = None
    replication_factor: int = 1


class QdrantStore:
    """The Store port over a server.

    Raises:
        ConfigError: the certificates to trust cannot be read.
    """

    def __init__(self, settings: QdrantSettings) -> None:
        from qdrant_client import QdrantClient

        self._settings = settings
        options: dict[str, Any] = {}
        if settings.ca_file:
            options = {"verify": _trusting(settings.ca_file), "grpc_options": _trusted_by_grpc(settings.ca_file)}
        with warnings.catch_warnings():
            # It warns of an API key without TLS, which a cluster's own network may allow.
            warnings.simplefilter("ignore")
            self._client: QdrantClient = QdrantClient(
                url=settings.url,
                api_key=settings.api_key,
                prefer_grpc=settings.grpc,
                grpc_port=settings.grpc_port,
                timeout=max(1, round(settings.timeout_seconds)),
                check_compatibility=False,  # check() asks for more than it would
                **options,
            )

    def create(self, spec: CollectionSpec) -> PointCollection:
        """Make a collection with its payload indexes, or open the one that is there."""
        from qdrant_client import models

        if not self._exists(spec.name):
            try:
                self._make(spec)
            except Fatal:
                # Several workers start at once, and another one made it in between.
                if not self._exists(spec.name):
                    raise
        with _translated(spec.name):
            collection = self.open(spec.name)
            check_same(spec, collection.spec)
            # Making an index again does nothing; a creation that was cut off is completed here.
            for field, kind in indexes(spec.filter_fields):
                schema: Any = (
                    models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
                    if kind == "tenant"
                    else models.PayloadSchemaType(kind)
                )
                self._client.create_payload_index(spec.name, field, schema, wait=True)
        return collection

    def _exists(self, name: str) -> bool:
        with _translated(name):
            return bool(self._client.collection_exists(name))

    def _make(self, spec: CollectionSpec) -> None:
        from qdrant_client import models

        distance = models.Distance(_DISTANCES[spec.distance])
        with _translated(spec.name):
            self._client.create_collection(
                spec.name,
                vectors_config={VECTOR: models.VectorParams(size=spec.dimension, distance=distance)},
                shard_number=self._settings.shard_number,
                replication_factor=self._settings.replication_factor,
                metadata=metadata_of(spec),
            )

    def open(self, name: str) -> PointCollection:
        """Open a collection.

        Raises:
            CollectionMissing: there is none of that name.
            ForeignCollection: vectide did not make it.
        """
        with _translated(name):
            info = self._client.get_collection(name)
        spec = spec_of(name, info.config.metadata)
        engine = QdrantEngine(self._client, name, replicated=self._settings.replication_factor > 1)
        return PointCollection(spec, engine, durable=True)

    def names(self, prefix: str) -> list[str]:
        """The collections whose names start with ``prefix``."""
        with _translated(prefix):
            found = self._client.get_collections().collections
        return sorted(one.name for one in found if one.name.startswith(prefix))

    def defer_index(self, name: str) -> None:
        """Build no vector index while a collection is loaded."""
        self._index_above(name, 0)

    def build_index(self, name: str) -> bool:
        """Build what was deferred; True once the server has nothing left to optimise, or nearly all
        vectors are indexed: under steady writes there is always something left.

        Raises:
            StoreUnavailable: its optimiser has failed; the server's log says why.
        """
        from qdrant_client import models

        with _translated(name):
            info = self._client.get_collection(name)
        if info.config.optimizer_config.indexing_threshold == 0:
            self._index_above(name, _INDEXING_KILOBYTES)
            return False
        if info.status == models.CollectionStatus.RED:
            raise StoreUnavailable(f"{name}: the server's optimiser has failed: {info.optimizer_status}")
        indexed, points = info.indexed_vectors_count or 0, info.points_count or 0
        return bool(info.status == models.CollectionStatus.GREEN) or indexed >= _INDEXED_SHARE * points

    def _index_above(self, name: str, kilobytes: int) -> None:
        from qdrant_client import models

        change = models.OptimizersConfigDiff(indexing_threshold=kilobytes)
        with _translated(name):
            self._client.update_collection(name, optimizers_config=change)

    def size(self, name: str) -> int:
        """Bytes of a collection's vectors; a server does not tell what its files take."""
        collection = self.open(name)
        return collection.count_chunks() * collection.spec.dimension * 4

    def purge(self, name: str) -> bool:
        """False: its optimizer writes segments anew when enough of them is deleted."""
        return False

    def drop(self, name: str) -> None:
        """Delete a collection."""
        with _translated(name):
            self._client.delete_collection(name)

    def point_alias(self, alias: str, name: str) -> None:
        """Make ``alias`` mean ``name``: one create over the existing one, never delete + create."""
        from qdrant_client import models

        with _translated(name):
            operation = models.CreateAliasOperation(
                create_alias=models.CreateAlias(collection_name=name, alias_name=alias)
            )
            self._client.update_collection_aliases([operation])

    def alias(self, alias: str) -> str | None:
        """The collection that ``alias`` means."""
        with _translated(alias):
            found = self._client.get_aliases().aliases
        return next((one.collection_name for one in found if one.alias_name == alias), None)

    def check(self) -> None:
        """Reach the server once.

        Raises:
            StoreUnavailable: no answer.
            ConfigError: its certificate is not trusted.
            Fatal: it is too old, or refuses the API key.
        """
        try:
            with _translated("server"):
                version = self._client.info().version
                self._client.get_collections()  # the version is told without a key, this is not
        except _Untrusted as error:
            # Later it is waited out: a certificate may be about to be changed.
            raise ConfigError(
                f"the Qdrant server at {self._settings.url}: {error}",
                "set qdrant.ca_file to the certificate of the authority that signed it, qdrant.url to one of its names",
            ) from None
        numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:2])
        if numbers < _OLDEST_SERVER:
            raise Fatal(
                f"the Qdrant server at {self._settings.url} is of version {version}; vectide needs 1.19 or later",
                "upgrade it: before 1.19 a restart could bring deleted points back",
            )

    def close(self) -> None:
        """Release connections."""
        self._client.close()


class _Untrusted(StoreUnavailable):
    """The server's certificate is refused."""


class QdrantEngine:
    """Points of one collection on a server."""

    def __init__(self, client: QdrantClient, name: str, *, replicated: bool) -> None:
        from qdrant_client import models

        self._client = client
        self._name = name
        self._models = models
        self._ordering = models.WriteOrdering.MEDIUM if replicated else None
        self._consistency = models.ReadConsistencyType.MAJORITY if replicated else None

    def upsert(
        self, points: Sequence[tuple[str, Vectors | None, Payload]], condition: Filter | None, mode: Mode
    ) -> None:
        """Write points under a condition."""
        made = [
            self._models.PointStruct(id=id, vector={} if vector is None else {VECTOR: vector.tolist()}, payload=payload)
            for id, vector, payload in points
        ]
        with _translated(self._name):
            self._client.upsert(
                self._name,
                made,
                wait=True,
                ordering=self._ordering,
                update_filter=None if condition is None else self._filter(condition),
                update_mode=self._models.UpdateMode(mode),
            )

    def delete(self, matching: Filter) -> None:
        """Delete points."""
        with _translated(self._name):
            selector = self._models.FilterSelector(filter=self._filter(matching))
            self._client.delete(self._name, selector, wait=True, ordering=self._ordering)

    def set_payload(self, changes: Sequence[tuple[Filter, Payload]]) -> None:
        """Set top-level payload fields, all changes in one request."""
        models = self._models
        operations = [
            models.SetPayloadOperation(set_payload=models.SetPayload(payload=payload, filter=self._filter(matching)))
            for matching, payload in changes
        ]
        with _translated(self._name):
            self._client.batch_update_points(self._name, operations, wait=True, ordering=self._ordering)

    def retrieve(self, ids: Sequence[str], payload: bool, vector: bool) -> list[RawPoint]:
        """Points by id; absent ones are left out."""
        with _translated(self._name):
            found = self._client.retrieve(
                self._name, list(ids), with_payload=payload, with_vectors=vector, consistency=self._consistency
            )
        return [_raw(record) for record in found]

    def scroll(
        self, matching: Filter, limit: int, after: str | None, vector: bool, fields: Sequence[str] | None = None
    ) -> tuple[list[RawPoint], str | None]:
        """A page of points by id, with all of their payload or some fields of it."""
        with _translated(self._name):
            found, following = self._client.scroll(
                self._name,
                self._filter(matching),
                limit=limit,
                offset=after,
                with_payload=True if fields is None else list(fields),
                with_vectors=vector,
                consistency=self._consistency,
            )
        return [_raw(record) for record in found], None if following is None else str(following)

    def first_of_each(self, filters: Sequence[Filter]) -> list[RawPoint]:
        """For each filter one point that matches, with its vector."""
        requests = [
            self._models.QueryRequest(filter=self._filter(one), limit=1, with_payload=["hash"], with_vector=True)
            for one in filters
        ]
        with _translated(self._name):
            answers = self._client.query_batch_points(self._name, requests)
        return [_raw(point) for answer in answers for point in answer.points]

    def search(self, vector: Vectors, matching: Filter, limit: int) -> list[tuple[RawPoint, float]]:
        """The nearest points."""
        with _translated(self._name):
            answer = self._client.query_points(
                self._name,
                query=vector.tolist(),
                using=VECTOR,
                query_filter=self._filter(matching),
                limit=limit,
                with_payload=True,
            )
        return [(_raw(point), float(point.score)) for point in answer.points]

    def count(self, matching: Filter) -> int:
        """How many points match, exactly."""
        with _translated(self._name):
            return int(self._client.count(self._name, count_filter=self._filter(matching), exact=True).count)

    def facet(self, key: str, matching: Filter, limit: int) -> dict[str, int]:
        """How many points match, by the value of a field. Exactly: by a read for each value (as of 1.19)."""
        with _translated(self._name):
            answer = self._client.facet(self._name, key, facet_filter=self._filter(matching), limit=limit, exact=True)
        return {str(hit.value): int(hit.count) for hit in answer.hits}

    def tally(self, key: str, limit: int) -> dict[int, int]:
        """How many points have each value of an integer field, exactly.

        The index's own counts come in one pass, and are exact as long as no point is counted twice or
        after it was deleted, which shows in their sum; then each value is asked for.
        """
        found = self._counted(key, limit, exact=False)
        there: Filter = {"must": [{"key": key, "range": {"gte": 0}}]}
        first = self.scroll(there, 1, None, vector=False, fields=(key,))[0]
        values = len(first[0].payload[key]) if first else 0
        if sum(found.values()) == values * self.count(there):
            return found
        return self._counted(key, limit, exact=True)

    def _counted(self, key: str, limit: int, *, exact: bool) -> dict[int, int]:
        with _translated(self._name):
            answer = self._client.facet(self._name, key, limit=limit, exact=exact, timeout=_TALLY_SECONDS)
        return {int(hit.value): int(hit.count) for hit in answer.hits if hit.count}

    def rewrite(self, ids: Sequence[str], matching: Filter) -> None:
        """Nothing: other processes write here, and what is written without a condition could undo theirs."""

    def flush(self) -> None:
        """Nothing to do: every write waited."""

    def _filter(self, matching: Filter) -> Any:
        return self._models.Filter.model_validate(matching)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """The client's errors as ours."""
    import httpx
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    try:
        yield
    except VectideError:
        raise
    except ResourceExhaustedResponse as error:
        raise StoreBusy(f"{what}: the server limits the rate: {error}", float(error.retry_after_s)) from None
    except UnexpectedResponse as error:
        raise _of_status(what, error.status_code or 0, str(error)) from None
    except (ResponseHandlingException, httpx.HTTPError, OSError, TimeoutError) as error:
        refused = _refused_certificate(error)
        if refused is not None:
            raise _Untrusted(f"{what}: its certificate is refused: {refused.verify_message}") from None
        raise StoreUnavailable(f"{what}: {error or type(error).__name__}") from None
    except Exception as error:
        code = getattr(error, "code", None)
        if code is None:
            raise
        raise _of_grpc(what, getattr(code(), "name", ""), str(error)) from None


def _trusting(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise ConfigError(f"qdrant.ca_file: {ca_file} holds no PEM certificates", "give a file of them") from None
    except OSError as error:
        raise ConfigError(f"qdrant.ca_file: {ca_file}: {error.strerror}", "mount the file there") from None


def _trusted_by_grpc(ca_file: str) -> dict[str, Any]:
    with open(ca_file, "rb") as file:  # noqa: PTH123 - a setting's text
        return {"root_certificates": file.read()}


def _refused_certificate(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """What is at the bottom of a client's error, if it is this."""
    seen = 0
    while error is not None and seen < _CAUSES:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = getattr(error, "source", None) or error.__cause__ or error.__context__
        seen += 1
    return None


def _of_status(what: str, status: int, detail: str) -> VectideError:
    if status == 404:
        return CollectionMissing(f"collection {what} is not there: {detail}", "resolve the live generation anew")
    if status in (429, 507):
        return StoreBusy(f"{what}: {detail}", _BUSY_SECONDS)
    if status == 401:
        return Fatal(f"{what}: the server refuses the API key (401)", "set qdrant.api_key to one that it knows")
    if status == 403:
        return NotAllowed(
            f"{what}: the server refuses this to the API key (403)",
            "set qdrant.api_key to one with the rights of this role; docs/security.md lists them",
        )
    if status >= 500 or status == 408:
        return StoreUnavailable(f"{what}: {detail}")
    if _NO_INDEX.search(detail):
        # Who makes a collection makes its indexes next; who was cut off between the two does it at the next start.
        return CollectionUnfinished(f"{what}: the collection is being made: {detail}")
    return RequestRefused(
        f"{what}: the server refuses the request: {detail}", "this is a bug of vectide, or a limit of strict mode"
    )


def _of_grpc(what: str, code: str, detail: str) -> VectideError:
    by_code = {"NOT_FOUND": 404, "RESOURCE_EXHAUSTED": 429, "UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}
    refused = code in ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "UNIMPLEMENTED")
    return _of_status(what, by_code.get(code, 400 if refused else 503), detail)


def _raw(record: Any) -> RawPoint:
    return RawPoint(str(record.id), record.payload or {}, record.vector)
