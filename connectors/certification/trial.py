"""What one check works with: a place, sources over it, a log of its own, and what is logged meanwhile."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

from connectors.certification.place import (
    Breaks,
    Closes,
    Counts,
    Fault,
    HasSecrets,
    NotShown,
    Place,
    Poisons,
    Polls,
    PutsMany,
    Renames,
    Sends,
)
from connectors.certification.rig import Documents, Running, running, wait_until
from connectors.runner import RunnerLimits
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.ports import Fetched, Hint, Source, without_pauses
from pipeline.records import DocumentEvent

T = TypeVar("T")
Ability: TypeAlias = Literal["renames", "poisons", "secrets"] | Fault
"""What a check needs of a place beyond putting and removing."""

_LOOK_SECONDS: Final = 0.02
_QUIET_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Scale:
    """How much a certification does."""

    documents: int = 10_000
    """Of the large place."""
    document_bytes: int = 6_000
    """Of each of them: so that all together are far more than the memory that a source may take."""
    kills: int = 8
    """Moments at which the connector is killed."""
    latencies: int = 20
    """Changes that are timed."""
    patience_seconds: float = 60.0
    """How long anything may take; a timely connector needs none of it."""
    seed: int = 0
    """Of random moments; 0: any."""


class Trial:
    """One check's own world.

    Args:
        place: a new and empty one.
        folder: for state.
        scale: how much to do.
    """

    def __init__(self, place: Place, folder: Path, scale: Scale) -> None:
        self.place = place
        self.scale = scale
        self.figures: dict[str, float] = {}
        """What was measured."""
        self.seed = scale.seed or random.SystemRandom().randrange(1 << 32)
        self.chance = random.Random(self.seed)  # noqa: S311 - nothing secret
        self.state = folder / "state"
        self.broker = EmbeddedBroker(None)
        self.documents = Documents(self.broker)
        self._sources: list[Source] = []

    def close(self) -> None:
        """End everything that the check has begun."""
        for source in self._sources:
            source.close()
        self.broker.close()
        if isinstance(self.place, Closes):
            self.place.close()

    # ------------------------------------------------------------------------- the place

    def put(self, path: str, text: str) -> None:
        """Create or change a document."""
        self.place.put(path, text)

    def put_many(self, documents: Mapping[str, str]) -> None:
        """Create many, the fast way if there is one."""
        if isinstance(self.place, PutsMany):
            self.place.put_many(documents)
        else:
            for path, text in documents.items():
                self.place.put(path, text)

    def put_any(self, paths: Sequence[str]) -> list[str]:
        """Put a document of its own text at each path that this kind of source can have.

        Raises:
            NotShown: at none of them.
        """
        there = []
        for path in paths:
            with suppress(NotShown):
                self.place.put(path, f"text of {path}\n")
                there.append(path)
        if not there:
            raise NotShown(f"none of {', '.join(paths)} can be the path of a document there")
        return there

    def remove(self, path: str) -> None:
        """Delete a document."""
        self.place.remove(path)

    def rename(self, old: str, new: str) -> None:
        """Move a document."""
        if not isinstance(self.place, Renames):
            raise NotShown("the place has no method `rename`")
        self.place.rename(old, new)

    def poison(self, path: str) -> None:
        """Put a document that nobody can read."""
        if not isinstance(self.place, Poisons):
            raise NotShown("the place has no method `poison`")
        self.place.poison(path)

    def break_(self, fault: Fault) -> None:
        """Let the place stop working."""
        if not isinstance(self.place, Breaks) or fault not in self.place.faults:
            raise NotShown(f"the place cannot be {fault}: it has no `break_`, or does not name that in `faults`")
        self.place.break_(fault)

    def mend(self) -> None:
        """Let it work again."""
        assert isinstance(self.place, Breaks)  # it was broken before
        self.place.mend()

    def asked(self) -> int:
        """How often the place was asked until now."""
        if not isinstance(self.place, Counts):
            raise NotShown("the place has no method `asked`")
        return self.place.asked()

    @property
    def faults(self) -> Sequence[Fault]:
        """Those of the place after which nothing is answered as it should be."""
        return [one for one in self.place.faults if one != "slow"] if isinstance(self.place, Breaks) else []

    @property
    def secrets(self) -> Sequence[str]:
        """What may never be shown."""
        if not isinstance(self.place, HasSecrets) or not self.place.secrets:
            raise NotShown("the place names no `secrets`")
        return list(self.place.secrets)

    @property
    def quiet_seconds(self) -> float:
        """After so long without a sign, nothing more is to come."""
        return _QUIET_SECONDS + (2 * self.place.poll_seconds if isinstance(self.place, Polls) else 0.0)

    @property
    def polls(self) -> bool:
        """Whether the source may ask for scans without a cause."""
        return isinstance(self.place, Polls)

    # ----------------------------------------------------------------------- the source

    def source(self) -> Source:
        """A new source; closed when the check is over."""
        made = self.place.source()
        self._sources.append(made)
        return made

    def fetched(self, source: Source, path: str) -> Fetched:
        """A document that must be there."""
        found = source.fetch(path)
        assert isinstance(found, Fetched), f"{path!r} is there, and fetching it gave {found!r}"
        return found

    def settled(self, source: Source) -> None:
        """Until hints of what was done before have come, and no more do."""
        end = time.monotonic() + self.scale.patience_seconds
        while any(hint.path is not None or not self.polls for hint in source.hints(self.quiet_seconds)):
            assert time.monotonic() < end, "hints never cease, though nothing changes"

    def hinted(self, source: Source, paths: Sequence[str]) -> list[Hint]:
        """The hints that came until all of these were hinted."""
        found: list[Hint] = []
        end = time.monotonic() + self.scale.patience_seconds
        while not all(covers(found, path) for path in paths):
            assert time.monotonic() < end, f"a change of {' and '.join(paths)} was not hinted; hints were {found}"
            found += source.hints(_QUIET_SECONDS)
        return found

    # ------------------------------------------------------------------------- the log

    @contextmanager
    def running(
        self, source: Source | None = None, limits: RunnerLimits | None = None, documents: Documents | None = None
    ) -> Iterator[Running]:
        """A connector at work, with the state of the one before."""
        with running(
            source or self.source(),
            documents or self.documents,
            self.state,
            limits,
            patience_seconds=self.scale.patience_seconds,
        ) as one:
            if isinstance(self.place, Sends):
                one.delivered = self.place.delivered
            yield one

    def scanned(self, source: Source | None = None) -> Running:
        """A connector that starts, publishes what its first scan finds, and is stopped."""
        with self.running(source) as one:
            one.wait_scanned()
        return one

    def wait_for(self, texts: Mapping[str, str | None], one: Running | None = None) -> None:
        """Until these are the documents in the log."""
        wanted, seen = dict(texts), (-1, 0.0)

        def there() -> bool:
            if one is not None and one.failure is not None:
                raise one.failure
            time.sleep(_LOOK_SECONDS)
            nonlocal seen
            count, now = self.documents.count(), time.monotonic()
            if count == seen[0] and now < seen[1]:
                return False  # to read the whole log again would only take time
            seen = (count, now + 1.0)
            return self.documents.texts() == wanted

        self.wait(there, lambda: f"the log has {_short(self.documents.texts())}, the place {_short(wanted)}")

    def wait(self, condition: Callable[[], object], why: Callable[[], str]) -> None:
        """Until it holds."""
        wait_until(condition, why, self.scale.patience_seconds)

    def events_of(self, path: str) -> list[DocumentEvent]:
        """The events of one document, in order."""
        return [event for event in self.documents.events() if event.key.path == path]

    @contextmanager
    def listening(self) -> Iterator[list[logging.LogRecord]]:
        """What is logged within, debugging too: a secret must not be in what nobody reads, either. Only for checks
        that look at it: clients write several records a request, which take time and, kept, memory.
        """
        root, records = logging.getLogger(), _Records()
        level = root.level
        root.setLevel(logging.DEBUG)
        root.addHandler(records)
        try:
            yield records.kept
        finally:
            root.removeHandler(records)
            root.setLevel(level)


class _Records(logging.Handler):
    """Keeps what is logged, warnings and debugging alike."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record)


def covers(hints: Sequence[Hint], path: str) -> bool:
    """A hint names the document, something above it, or everything."""
    return any(hint.path is None or hint.path == path or path.startswith(hint.path + "/") for hint in hints)


def listing(source: Source) -> dict[str, str]:
    """Revisions by path."""
    return {one.path: one.revision for one in without_pauses(source.scan())}


def _short(texts: Mapping[str, str | None]) -> str:
    shown = {path: text if text is None or len(text) < 40 else f"{text[:40]}..." for path, text in texts.items()}
    return repr(shown) if len(shown) <= 8 else f"{len(shown)} documents"
