"""The first sync on a terminal: a bar while it runs, one line when it is done."""

from __future__ import annotations

import time
from typing import Final, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.cli.index import Index
from pipeline.observe.metrics import RESULTS

_LOOK_SECONDS: Final = 0.2


class FirstSync:
    """Waits until an index is in step with its sources for the first time.

    Args:
        index: started.
        output: where the bar is drawn if it is a terminal; the closing line is printed anyway.
    """

    def __init__(self, index: Index, output: TextIO) -> None:
        self._index = index
        self._console = Console(file=output)
        self._started = time.monotonic()

    def show(self, closing: bool = True) -> float:
        """Return when everything is searchable and committed, or the index is stopping; the seconds it took."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as bar:
            task = bar.add_task("reading", total=None)
            while not self._index.crew.wait(_LOOK_SECONDS):
                published, done = self._counts()
                scanned = self._index.scanned
                bar.update(
                    task,
                    description="documents in step" if scanned else "documents found",
                    total=published if scanned and published else None,
                    completed=done,
                )
                if scanned and self._index.lag() == 0:
                    self._index.syncing = False
                    break
        seconds = time.monotonic() - self._started
        if closing and not self._index.crew.stop.is_set():
            self._console.print(self._closing(seconds), highlight=False)
        return seconds

    def _counts(self) -> tuple[int, int]:
        metrics = self._index.parts.metrics
        published = int(metrics.totals()["documents_published"])
        outcomes = [{"stage": "embed", "outcome": outcome} for outcome in RESULTS if outcome != "ok"]
        values = [metrics.registry.get_sample_value("vectide_records_processed_total", labels) for labels in outcomes]
        done = int(sum(value or 0 for value in values))
        return published, min(done, published)

    def _closing(self, seconds: float) -> str:
        totals = self._index.parts.metrics.totals()
        states = self._index.collection.count_heads()
        documents = sum(count for state, count in states.items() if state != "deleted")
        return (
            f"in step after {seconds:.1f} s: {documents} documents, {self._index.collection.count_chunks()} chunks; "
            f"{totals['chunks_embedded']:.0f} chunks embedded, {totals['chunks_reused']:.0f} reused. Watching."
        )
