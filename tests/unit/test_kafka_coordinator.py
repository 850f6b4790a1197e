"""A group's coordinator that has moved is found again: kafka-python's admin client never looks twice."""

from __future__ import annotations

from typing import Any

import pytest
from kafka.errors import KafkaConnectionError, NotCoordinatorError

from pipeline.broker.kafka import KafkaBroker
from pipeline.config import KafkaConfig
from pipeline.errors import BrokerUnavailable


class Admin:
    """A client that has found a coordinator, which is right or not any more."""

    def __init__(self, failure: Exception | str | None) -> None:
        self.failure = failure
        self.closed = False

    def list_group_offsets(self, groups: Any) -> Any:
        if isinstance(self.failure, Exception):
            raise self.failure
        return {}

    def delete_groups(self, groups: list[str]) -> dict[str, Any]:
        return dict.fromkeys(groups, self.failure or "OK")

    def close(self) -> None:
        self.closed = True


def broker(monkeypatch: pytest.MonkeyPatch, *admins: Admin) -> KafkaBroker:
    waiting = iter(admins)
    monkeypatch.setattr(KafkaBroker, "_new_admin", lambda self: next(waiting))
    return KafkaBroker(KafkaConfig(), "test")


@pytest.mark.parametrize("failure", [NotCoordinatorError("moved"), KafkaConnectionError("dead")])
def test_offsets_are_asked_of_the_new_coordinator(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    stale, fresh = Admin(failure), Admin(None)
    made = broker(monkeypatch, stale, fresh)
    with pytest.raises(BrokerUnavailable):
        made.committed("g", "t")
    assert made.committed("g", "t") == {}
    assert stale.closed
    # And a client that is right is kept.
    assert made.committed("g", "t") == {}


def test_a_group_is_deleted_by_the_new_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    made = broker(monkeypatch, Admin("NotCoordinatorError"), Admin(None))
    with pytest.raises(BrokerUnavailable, match="cannot be deleted now: NotCoordinatorError"):
        made.delete_group("g")
    made.delete_group("g")
