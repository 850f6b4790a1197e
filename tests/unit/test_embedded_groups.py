"""Groups of the embedded log: who could not join holds nothing."""

from __future__ import annotations

from contextlib import closing

import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.errors import Fatal
from pipeline.ports import TopicSpec


def test_who_cannot_join_keeps_no_partition_from_others() -> None:
    with closing(EmbeddedBroker(None)) as broker:
        broker.ensure_topics([TopicSpec("there", 2, "delete", 1 << 20)])
        with pytest.raises(Fatal, match="later"):
            broker.consumer("g", ["there", "later"], "one")
        assert broker.groups("") == []
        broker.ensure_topics([TopicSpec("later", 2, "delete", 1 << 20)])
        polled = broker.consumer("g", ["there", "later"], "two").poll(0.0, 10)
        assert len(polled.assigned) == 4
