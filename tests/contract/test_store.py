"""The Store port: collections by name, their fingerprints, and aliases. One suite, every adapter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.errors import CollectionMissing, CollectionUnfinished, FingerprintMismatch
from pipeline.ports import CollectionSpec, Store
from pipeline.store.qdrant import QdrantStore
from tests.contract.store_points import chunk, chunks_of, head, key, stamp
from tests.support.stores import KINDS, REAL


@pytest.mark.skipif(REAL is None, reason="VECTIDE_TEST_QDRANT_URL names no real server: memory, edge and loopback only")
def test_a_real_server_is_among_the_stores() -> None:
    assert {"rest", "grpc"} <= set(KINDS)


def test_answers(store: Store) -> None:
    store.check()


def test_a_collection_is_what_it_was_made_with(store: Store, spec: CollectionSpec) -> None:
    made = store.create(spec)
    assert made.spec == spec
    assert store.open(spec.name).spec == spec


def test_making_it_again_opens_it(store: Store, spec: CollectionSpec) -> None:
    """Given a collection with a head, when it is made again with its spec, then the head is there."""
    store.create(spec).insert_heads([head("d", stamp(1))])
    assert set(store.create(spec).heads([key("d").doc])) == {key("d").doc}


@pytest.mark.parametrize(
    "change",
    [
        {"model_fingerprint": "model-b"},
        {"chunking_fingerprint": "chunking-b"},
        {"dimension": 4},
        {"distance": "dot"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_model_or_chunking_is_refused(store: Store, spec: CollectionSpec, change: dict[str, object]) -> None:
    """Given a collection, when it is made with another vector space, then it is refused and stays as it is."""
    store.create(spec).insert_heads([head("d", stamp(1))])
    with pytest.raises(FingerprintMismatch, match=next(iter(change))):
        store.create(replace(spec, **change))  # type: ignore[arg-type]
    assert store.open(spec.name).spec == spec
    assert store.open(spec.name).count_heads() == {"complete": 1}


def test_a_missing_collection_is_missing(store: Store, prefix: str) -> None:
    with pytest.raises(CollectionMissing):
        store.open(f"{prefix}nothing")


def test_one_that_is_being_made_is_waited_for(store: Store, spec: CollectionSpec) -> None:
    """Given a collection whose maker has not come to its indexes, then to count in it is to try again later."""
    if not isinstance(store, QdrantStore):
        pytest.skip("others make a collection in one step")
    store._make(spec)
    with pytest.raises(CollectionUnfinished, match="is being made"):
        store.open(spec.name).count_heads()
    store.create(spec)
    assert store.open(spec.name).count_heads() == {}


def test_names_by_prefix(store: Store, spec: CollectionSpec, prefix: str) -> None:
    """Given collections of two pipelines, when one asks by its prefix, then it sees its own, sorted."""
    for name in ("b.two", "b.one", "c.one"):
        store.create(replace(spec, name=f"{prefix}{name}"))
    assert store.names(f"{prefix}b.") == [f"{prefix}b.one", f"{prefix}b.two"]
    assert store.names(f"{prefix}d.") == []


def test_drop(store: Store, spec: CollectionSpec) -> None:
    """Given an open collection, when it is dropped, then it is gone for whoever has it open; twice is no error."""
    collection = store.create(spec)
    collection.insert_heads([head("d", stamp(1))])
    store.drop(spec.name)
    store.drop(spec.name)
    assert store.names(spec.name) == []
    with pytest.raises(CollectionMissing):
        store.open(spec.name)
    with pytest.raises(CollectionMissing):
        collection.heads([key("d").doc])
    with pytest.raises(CollectionMissing):
        collection.insert_heads([head("d", stamp(1))])
    assert store.create(spec).count_heads() == {}


def test_an_alias_is_repointed_in_one_step(store: Store, spec: CollectionSpec, prefix: str) -> None:
    two = replace(spec, name=f"{prefix}two")
    store.create(spec)
    store.create(two)
    alias = f"{prefix}live"
    assert store.alias(alias) is None
    store.point_alias(alias, spec.name)
    assert store.alias(alias) == spec.name
    store.point_alias(alias, two.name)
    assert store.alias(alias) == two.name


def test_an_alias_of_nothing_is_refused_and_stays(store: Store, spec: CollectionSpec, prefix: str) -> None:
    """Given an alias, when it is pointed at a collection that is not there, then it means what it meant."""
    store.create(spec)
    store.point_alias(f"{prefix}live", spec.name)
    with pytest.raises(CollectionMissing):
        store.point_alias(f"{prefix}live", f"{prefix}nothing")
    assert store.alias(f"{prefix}live") == spec.name


def test_dropping_a_collection_drops_its_alias(store: Store, spec: CollectionSpec, prefix: str) -> None:
    store.create(spec)
    store.point_alias(f"{prefix}live", spec.name)
    store.drop(spec.name)
    assert store.alias(f"{prefix}live") is None


def test_collections_share_nothing(store: Store, spec: CollectionSpec, prefix: str) -> None:
    """Given two collections, when the same document is written to one, then the other stays empty."""
    one, two = store.create(spec), store.create(replace(spec, name=f"{prefix}two", model_fingerprint="model-b"))
    point = chunk("d", "text", stamp(1))
    one.upsert_chunks([point], {})
    one.insert_heads([head("d", stamp(1), point)])
    assert (two.count_chunks(), two.count_heads()) == (0, {})
    assert two.vectors([point.content_hash]) == {}
    assert [one.id for one in chunks_of(one)] == [point.id]
