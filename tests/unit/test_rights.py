"""The table of rights as an operator gets it; that it is right, a real broker says (integration/test_rights.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.broker.rights import ROLES, Right, rights
from pipeline.naming import Names
from tests.support.commands import run

NAMES = Names("acme", "handbook")


def test_rights_are_of_one_pipeline_s_own_names(tmp_path: Path) -> None:
    """No rule reaches another pipeline, all of a cluster, or every topic."""
    for role in ROLES:
        for one in rights(role, NAMES, 3, ["docs"]):
            if one.kind == "Cluster":
                assert (role, one.operation) == ("operator", "Describe")
            else:
                assert one.name.startswith(NAMES.root)
                assert len(one.name) > len(NAMES.root), "a prefix is of one kind of name"
            assert one.operation not in ("All", "ClusterAction", "AlterConfigs", "Alter")


def test_only_a_source_s_connector_and_operators_write_documents() -> None:
    def writers(topic: str) -> set[str]:
        return {role for role in ROLES for one in rights(role, NAMES, 0) if one.covers("Topic", topic, "Write")}

    assert writers(NAMES.documents(0)) == writers(NAMES.connector_state) == {"connector", "operator"}
    assert writers(NAMES.control) == {"operator"}
    assert writers(NAMES.chunks("g1")) == {"chunk", "operator"}
    ids = [one.name for one in rights("connector", NAMES, 0, ["a", "b"]) if one.kind == "TransactionalId"]
    assert ids == [NAMES.connector("a"), NAMES.connector("b")]


@pytest.mark.parametrize(
    ("right", "asked", "allowed"),
    [
        (Right("Topic", "a.b", "Read", ""), ("Topic", "a.b", "Read"), True),
        (Right("Topic", "a.b", "Read", ""), ("Topic", "a.b", "Describe"), True),
        (Right("Topic", "a.b", "Read", ""), ("Topic", "a.b", "Write"), False),
        (Right("Topic", "a.b", "Read", ""), ("Topic", "a.bc", "Read"), False),
        (Right("Topic", "a.b", "Read", ""), ("Group", "a.b", "Read"), False),
        (Right("Topic", "a.b.", "Read", "", prefixed=True), ("Topic", "a.b.c", "Read"), True),
        (Right("Topic", "a.b.", "Read", "", prefixed=True), ("Topic", "a.b", "Read"), False),
        (Right("Topic", "a.b", "Create", ""), ("Topic", "a.b", "Describe"), False),
    ],
)
def test_a_rule_covers_what_kafka_s_would(right: Right, asked: tuple[str, str, str], allowed: bool) -> None:
    assert right.covers(*asked) == allowed


def test_they_are_printed_as_commands_without_asking_a_broker(tmp_path: Path) -> None:
    (tmp_path / "vectide.toml").write_text(
        'broker = "kafka"\nstore = "qdrant"\n[pipeline]\nprefix = "acme"\nname = "handbook"\n'
        '[kafka]\nbootstrap_servers = "127.0.0.1:1"\n[sources."my docs"]\nconnector = "filesystem"\npath = "."\n'
    )
    done = run(tmp_path, "topics", "rights", "--role", "connector", "--role", "chunk")
    assert done.code == 0
    lines = done.out.splitlines()
    assert (
        "kafka-acls.sh --add --allow-principal User:connector --operation Write "
        "--transactional-id 'acme.handbook.connector.my docs'"
    ) in lines
    assert (
        "kafka-acls.sh --add --allow-principal User:chunk --operation Write --topic acme.handbook.chunks. "
        "--resource-pattern-type prefixed"
    ) in lines
    assert not any("User:embed" in line for line in lines)
    assert set(json.loads(run(tmp_path, "topics", "rights", "--json").out)) == set(ROLES)


def test_rights_of_a_source_that_is_not_configured(tmp_path: Path) -> None:
    """Given the canary's source, then its writer's transactional id is there, and no other's."""
    done = run(tmp_path, "topics", "rights", "--role", "connector", "--source", "canary", "--json")
    ids = [one["name"] for one in json.loads(done.out)["connector"] if one["kind"] == "TransactionalId"]
    assert ids == ["vectide.default.connector.canary"]
