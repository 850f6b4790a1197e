"""A site and sources of the web connector over it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from connectors.web.settings import WebSettings
from connectors.web.source import WebSource
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.ports import without_pauses
from tests.support.sources import Documents
from tests.support.website import Website

LIMIT = 64 * 1024
DAY = 86400.0


class World:
    """A site, one source over it after the other, and a clock that a test moves."""

    def __init__(self, folder: Path) -> None:
        self.site = Website()
        self.folder = folder
        self.now = time.time()
        self.made: list[WebSource] = []
        self.documents = Documents(EmbeddedBroker(None))

    def source(self, **settings: Any) -> WebSource:
        table = {"sitemaps": [f"{self.site.url}/sitemap.xml"], "pages_per_second": 1000, "poll_seconds": 60} | settings
        if "site" in settings or "feeds" in settings:
            table.pop("sitemaps") if "sitemaps" not in settings else None
        self.made.append(
            WebSource("w", WebSettings.model_validate(table), LIMIT, self.folder / "state", lambda: self.now)
        )
        return self.made[-1]

    def close(self) -> None:
        for source in self.made:
            source.close()
        self.site.close()
        self.documents.broker.close()


def listed(source: WebSource) -> dict[str, str]:
    return {one.path: one.revision for one in without_pauses(source.scan())}
