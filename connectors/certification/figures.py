"""A large place in bounded memory, and how fast: measured and reported, never judged by a clock."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from connectors.certification.checks import Checks
from connectors.certification.place import NotShown
from connectors.certification.rig import Documents
from connectors.certification.trial import Trial
from pipeline.broker.embedded import EmbeddedBroker

CHECKS: Final = Checks()

#: What a source may take for itself, whatever the place holds: listings, buffers, caches.
MEMORY_BYTES: Final = 40 * 1024 * 1024
#: Documents that are published before memory is first looked at: libraries are loaded by then.
_WARM: Final = 200
_PER_FOLDER: Final = 100
_SAMPLE_SECONDS: Final = 0.02


@CHECKS.add
def a_large_place_is_synced_in_bounded_memory_with_progress(trial: Trial) -> None:
    """Ten thousand documents are published one batch after the other, and the memory of the process does
    not grow with what they hold.
    """
    scale = trial.scale
    filler = "All work and no play makes a document long. "
    body = (filler * (scale.document_bytes // len(filler) + 1))[: scale.document_bytes]
    paths = [f"folder {number // _PER_FOLDER}/{number}.txt" for number in range(scale.documents)]
    for start in range(0, scale.documents, _PER_FOLDER * 10):
        some = range(start, min(start + _PER_FOLDER * 10, scale.documents))
        trial.put_many({paths[number]: f"{number} {body}" for number in some})
    # On disk: what a log in memory holds would count as the source's.
    broker = EmbeddedBroker(trial.state.parent / "log")
    try:
        trial.documents = documents = Documents(broker)
        _publish(trial, documents)
        found = sum(1 for _ in documents.now())
    finally:
        broker.close()
    assert found == scale.documents, f"{found} of {scale.documents} documents are in the log"
    if scale.documents <= _WARM:
        raise NotShown(
            f"all {scale.documents} documents were published; memory is looked at from the {_WARM}th on: ask for more"
        )


def _publish(trial: Trial, documents: Documents) -> None:
    whole = trial.scale.documents
    peak = [0]
    with trial.running(documents=documents) as one:
        started = time.monotonic()
        trial.wait(lambda: documents.count() or one.failure, lambda: "nothing is published")
        first = time.monotonic() - started
        trial.wait(lambda: documents.count() >= min(_WARM, whole) or one.failure, lambda: "publishing has stopped")
        base = resident_bytes()
        with _sampled(peak):
            _until(lambda: one.runner.scanned.is_set() or one.failure is not None, documents, trial)
        seconds = time.monotonic() - started
        assert one.failure is None, f"it ended with {one.failure!r}"
    grown = max(0, peak[0] - base)
    assert grown < MEMORY_BYTES, f"memory grew by {grown >> 20} MiB over {whole} documents"
    trial.figures |= {
        "documents": float(whole),
        "first_event_seconds": round(first, 3),
        "documents_per_second": round(whole / seconds, 1),
        "memory_growth_mib": round(grown / (1 << 20), 1),
    }


def _until(condition: Callable[[], bool], documents: Documents, trial: Trial) -> None:
    """As long as documents go on being published it may take as long as it takes."""
    count, end = -1, 0.0
    while not condition():
        if documents.count() != count:
            count, end = documents.count(), time.monotonic() + trial.scale.patience_seconds
        assert time.monotonic() < end, f"it has stopped after {count} documents"
        time.sleep(_SAMPLE_SECONDS)


class _sampled:  # noqa: N801 - a context manager
    """Notes the most memory that the process has had meanwhile."""

    def __init__(self, peak: list[int]) -> None:
        self._peak = peak
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self._peak[0] = max(self._peak[0], resident_bytes())


@CHECKS.add
def a_change_reaches_the_log_and_how_fast(trial: Trial) -> None:
    """Each of a series of single changes reaches the log; how long that takes is measured."""
    seconds = []
    with trial.running() as one:
        one.wait_scanned()
        for number in range(trial.scale.latencies):
            before = trial.documents.count()
            trial.put(f"{number}.txt", f"text {number}")
            put = time.monotonic()
            trial.wait(
                lambda before=before: trial.documents.count() > before or one.failure,  # type: ignore[misc]
                lambda number=number: f"document {number} never reached the log",  # type: ignore[misc]
            )
            seconds.append(time.monotonic() - put)
            assert one.failure is None, f"it ended with {one.failure!r}"
    seconds.sort()
    trial.figures |= {
        "change_to_log_median_seconds": round(statistics.median(seconds), 4),
        "change_to_log_p95_seconds": round(seconds[int(len(seconds) * 0.95)], 4),
        "change_to_log_worst_seconds": round(seconds[-1], 4),
    }


def resident_bytes() -> int:
    """Memory of this process, now; where the system does not say, the most that it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
