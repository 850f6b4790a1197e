"""Who needs what in Kafka: the least rights of each role, by name.

The table is held against a real broker in both directions: a pipeline whose processes have exactly
these rights is refused nothing, and each of them is used (tests/integration/test_rights.py).
Describe goes with Read, Write, Delete and Alter, as Kafka has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from pipeline.naming import Names

Role = Literal["connector", "chunk", "embed", "search", "operator"]
"""``vectide connect``; ``work chunk``; ``work embed``; ``serve``, ``search`` and ``status``; all others."""
Kind = Literal["Topic", "Group", "TransactionalId", "Cluster"]

ROLES: Final[tuple[Role, ...]] = get_args(Role)
#: The source of `vectide canary`, unless it is told another.
CANARY: Final = "canary"
_CLUSTER: Final = "kafka-cluster"


@dataclass(frozen=True, slots=True)
class Right:
    """One rule of Kafka's authorizer."""

    kind: Kind
    name: str
    operation: str
    """Kafka's own word."""
    why: str
    prefixed: bool = False
    """Of all names that begin so: a generation's own are made while the pipeline runs."""

    def covers(self, kind: str, name: str, operation: str) -> bool:
        """True if it allows this."""
        if kind != self.kind or not (name.startswith(self.name) if self.prefixed else name == self.name):
            return False
        return operation == self.operation or (
            operation == "Describe" and self.operation in ("Read", "Write", "Delete", "Alter")
        )


def rights(role: Role, names: Names, epoch: int, sources: Sequence[str] = ()) -> list[Right]:
    """What a role needs.

    Args:
        role: of a process.
        names: of the pipeline.
        epoch: of the documents topic.
        sources: those that a connector publishes; each has an identity of its own.
    """
    places = _Places(names, epoch)
    made: dict[Role, list[Right]] = {
        "connector": _connector(places, sources),
        "chunk": _chunk(places),
        "embed": _embed(places),
        "search": _search(places),
        "operator": _operator(places, sources),
    }
    return made[role]


@dataclass(frozen=True, slots=True)
class _Places:
    names: Names
    epoch: int

    def documents(self, operation: str, why: str) -> Right:
        return Right("Topic", self.names.documents(self.epoch), operation, why)

    def chunks(self, operation: str, why: str) -> Right:
        return Right("Topic", self.names.chunks(""), operation, why, prefixed=True)

    def state(self, operation: str, why: str) -> Right:
        return Right("Topic", self.names.connector_state, operation, why)

    def control(self, operation: str, why: str) -> Right:
        return Right("Topic", self.names.control, operation, why)

    def letters(self, operation: str, why: str) -> Right:
        return Right("Topic", self.names.dead_letters, operation, why)

    def reports(self, operation: str, why: str) -> Right:
        return Right("Topic", self.names.reports, operation, why)

    def group(self, stage: Literal["chunk", "embed"], operation: str, why: str) -> Right:
        return Right("Group", self.names.group(stage, ""), operation, why, prefixed=True)

    def transactions(self, id: str, why: str) -> Right:
        return Right("TransactionalId", id, "Write", why)


def _connector(at: _Places, sources: Sequence[str]) -> list[Right]:
    return [
        at.documents("Write", "events"),
        at.documents("Read", "old deletes, when it is asked to collect them; what a pushed change changes"),
        at.documents("DescribeConfigs", "the largest record that it takes"),
        at.state("Read", "what is published already"),
        at.state("Write", "what is published, in the transaction of the event"),
        at.state("DescribeConfigs", "the largest record that it takes"),
        at.control("Read", "what it is asked to forget"),
        *[at.transactions(at.names.connector(id), f"the one writer of source {id}") for id in sources],
        *_reporting(at),
    ]


def _chunk(at: _Places) -> list[Right]:
    return [
        at.documents("Read", "events"),
        at.chunks("Write", "chunked documents"),
        at.chunks("Create", "a generation's own topic"),
        at.chunks("DescribeConfigs", "whether it loses data, and the largest record that it takes"),
        at.chunks("Delete", "to trim what is embedded; the right is also one to delete the topic"),
        at.group("chunk", "Read", "its partitions and offsets"),
        at.group("embed", "Describe", "how far the next stage has come"),
        at.control("Read", "which generations there are"),
        at.letters("Write", "what cannot be cut"),
        at.letters("DescribeConfigs", "the largest record that it takes"),
        *_reporting(at),
    ]


def _embed(at: _Places) -> list[Right]:
    return [
        at.documents("Read", "to verify the store in the background"),
        at.chunks("Read", "chunked documents"),
        at.chunks("Create", "a generation's own topic"),
        at.chunks("DescribeConfigs", "whether it loses data"),
        at.group("embed", "Read", "its partitions and offsets"),
        at.group("chunk", "Describe", "how far the stage before has come"),
        at.control("Read", "which generations there are"),
        at.letters("Write", "what cannot be embedded"),
        at.letters("DescribeConfigs", "the largest record that it takes"),
        *_reporting(at),
        at.reports("Read", "when a generation was last verified"),
    ]


def _search(at: _Places) -> list[Right]:
    return [
        at.control("Read", "which generation is live"),
        at.documents("Read", "the age of what waits, for `status`"),
        at.chunks("Read", "the same"),
        at.group("chunk", "Describe", "lag, for `status`"),
        at.group("embed", "Describe", "the same"),
        at.letters("Read", "how many there are"),
        *_reporting(at),
        at.reports("Read", "what workers say of themselves"),
    ]


def _operator(at: _Places, sources: Sequence[str]) -> list[Right]:
    everything = [at.documents, at.state, at.control, at.letters, at.reports]
    return [
        *[topic("Create", "`topics apply`") for topic in everything],
        *[
            topic("DescribeConfigs", "whether it loses data, and the largest record that it takes")
            for topic in everything
        ],
        at.documents("Read", "plans, gates, `verify`, `forget`"),
        at.documents("Write", "`forget` while a source's connector is away"),
        at.state("Read", "the same"),
        at.state("Write", "the same"),
        at.control("Read", "what there is"),
        at.control("Write", "decisions"),
        at.letters("Read", "to list, show and replay them"),
        at.letters("Write", "to resolve them"),
        at.reports("Read", "`status`"),
        at.reports("Write", "what was verified"),
        at.chunks("Read", "`status`, `forget`"),
        at.chunks("Write", "to replay a dead letter"),
        at.chunks("DescribeConfigs", "the largest record that it takes"),
        at.chunks("Delete", "`migrate retire` and `abort`"),
        at.group("chunk", "Delete", "the same"),
        at.group("embed", "Delete", "the same"),
        at.transactions(at.names.operator, "the one writer of `control`"),
        *[at.transactions(at.names.connector(id), f"`forget` while the connector of {id} is away") for id in sources],
        at.transactions(at.names.connector(CANARY), "`gc` of what canaries have deleted, for none of them stays"),
        Right("Cluster", _CLUSTER, "Describe", "how large topics are, which groups are left over"),
    ]


def _reporting(at: _Places) -> list[Right]:
    return [
        at.reports("Write", "what it says of itself"),
        at.reports("DescribeConfigs", "the largest record that it takes"),
    ]
