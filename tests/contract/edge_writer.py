"""A process that writes to an embedded store until it is killed; run by test_store_edge.

``python -m tests.contract.edge_writer DIR``: prints the number of each batch once its write has returned.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

from pipeline.points import Sweep
from pipeline.store import edge
from pipeline.store.edge import EdgeStore
from tests.contract.store_points import SPEC, chunk, head, key, stamp


def main() -> None:
    """Write batches: two chunks and a head each; every third batch deletes the chunks of the one before."""
    # So low that a kill often hits a segment being written anew.
    edge.VACUUM_POINTS, edge.VACUUM_DELETED = 20, 0.05
    collection = EdgeStore(Path(sys.argv[1])).create(SPEC)
    # The last one again: its process may have died between its writes.
    for n in count(max(0, collection.count_heads().get("complete", 0) - 1)):
        chunks = [chunk(f"d{n}", f"text {n} {half}", stamp(1)) for half in range(2)]
        collection.upsert_chunks(chunks, {})
        collection.insert_heads([head(f"d{n}", stamp(1), *chunks)])
        if n % 3 == 2:
            collection.sweep([Sweep(key(f"d{n - 1}").doc, frozenset(), stamp(1))])
            collection.flush()
        print(n, flush=True)


if __name__ == "__main__":
    main()
