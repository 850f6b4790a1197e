"""The series of a gauge whose labels come and go, replaced as a whole."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Gauge


class Series:
    """What one writer shows of a gauge; used by one thread.

    Args:
        gauge: with labels.
    """

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._shown: set[tuple[str, ...]] = set()

    def replace(self, values: Mapping[tuple[str, ...], float]) -> None:
        """Show these, by the values of their labels, and nothing else of what was shown."""
        # Never all removed and set again: a scrape in between would find none.
        for labels in self._shown - values.keys():
            self._gauge.remove(*labels)
        for labels, value in values.items():
            self._gauge.labels(*labels).set(value)
        self._shown = set(values)
