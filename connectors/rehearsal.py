"""What a connector would publish, found out without publishing: ``vectide connect --dry-run``.

1. Read what has been published of the source, into a temporary file.
2. Scan it, and fetch what has another revision: what differs is counted, as the connector would decide.
3. What was published and is not listed is fetched once more: what is gone would be deleted.

Nothing is written to a topic or to what a connector knows, and whoever runs it is not fenced. Memory holds
one document.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from connectors.batches import encoded, known_of, unreadable
from connectors.duties import FORGOTTEN
from connectors.state import Known, State
from pipeline.errors import Poison, SourceUnavailable, Transient
from pipeline.identity import DocumentKey
from pipeline.ports import Broker, Expired, Fetched, Skipped, Source, without_pauses
from pipeline.records import Provenance

Kind: TypeAlias = Literal["created", "changed", "metadata", "deleted"]
KINDS: Final[tuple[Kind, ...]] = ("created", "changed", "metadata", "deleted")
#: Documents of a kind that are named.
SAMPLE: Final = 10


@dataclass
class Rehearsal:
    """What would be published of one source."""

    source: str
    counts: Counter[Kind] = field(default_factory=Counter)
    """Events by kind; ``metadata``: of the same text, which embeds nothing."""
    sample: dict[Kind, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    """Document keys, some of each kind."""
    unchanged: int = 0
    """Published as they are; those with the same revision were not read."""
    record_bytes: int = 0
    """Of all that would be written, deletes left out."""
    text_bytes: int = 0
    """Of their texts, in UTF-8."""
    without_text_count: int = 0
    without_text: list[str] = field(default_factory=list)
    """Documents that would be published without their text, the first ones, each with its reason."""
    skipped: Counter[str] = field(default_factory=Counter)
    """What is there and is no document, by the reason."""
    unreadable: list[str] = field(default_factory=list)
    """Documents that cannot be read now, the first ones; their last versions would stay."""
    unreadable_count: int = 0
    kept_out: int = 0
    """Documents that were forgotten, and stay out."""
    first: bool = True
    """Nothing has been published of this source."""

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "source": self.source,
            "first": self.first,
            "events": {kind: self.counts[kind] for kind in KINDS},
            "unchanged": self.unchanged,
            "record_bytes": self.record_bytes,
            "text_bytes": self.text_bytes,
            "without_text": {"count": self.without_text_count, "examples": self.without_text},
            "skipped": dict(self.skipped),
            "unreadable": {"count": self.unreadable_count, "examples": self.unreadable},
            "kept_out": self.kept_out,
            "sample": self.sample,
        }


def rehearse(
    source: Source,
    broker: Broker,
    state_topic: str,
    on_progress: Callable[[int], object] = lambda done: None,
) -> Rehearsal:
    """Find out what a connector would publish now.

    Args:
        source: opened for this; the caller closes it.
        broker: only read.
        state_topic: what was published; it need not be there.
        on_progress: told how many documents were looked at.

    Raises:
        SourceUnavailable: the source does not answer, or in the middle.
        BrokerUnavailable: the broker does not.
    """
    with tempfile.TemporaryDirectory(prefix="vectide-dry-run-") as folder:
        state = State(broker, state_topic, source.id, Path(folder))
        with closing(state):
            if state_topic in broker.topics(state_topic):
                state.refresh()
            return _Rehearsing(source, state, on_progress).run()


class _Rehearsing:
    def __init__(self, source: Source, state: State, on_progress: Callable[[int], object]) -> None:
        self._source = source
        self._state = state
        self._on_progress = on_progress
        self._found = Rehearsal(source.id, first=not state.published(1))
        self._all_kept_out = state.mark(FORGOTTEN) is not None
        self._done = 0

    def run(self) -> Rehearsal:
        state = self._state
        state.begin_scan()
        for listed in without_pauses(self._source.scan()):
            known = state.see(listed.path)
            if self._all_kept_out or (known is not None and known.forgotten):
                self._found.kept_out += 1
            elif known is not None and known.published and known.revision == listed.revision:
                self._found.unchanged += 1
            else:
                self._look(listed.path, known)
            self._step()
        for path in state.unseen():
            self._look(path, state.get(path))
            self._step()
        return self._found

    def _step(self) -> None:
        self._done += 1
        self._on_progress(self._done)

    def _look(self, path: str, known: Known | None) -> None:
        found, key = self._found, DocumentKey(self._source.id, path)
        try:
            fetched = self._source.fetch(path)
        except SourceUnavailable:
            raise
        except Poison as why:
            fetched = unreadable(path, "", why)
        except Transient:
            found.unreadable_count += 1
            if len(found.unreadable) < SAMPLE:
                found.unreadable.append(key.text)
            return
        if isinstance(fetched, Fetched):
            self._compare(key, fetched, known)
            return
        if isinstance(fetched, Expired):
            found.unchanged += known is not None and known.published
            return
        if isinstance(fetched, Skipped):
            found.skipped[fetched.reason] += 1
        if known is not None and known.published:
            self._count("deleted", key)

    def _compare(self, key: DocumentKey, fetched: Fetched, known: Known | None) -> None:
        now = known_of(fetched)
        if known is not None and (known.digest, known.facts) == (now.digest, now.facts):
            self._found.unchanged += 1
            return
        published = known is not None and known.published
        kind: Kind = "created"
        if published:
            kind = "metadata" if known is not None and known.digest == now.digest else "changed"
        self._count(kind, key)
        event, record = encoded(key, fetched, Provenance(0.0))
        self._found.record_bytes += sum(len(part) for part in record[:2] if part)
        self._found.text_bytes += 0 if event.text is None else event.size
        if event.text is None:
            self._found.without_text_count += 1
            if len(self._found.without_text) < SAMPLE:
                self._found.without_text.append(f"{key.text}: {event.omitted}")

    def _count(self, kind: Kind, key: DocumentKey) -> None:
        self._found.counts[kind] += 1
        if len(self._found.sample[kind]) < SAMPLE:
            self._found.sample[kind].append(key.text)
