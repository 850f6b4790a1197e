"""From outcomes to answers: 202 for what the log has now, 200 for what it had already, else a problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from starlette.responses import Response

from connectors.http.bodies import BatchResultBody, ItemBody, ProblemBody, ResultBody, StandingBody
from connectors.http.problems import Problem
from connectors.push.intake import Answered
from connectors.push.operations import Outcome, Place
from connectors.push.ordering import Standing
from pipeline.identity import version_of

_JSON: Final = "application/json"


def result_reply(path: str, answered: Answered, epoch: int) -> Response:
    """The answer to one operation.

    Raises:
        Problem: it was refused.
    """
    (outcome,) = answered.outcomes
    headers = {"Idempotency-Replayed": "true"} if answered.replayed else {}
    if outcome.revision is not None and outcome.result != "deleted":
        headers["ETag"] = f'"{outcome.revision}"'
    if outcome.result == "refused":
        raise _refused(outcome, headers)
    body = ResultBody(path, outcome.result, outcome.revision, *_placed(outcome.place, epoch))
    return Response(msgspec.json.encode(body), _status(outcome), headers, _JSON)


def batch_reply(paths: Sequence[str], answered: Answered, epoch: int) -> Response:
    """The answer to a batch: always 200, for each operation has a status of its own."""
    items = [_item(path, outcome, epoch) for path, outcome in zip(paths, answered.outcomes, strict=True)]
    refused = sum(one.result == "refused" for one in items)
    headers = {"Idempotency-Replayed": "true"} if answered.replayed else {}
    return Response(msgspec.json.encode(BatchResultBody(items, refused)), 200, headers, _JSON)


def known_reply(path: str, standing: Standing, epoch: int) -> Response:
    """What is known of a document.

    Raises:
        Problem: there is none.
    """
    if standing.forgotten:
        raise Problem("forgotten", "it was forgotten, and stays out until an operator lifts that")
    if not standing.exists or standing.revision is None:
        also = {} if standing.revision is None else {"revision": standing.revision}
        raise Problem("not-found", "there is no such document", also=also)
    at = None if standing.place is None else standing.place.at
    body = StandingBody(path, standing.revision, *_placed(standing.place, epoch), at)
    return Response(msgspec.json.encode(body), 200, {"ETag": f'"{standing.revision}"'}, _JSON)


def _item(path: str, outcome: Outcome, epoch: int) -> ItemBody:
    problem = None
    if outcome.result == "refused":
        refused = _refused(outcome, {})
        problem = ProblemBody(**refused.body())
        return ItemBody(path, refused.status, "refused", outcome.revision, problem=problem)
    return ItemBody(path, _status(outcome), outcome.result, outcome.revision, *_placed(outcome.place, epoch))


def _refused(outcome: Outcome, headers: dict[str, str]) -> Problem:
    assert outcome.refusal is not None  # it was refused
    also = {} if outcome.revision is None else {"revision": outcome.revision}
    return Problem(outcome.refusal, outcome.detail, headers=headers, also=also)


def _status(outcome: Outcome) -> int:
    return 200 if outcome.result == "unchanged" else 202


def _placed(place: Place | None, epoch: int) -> tuple[int | None, int | None, int | None]:
    """Version, partition and offset of a document's last event."""
    return (None, None, None) if place is None else (version_of(epoch, place.offset), place.partition, place.offset)
