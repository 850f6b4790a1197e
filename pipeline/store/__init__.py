"""Vector stores: a Qdrant server, its engine in this process, or memory; one contract."""
