"""Labels of metrics are of sets that no document and no connector can make larger."""

from __future__ import annotations

import ast
from pathlib import Path

from pipeline.observe.metrics import REASONS, SKIPPED, Metrics, bounded, printable_label

ROOT = Path(__file__).parents[2]


def test_every_reason_of_a_dead_letter_is_a_label_that_starts_at_zero() -> None:
    """As the code raises them: a reason is a constant, never a text that something else says. (What a
    connector raises becomes no dead letter: its document is published without a text.)
    """
    used = set()
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Poison":
                assert isinstance(node.args[0], ast.Constant), f"{path.name}:{node.lineno}"
                used.add(node.args[0].value)
    assert {"record_too_large", "bad_metadata"} <= used, "they are found at all"
    assert used <= set(REASONS)


def test_what_a_connector_of_somebody_else_calls_its_reasons_is_one_label() -> None:
    metrics = Metrics()
    before = len(metrics.exposition().splitlines())
    for number in range(100):
        metrics.source_skipped.labels(bounded(f"reason\n{number}", SKIPPED)).inc()
    assert len(metrics.exposition().splitlines()) == before
    assert metrics.registry.get_sample_value("vectide_source_skipped_total", {"reason": "other"}) == 100


def test_everything_served_says_whose_it_is_and_a_name_that_is_not_utf8_can_be_served() -> None:
    metrics = Metrics("vectide.handbook")
    metrics.source_documents.labels(printable_label("n\udce4me")).set(1)
    lines = [line for line in metrics.exposition().decode().splitlines() if not line.startswith("#")]
    assert len(lines) > 100
    assert [line for line in lines if 'pipeline="vectide.handbook"' not in line] == []
    assert any(r'source="n\\udce4me"' in line for line in lines)
    assert not any(name.startswith("process") for name in metrics.totals()), "status adds up our own"
