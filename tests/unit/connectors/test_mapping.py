"""Metadata by configuration: paths, types, bounds, and what it costs when they change."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path as Folder
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.extraction import extract
from connectors.mapping import TYPES, Mapped, Unfit, fitted, mapped, rules_of
from connectors.memory import MemorySource
from connectors.paths import Path
from connectors.registry import open_source
from pipeline.codec import encode_event
from pipeline.config import SourceConfig
from pipeline.errors import ConfigError
from pipeline.identity import DocumentKey, MetadataValue
from pipeline.ports import Fetched, NewRecord
from pipeline.records import DocumentChanged, Provenance
from tests.fuzz.settings import FUZZ
from tests.support.pipelines import DOCUMENTS, pipeline
from tests.support.sources import Documents, running, scanned

ROOT = {
    "owner": "anna",
    "nothing": None,
    "author": {"name": "Bob", "e-mail": "b@x"},
    "groups": [{"id": "a"}, {"id": 2}, {"other": 1}, "x"],
    "tags": ["t0", "t1", "t2"],
    "a.b": {"c'd": 1},
}


@pytest.mark.parametrize(
    "path, found",
    [
        ("$.owner", ["anna"]),
        ("$.nothing", []),
        ("$.absent.deeper", []),
        ("$.author.name", ["Bob"]),
        ("$.author.e-mail", ["b@x"]),
        ("$['a.b'][\"c'd\"]", [1]),
        ("$.tags[0]", ["t0"]),
        ("$.tags[-1]", ["t2"]),
        ("$.tags[3]", []),
        ("$.tags[-4]", []),
        ("$.tags[*]", ["t0", "t1", "t2"]),
        ("$.groups[*].id", ["a", 2]),
        ("$.author.*", ["Bob", "b@x"]),
        ("$.owner[0]", []),
        ("$.owner.x", []),
    ],
)
def test_a_path_leads_to_its_values(path: str, found: list[Any]) -> None:
    assert Path.parse(path).find(ROOT) == found


@pytest.mark.parametrize(
    "path, why",
    [
        ("owner", "a path begins with $"),
        ("$", "name a value in it"),
        ("$owner", "'owner' is no step"),
        ("$.", "'.' is no step"),
        ("$..owner", "'..owner' is no step"),
        ("$.a[?(@.b)]", "'[?(@.b)]' is no step"),
        ("$.a[0:2]", "is no step"),
        ("$.a[01]", "is no step"),
        ("$.a['b]", "is no step"),
        ("$.a b", "' b' is no step"),
        ("$" + ".a" * 33, "more than 32 steps"),
    ],
)
def test_a_wrong_path_is_refused_with_the_place(path: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rules_of("docs", {"owner": {"path": path}})
    assert "sources.docs.metadata.owner: " in str(caught.value)
    assert why in str(caught.value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.lists(st.sampled_from([".a", ".b", "[*]", "[0]", "[-1]", ".*"]), min_size=1, max_size=5),
    _JSON,
    st.sampled_from([*{*TYPES.values(), "integer", "float", "bool"}, None]),
)
@FUZZ
def test_whatever_is_found_is_published_sound_or_not_at_all(steps: list[str], root: object, type_: str | None) -> None:
    """The values of a path, by any type: a value that can be written and stored, or none."""
    rules = rules_of("s", {"name": {"path": "$" + "".join(steps), **({"type": type_} if type_ else {})}})
    found = Fetched(
        "p", "r", "text", "d", "text/plain", {}, 0.0, found=root if isinstance(root, Mapping) else {"a": root}
    )
    metadata, _ = mapped(rules, "s", found)
    encode_event(DocumentChanged(DocumentKey("s", "p"), "text", metadata, "text/plain", "d", Provenance(0.0)))
    value = metadata.get("name")
    kinds = {"text": str, "integer": int, "float": float, "bool": bool, "list": list, "time": str}
    assert value is None or type_ is None or type(value) is kinds[type_]


@pytest.mark.parametrize(
    "value, type_, expected",
    [
        (5, "text", "5"),
        (True, "text", "true"),
        ("7", "integer", 7),
        (7.0, "integer", 7),
        ("1.5", "float", 1.5),
        ("True", "bool", True),
        ("one", "list", ["one"]),
        (["a", 2, None, True], "list", ["a", "2", "true"]),
        ("2024-01-31", "time", "2024-01-31"),
        ("2024-01-31T12:00:00+02:00", "time", "2024-01-31T10:00:00Z"),
        ("2024-01-31 12:00", "time", "2024-01-31T12:00:00Z"),
        (0, "time", "1970-01-01T00:00:00Z"),
        (3, None, 3),
        (["a", 1], None, ["a", "1"]),
    ],
)
def test_a_value_is_what_its_type_says(value: object, type_: Any, expected: MetadataValue) -> None:
    found = fitted(value, type_)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "value, type_",
    [
        ({"a": 1}, None),
        ([{"a": 1}], "list"),
        (["x"], "text"),
        ("x" * 5_000, "text"),
        ("\ud800", "text"),
        (["x"] * 1_001, "list"),
        (["x" * 4_000] * 9, "list"),
        ("seven", "integer"),
        (1.5, "integer"),
        (True, "integer"),
        (1 << 63, "integer"),
        ("9" * 5_000, "integer"),
        (math.nan, "float"),
        ("1e999", "float"),
        (1, "bool"),
        ("yesterday", "time"),
        ("2024-02-31", "time"),
        (1e15, "time"),
        (True, "time"),
    ],
)
def test_a_value_that_does_not_fit_is_unfit(value: object, type_: Any) -> None:
    with pytest.raises(Unfit):
        fitted(value, type_)


@pytest.mark.parametrize(
    "name, given, why",
    [
        ("owner", {"pth": "$.a"}, "pth: Extra inputs"),
        ("owner", {}, "give either a path"),
        ("owner", {"path": "$.a", "value": 1}, "give either a path"),
        ("owner", {"value": 1, "default": 2}, "needs no default"),
        ("owner", {"path": "$.a", "type": "date"}, "type: Input should be"),
        ("owner", {"path": "$.a", "type": "integer", "default": "x"}, "no whole number"),
        ("created", "yesterday", "it is no time"),
        ("owner", [[1]], "valid"),
        ("owner", None, "give either a path"),
        ("source", "$.a", "the document's own"),
        ("anchors", "$.a", "the document's own"),
        ("a.b", "$.a", "letters, digits"),
        ("uri", "https://x/{name}", "{name} stands for nothing"),
    ],
)
def test_a_wrong_rule_is_refused_with_the_place(tmp_path: Folder, name: str, given: object, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_source("docs", SourceConfig.model_validate({"path": str(tmp_path), "metadata": {name: given}}), 1000)
    assert f"sources.docs.metadata.{name}: " in str(caught.value)
    assert why in str(caught.value)


def of(metadata: dict[str, Any], found: Fetched) -> tuple[dict[str, MetadataValue], tuple[str, ...]]:
    return mapped(rules_of("s", metadata), "s", found)


FOUND = Fetched(
    "a b/ü.md", "r", "text", "d", "text/markdown", {"title": "Found", "acl": ["everyone"], "kept": 1}, 86_400.0, 4,
    found={"author": {"name": "Bob"}, "groups": ["hr"]},
)  # fmt: skip


def test_rules_add_to_what_was_found_and_nothing_else_speaks_for_a_mapped_name() -> None:
    metadata, unfit = of(
        {
            "author": "$.author.name",
            "team": "platform",
            "level": 3,
            "acl": "$.absent",
            "uri": "https://wiki.example.org/{path}?v=1",
            "modified": "$.document.modified",
            "where": "$.document.path",
            "stage": {"path": "$.stage", "default": "draft"},
            "dollar": {"value": "$5"},
        },
        FOUND,
    )
    assert unfit == ()
    assert metadata == {
        "title": "Found",
        "kept": 1,
        "author": "Bob",
        "team": "platform",
        "level": 3,
        "uri": "https://wiki.example.org/a%20b/%C3%BC.md?v=1",
        "modified": "1970-01-02T00:00:00Z",
        "where": "a b/ü.md",
        "stage": "draft",
        "dollar": "$5",
    }, "an acl of the document's author is none"


def test_a_list_of_rights_that_does_not_fit_is_none_and_the_default_does_not_stand_in() -> None:
    metadata, unfit = of({"acl": {"path": "$.author", "default": ["everyone"]}}, FOUND)
    assert (metadata.get("acl"), unfit) == (None, ("acl",))


def test_front_matter_that_nests_is_there_for_rules_and_is_not_published() -> None:
    found = extract(
        b"---\nauthor: {name: Bob, since: 2020-01-31}\nteams: [{id: a}, {id: b}]\nplain: x\n---\ntext\n", "a.md"
    )
    assert found is not None
    assert set(found.metadata) == {"plain", "teams", "extractor"}
    assert dict(found.found) == {"author": {"name": "Bob", "since": "2020-01-31"}, "teams": [{"id": "a"}, {"id": "b"}]}
    fetched = Fetched("a.md", "r", found.text, "d", found.media_type, found.metadata, 0.0, found=found.found)
    assert of({"teams": "$.teams[*].id"}, fetched)[0]["teams"] == ["a", "b"]


@pytest.mark.parametrize(
    "matter",
    [
        "a: &a {b: *a}",
        "a0: &a0 {k: v}\n"
        + "".join(f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(20))}}}\n" for n in range(1, 9)),
    ],
)
def test_front_matter_that_says_itself_again_is_left_out(matter: str) -> None:
    found = extract(f"---\n{matter}\n---\ntext\n".encode(), "a.md")
    assert found is not None
    assert len(repr(found.found)) < 200_000


# -------------------------------------------------------------------------------- with a runner


def source(memory: MemorySource, **metadata: Any) -> Mapped:
    return Mapped(memory, rules_of(memory.id, metadata))


def test_other_rules_publish_what_differs_and_equal_ones_nothing(tmp_path: Folder, documents: Documents) -> None:
    memory = MemorySource("s")
    memory.put("a", "text", {"owner": "anna"})
    memory.put("b", "text")
    scanned(source(memory, by="$.owner"), documents, tmp_path)
    assert documents.now()["a"].metadata == {"owner": "anna", "by": "anna"}
    ends = documents.broker.offsets(documents.names.documents(0))
    scanned(source(memory, by="$.owner"), documents, tmp_path)
    assert documents.broker.offsets(documents.names.documents(0)) == ends
    one = scanned(source(memory, by="$.owner", team="x"), documents, tmp_path)
    assert one.published("changed") == 2
    one = scanned(source(memory, by="$.owner", team="x", no="$.absent"), documents, tmp_path)
    assert one.published("changed") == 0, "all were looked at, and nothing differs"


def test_what_does_not_fit_is_left_out_counted_and_told_once(
    documents: Documents, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemorySource("s")
    for number in range(3):
        memory.put(f"d{number}", f"text {number}", {"level": "high", "owner": "anna"})
    with (
        caplog.at_level(logging.WARNING, "connectors"),
        running(source(memory, level={"path": "$.level", "type": "integer"}), documents) as one,
    ):
        one.wait_scanned()
    assert {path: dict(now.metadata) for path, now in documents.now().items()} == {
        f"d{number}": {"owner": "anna"} for number in range(3)
    }
    assert one.metrics.registry.get_sample_value("vectide_metadata_left_out_total") == 3
    (told,) = [record for record in caplog.records if "does not fit" in record.message]
    assert told.__dict__["field"] == "level"


def test_a_change_of_metadata_alone_embeds_nothing() -> None:
    """Given a document in the store, when only what the mapping gives it changes, then its head says so, and the
    model is not asked.
    """
    rules = [rules_of("s", {"acl": groups, "owner": "$.owner"}) for groups in (["hr"], ["hr", "it"])]
    found = Fetched("a", "r", "one text\n\nanother text\n", "d", "text/plain", {"owner": "anna"}, 1.0)
    with pipeline() as made:
        for one in rules:
            metadata, _ = mapped(one, "s", found)
            event = DocumentChanged(DocumentKey("s", "a"), found.text, metadata, "text/plain", "d", Provenance(1.0))
            made.write([NewRecord(DOCUMENTS, *encode_event(event))])
            made.until_quiet()
            head = made.head("a")
            assert head is not None
            assert head.metadata == {"owner": "anna", "acl": metadata["acl"]}
            embedded = made.metrics.totals()["chunks_embedded"]
            if one is rules[0]:
                first = embedded
        assert first > 0
        assert embedded == first
