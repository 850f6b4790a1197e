"""The web connector: the pages that a site's sitemaps and feeds name."""

from __future__ import annotations

from connectors.web.opening import connector
from connectors.web.settings import settings_of

__all__ = ["connector", "settings_of"]
