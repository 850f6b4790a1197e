"""Where a source with a log of its own would go on after a restart."""

from __future__ import annotations

import json

from connectors.following import POSITION
from connectors.state import State
from tests.support.sources import Documents


def position(documents: Documents, source: str = "m") -> str | None:
    """As ``connector-state`` has it; None: a restart would scan."""
    state = State(documents.broker, documents.names.connector_state, source, None)
    try:
        state.refresh()
        mark = state.mark(POSITION)
    finally:
        state.close()
    return None if mark is None else str(json.loads(mark)["position"])
