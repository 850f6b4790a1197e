"""Fixtures of the deployment's tests: every render is made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.charts import MATRIX, Rendered, render, values_of, with_samples


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the chart that certainly has rules and a dashboard."""
    return with_samples(tmp_path_factory.mktemp("chart"))


@pytest.fixture(scope="session")
def renders(chart: Path) -> dict[str, Rendered]:
    """Of the default values, and of every file in helm/ci."""
    return {"default": render(chart)} | {name: render(chart, values_of(name)) for name in MATRIX}
