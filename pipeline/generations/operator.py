"""The one writer of ``control``: takes its transactional id over, reads, decides, writes, lets go.

What can fail: two operators at once (the first is fenced when it writes, reads again and decides
on what the second has done); a process that dies inside its transaction (aborted, nothing is
seen); an answer that is lost (read again: the decision finds itself carried out).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, Fenced
from pipeline.generations.control import (
    ControlState,
    LogIdentity,
    change_records,
    check_log,
    forgotten_record,
    log_record,
    read,
    request_record,
)
from pipeline.generations.transitions import Change
from pipeline.naming import Names
from pipeline.ports import Broker, NewRecord
from pipeline.records import Request

_WRITE_SECONDS: Final = 10.0
_OPERATE_SECONDS: Final = 45.0
_BACKOFF_SECONDS: Final = 0.5

Decision = Callable[[ControlState], Sequence[Change | Request]]
"""What to change or to ask for, given everything that ``control`` says."""


def operate(broker: Broker, names: Names, decide: Decision) -> ControlState:
    """Carry a decision out on the newest state, and give the state after it.

    Idempotent as far as ``decide`` is: after any failure, call it again.

    Raises:
        Refused: by the decision; nothing was written.
        BrokerUnavailable: no answer; it may have been written.
    """
    return _written(broker, names, lambda state: _records(names, decide(state)))


def forget_requests(broker: Broker, names: Names, choose: Callable[[ControlState], Sequence[Request]]) -> ControlState:
    """Remove requests from ``control``, and give the state after it.

    Raises:
        BrokerUnavailable: no answer; they may have been removed.
    """
    return _written(broker, names, lambda state: [forgotten_record(names, one) for one in choose(state)])


def found(broker: Broker, names: Names, decide: Decision, log: LogIdentity) -> ControlState:
    """Make sure that there is a live generation, and that the log is the one that ``control`` knows.

    Raises:
        LogDiverged: the documents topic is another one.
        BrokerUnavailable: no answer.
    """

    def records(state: ControlState) -> list[NewRecord]:
        made = _records(names, decide(state))
        return made if state.log is not None else [log_record(names, log), *made]

    state = read(broker, names)
    while state.live is None or state.log is None:
        state = _written(broker, names, records)
    check_log(state, log)
    return state


def _records(names: Names, changes: Sequence[Change | Request]) -> list[NewRecord]:
    records = []
    for one in changes:
        if isinstance(one, Request):
            records.append(request_record(names, one))
        else:
            records += change_records(names, one.generation, one.transition)
    return records


def _written(broker: Broker, names: Names, records: Callable[[ControlState], list[NewRecord]]) -> ControlState:
    deadline = Deadline.after(_OPERATE_SECONDS)
    while True:
        state = read(broker, names)
        if not records(state):
            return state  # done already: nobody who writes has to be fenced for that
        try:
            if _tried(broker, names, records):
                return read(broker, names)
        except Fenced:
            pass
        if deadline.expired:
            raise BrokerUnavailable(f"others were writing {names.control} for {_OPERATE_SECONDS:.0f} s; try again")
        time.sleep(random.uniform(0.0, _BACKOFF_SECONDS))  # noqa: S311 - so that two do not fence each other in step


def _tried(broker: Broker, names: Names, records: Callable[[ControlState], list[NewRecord]]) -> bool:
    publisher = broker.transactional_publisher(names.operator)
    try:
        # Only now can nobody else write: what was read before may be old.
        new = records(read(broker, names))
        if new:
            publisher.publish(new, Deadline.after(_WRITE_SECONDS))
    finally:
        publisher.close(Deadline.after(_WRITE_SECONDS))
    return True
