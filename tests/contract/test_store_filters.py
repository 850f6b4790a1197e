"""A caller's filter narrows, whatever is in it: its values are compared, never understood."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.ports import Collection, CollectionSpec, Store
from pipeline.search.searcher import parse_where, typed_where
from tests.contract.store_points import chunk, head, key, stamp, vector

#: Each is the tenant of one document; most of them mean something somewhere else.
TENANTS = [
    "a", "A", "a ", " a", "", "*", "%", "?", ".*", "a|b", "a,b", '["a"]', '{"any": ["a"]}', '"a"', "a' OR '1'='1",
    "null", "true", "1", "a=b", "=", "f.tenant", "../a", "a\nb", "a\x00b", "\x1b[2J", "\u202eb", "ä", "a\u0308", "漢字",
    "🌊", "x" * 5000, "$where", "{{a}}", "${a}", "a[]", 'a"}]}, "must_not": [',
]  # fmt: skip


@pytest.fixture
def tenants(store: Store, spec: CollectionSpec) -> Collection:
    """A document of each tenant; the field's name has a hyphen, the second one begins with a digit."""
    fields: Any = {"the-tenant": "tenant", "2nd": "keyword"}
    collection = store.create(replace(spec, filter_fields=fields))
    for number, tenant in enumerate(TENANTS):
        values = {"the-tenant": tenant, "2nd": [tenant, "common"]}
        collection.upsert_chunks([chunk(f"d{number}", f"text {number}", stamp(1), filters=values)], {})
        collection.insert_heads([head(f"d{number}", stamp(1), filters=values)])
    return collection


def found(collection: Collection, where: Any) -> tuple[set[str], set[str]]:
    """What passes a filter, by chunks and by heads."""
    chunks = {hit.text.removeprefix("text ") for hit in collection.search(vector(1, 0, 0), 1000, where)}
    docs = [key(f"d{number}").doc for number in range(len(TENANTS))]
    heads = {one.key.path.removeprefix("d") for one in collection.heads(docs, where).values()}
    return chunks, heads


def test_a_value_finds_its_own_documents_and_no_others(tenants: Collection) -> None:
    """As it comes from a command line: key=value, with anything behind the first equals sign."""
    for number, tenant in enumerate(TENANTS):
        for name in ("the-tenant", "2nd"):
            where = typed_where(parse_where([f"{name}={tenant}"]), tenants)
            assert found(tenants, where) == ({str(number)}, {str(number)}), tenant


def test_two_keys_narrow_and_one_key_twice_means_either(tenants: Collection) -> None:
    both = typed_where(parse_where(["the-tenant=a", "2nd=b"]), tenants)
    assert found(tenants, both) == (set(), set())
    either = typed_where(parse_where(["the-tenant=a", "the-tenant=*"]), tenants)
    wanted = {str(TENANTS.index(one)) for one in ("a", "*")}
    assert found(tenants, either) == (wanted, wanted)
    narrowed = typed_where(parse_where(["2nd=common", "the-tenant=%"]), tenants)
    assert found(tenants, narrowed) == ({str(TENANTS.index("%"))},) * 2


def test_what_is_no_declared_field_finds_nothing(tenants: Collection) -> None:
    """The searcher refuses it; the store by itself finds nothing, and never everything."""
    for argument in ("undeclared=a", "the-tenant.x=a", "f=a", "kind=head", "doc=x", "the-tenant[]=a", "must_not=a"):
        where = typed_where(parse_where([argument]), tenants)
        assert found(tenants, where) == (set(), set()), argument
    for argument in ("=a", "a", ""):
        with pytest.raises(ConfigError, match="key=value"):
            parse_where([argument])


@pytest.mark.parametrize("name", ["a.b", "a[]", 'a"b', "", "a b", "a\n", "ä", "a=b", "a:b"])
def test_a_name_that_means_a_place_in_a_store_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="filter field"):
        load(None, {"VECTIDE_PIPELINE__FILTER_FIELDS": "{" + json.dumps(name) + ' = "keyword"}'})
