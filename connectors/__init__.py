"""Source connectors: they turn what a source holds into document change events."""
