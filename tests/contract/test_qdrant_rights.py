"""Rights in a real Qdrant, as docs/security.md has them: each role can do what it does, and no more.

``VECTIDE_TEST_QDRANT_URL`` names a server that was started with ``service.jwt_rbac: true``,
``VECTIDE_TEST_QDRANT_KEY`` its API key, which signs the roles' tokens.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pipeline.errors import Fatal, VectideError
from pipeline.ports import CollectionSpec, Store
from pipeline.store.qdrant import QdrantSettings, QdrantStore
from tests.contract.store_points import SPEC, chunk, head, key, stamp, vector
from tests.support.stores import REAL, REAL_GRPC_PORT, REAL_KEY

pytestmark = pytest.mark.skipif(
    REAL is None or REAL_KEY is None,
    reason="VECTIDE_TEST_QDRANT_URL and VECTIDE_TEST_QDRANT_KEY name no real server with rights",
)


def token(access: Any) -> str:
    """What docs/security.md calls a role's claims, signed with HS256 as Qdrant expects it."""
    assert REAL_KEY is not None

    def encoded(part: bytes) -> str:
        return base64.urlsafe_b64encode(part).rstrip(b"=").decode()

    told = ".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, {"access": access}))
    return f"{told}.{encoded(hmac.digest(REAL_KEY.encode(), told.encode(), hashlib.sha256))}"


@pytest.fixture(params=["rest", "grpc"])
def as_role(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], Store]]:
    """A store that shows a token of these claims; None is the server's own key."""
    assert REAL is not None
    made: list[Store] = []

    def opened(access: Any) -> Store:
        shown = REAL_KEY if access is None else token(access)
        made.append(QdrantStore(QdrantSettings(REAL, shown, grpc=request.param == "grpc", grpc_port=REAL_GRPC_PORT)))
        return made[-1]

    yield opened
    for store in made:
        store.close()


@pytest.fixture
def spec(as_role: Callable[[Any], Store]) -> Iterator[CollectionSpec]:
    """A collection with a document, and an alias to it."""
    everything = as_role(None)
    spec = replace(SPEC, name=f"vectide-test-{uuid.uuid4().hex[:8]}.g1")
    made = everything.create(spec)
    one = chunk("d", "text", stamp(1))
    made.upsert_chunks([one], {})
    made.insert_heads([head("d", stamp(1), one)])
    everything.point_alias(f"{spec.name}.live", spec.name)
    yield spec
    for name in everything.names(spec.name):
        everything.drop(name)


def test_who_searches_reads_whatever_is_live_and_writes_nothing(
    as_role: Callable[[Any], Store], spec: CollectionSpec
) -> None:
    store = as_role("r")
    store.check()
    assert store.alias(f"{spec.name}.live") == spec.name
    live = store.open(spec.name)
    assert set(live.heads([key("d").doc])) == {key("d").doc}
    assert [hit.text for hit in live.search(vector(1, 0, 0), 3)] == ["text"]
    for attempt in (
        lambda: live.insert_heads([head("e", stamp(1))]),
        lambda: store.create(replace(spec, name=f"{spec.name}-2")),
        lambda: store.point_alias(f"{spec.name}.live", spec.name),
        lambda: store.drop(spec.name),
    ):
        with pytest.raises(VectideError, match="refuses this to the API key"):
            attempt()
    assert live.count_heads() == {"complete": 1}


def test_an_embed_worker_between_migrations_needs_its_collection_alone(
    as_role: Callable[[Any], Store], spec: CollectionSpec
) -> None:
    other = replace(spec, name=f"{spec.name}-other")
    as_role(None).create(other).insert_heads([head("d", stamp(1))])
    store = as_role([{"collection": spec.name, "access": "rw"}])
    mine = store.create(spec)
    mine.insert_heads([head("e", stamp(1))])
    assert mine.count_heads() == {"complete": 2}
    for attempt in (
        lambda: store.open(other.name).count_heads(),
        lambda: store.create(replace(spec, name=f"{spec.name}-2")),
        lambda: store.point_alias(f"{spec.name}.live", other.name),
        lambda: store.drop(spec.name),
    ):
        with pytest.raises(VectideError, match="refuses this to the API key"):
            attempt()


def test_an_operator_makes_points_and_removes(as_role: Callable[[Any], Store], spec: CollectionSpec) -> None:
    store = as_role("m")
    second = replace(spec, name=f"{spec.name}-2")
    store.create(second)
    store.point_alias(f"{spec.name}.live", second.name)
    assert store.alias(f"{spec.name}.live") == second.name
    store.drop(spec.name)
    assert store.names(spec.name) == [second.name]


@pytest.mark.parametrize("shown", ["another-key-hunter2", None, "a token that another key signed"])
def test_who_is_not_known_is_told_at_the_first_look(shown: str | None) -> None:
    """The server tells its version to everybody: that it answers says nothing of the key."""
    assert REAL is not None
    if shown and " " in shown:
        shown = token("m")[:-6] + "AAAAAA"
    store = QdrantStore(QdrantSettings(REAL, shown))
    with pytest.raises(Fatal, match=r"refuses th(e|is to the) API key") as refused:
        store.check()
    assert "qdrant.api_key" in str(refused.value)
    store.close()
