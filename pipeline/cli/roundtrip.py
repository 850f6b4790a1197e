"""One document's way round: published, found, deleted and gone; what ``vectide canary`` measures."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from connectors.batches import Pending, changed, deleted, traceparent
from connectors.state import State
from pipeline.broker.publishing import closed_after
from pipeline.cli.access import Ask
from pipeline.cli.assembly import Parts
from pipeline.deadline import Deadline
from pipeline.errors import Backpressure, Fenced, Transient
from pipeline.identity import DocumentKey, content_hash
from pipeline.ports import Fetched
from pipeline.records import Provenance

_POLL_SECONDS: Final = 0.1
#: Two canaries that take the source over from one another go apart.
_APART_SECONDS: Final = (0.05, 0.5)
_PUBLISH_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 5.0
#: To delete the document after a failure, whatever is left of --wait.
_CLEAN_SECONDS: Final = 10.0
#: A document of a canary that was killed; no canary waits for so long.
LEFT_SECONDS: Final = 3600.0
#: Other canaries' documents may be among the hits.
_TOP: Final = 10


class Canary:
    """One document's way, once.

    Args:
        parts: the broker is open.
        ask: a search.
        source: whose one writer this is, for the moments in which it publishes.
        deadline: of everything but cleaning up.
        stop: set it to end early; what was published is deleted all the same.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        parts: Parts,
        ask: Ask,
        source: str,
        deadline: Deadline,
        stop: threading.Event,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._broker = parts.broker
        self._id = parts.names.connector(source)
        self._topic = parts.names.documents(parts.config.pipeline.epoch)
        self._state = State(parts.broker, parts.names.connector_state, source, None)
        self._filter = [f"source={source}"] if "source" in parts.config.pipeline.filter_fields else []
        self._ask = ask
        self._source = source
        self._deadline = deadline
        self._stop = stop
        self._clock = clock
        # The time in the name tells others whether somebody still waits for it.
        self.key = DocumentKey(source, f"{int(clock())}-{secrets.token_hex(8)}.md")
        self._text = (
            f"# Canary {self.key.path}\n\nThis document was published by a canary, to see how long it takes until "
            f"{secrets.token_hex(4)} {secrets.token_hex(4)} is found and gone again.\n"
        )
        self._there = False
        self._left: list[DocumentKey] = []
        self._why = "nothing was published yet"
        self._generation = ""

    def run(self) -> dict[str, Any]:
        """What happened: ``ok``, ``stopped``, ``key``, ``generation``, ``searchable_seconds`` and ``gone_seconds``
        (None: it did not come to that), ``cleaned`` (False: the document is still there) and ``why``.

        Raises:
            VectideError: what is no matter of time: a search that is refused, a writer that is always fenced.
        """
        searchable = gone = None
        cleaned = True
        try:
            # First: what refuses to be searched refuses before anything is published, and a model is loaded.
            if self._until(lambda: self.key.text not in self._hits()):
                searchable = self._measured(self._publish, lambda: self.key.text in self._hits())
            if searchable is not None:
                gone = self._measured(self._delete, lambda: self.key.text not in self._hits())
        except (Transient, Backpressure) as error:
            self._why = str(error)
        finally:
            if self._there:
                cleaned = self._cleaned()
            self._state.close()
        return {
            "ok": gone is not None,
            "stopped": self._stop.is_set() and gone is None,
            "key": self.key.text,
            "generation": self._generation,
            "searchable_seconds": searchable,
            "gone_seconds": gone,
            "cleaned": cleaned,
            "why": "" if gone is not None else self._why,
        }

    # --------------------------------------------------------------------------- private

    def _measured(self, write: Callable[[], None], true: Callable[[], bool]) -> float | None:
        """Seconds from before it is written until a search says so; None: not in time."""
        started = time.monotonic()
        write()
        return round(time.monotonic() - started, 3) if self._until(true) else None

    def _until(self, true: Callable[[], bool]) -> bool:
        while not self._stop.is_set() and not self._deadline.expired:
            try:
                if true():
                    return True
            except (Transient, Backpressure) as error:
                self._why = f"the search did not answer: {error}"
            self._stop.wait(min(_POLL_SECONDS, self._deadline.remaining()))
        return False

    def _hits(self) -> list[str]:
        """Keys of what is found for the document's own text."""
        arguments = {"query": self._text, "top": _TOP, "filter": self._filter, "by_document": True}
        answer = self._ask("POST", "/search", arguments)
        self._generation = str(answer["generation"])
        self._why = f"the search answered, from generation {self._generation}"
        found = [str(hit["key"]) for hit in answer["hits"]]
        self._left = [key for key in map(DocumentKey.from_text, found) if self._is_left(key)]
        return found

    def _is_left(self, key: DocumentKey) -> bool:
        written = key.path.partition("-")[0]
        return key.source == self._source and written.isdecimal() and int(written) < self._clock() - LEFT_SECONDS

    def _publish(self) -> None:
        digest = content_hash(self._text)
        size = len(self._text.encode())
        fetched = Fetched(self.key.path, digest, self._text, digest, "text/markdown", {}, self._clock(), size)
        self._there = True  # also where nobody knows whether it was written
        self._written([changed(self._topic, self._state, self.key, fetched, self._provenance())], self._deadline)

    def _delete(self) -> None:
        # What others have left is found where it disturbs: in the answers.
        self._written([self._deleted(key) for key in (self.key, *self._left)], self._deadline)
        self._there = False

    def _deleted(self, key: DocumentKey) -> Pending:
        return deleted(self._topic, self._state, key, self._provenance())

    def _provenance(self) -> Provenance:
        return Provenance(self._clock(), traceparent())

    def _cleaned(self) -> bool:
        try:
            self._written([self._deleted(self.key)], Deadline.after(_CLEAN_SECONDS), stoppable=False)
        except (Transient, Backpressure, Fenced):
            return False
        return True

    def _written(self, pending: Sequence[Pending], deadline: Deadline, *, stoppable: bool = True) -> None:
        """One transaction, as the source's one writer. Another canary may take the source over meanwhile:
        it needs it for a moment as well, so this takes it back.
        """
        records = [one.records[place] for place in (0, 1) for one in pending]
        while True:
            try:
                with closed_after(self._broker.transactional_publisher(self._id), _CLOSE_SECONDS) as publisher:
                    publisher.publish(records, Deadline.after(min(_PUBLISH_SECONDS, deadline.remaining())))
                    return
            except (Fenced, Transient, Backpressure):
                if deadline.expired or (stoppable and self._stop.is_set()):
                    raise
                time.sleep(random.uniform(*_APART_SECONDS))  # noqa: S311 - to go apart, and no secret
