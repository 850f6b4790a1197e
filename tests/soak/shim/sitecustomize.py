"""What a worker of the soak does differently, by variables that only this file knows. Never in the product.

``VECTIDE_TEST_CLOCK``   a file of 8 bytes: seconds that the wall clock is off, at once when it changes
``VECTIDE_TEST_POISON``  texts with the words of tests.soak.truth.POISON fail, for good
``VECTIDE_TEST_MUTANT``  a guard of the store protocol is off (tests.soak.mutants)
"""

from __future__ import annotations

import os
import sys


def _clock(path: str) -> None:
    import mmap
    import struct
    import time

    with open(path, "rb") as file:
        shared = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    right, right_ns = time.time, time.time_ns

    def offset() -> float:
        return struct.unpack("<d", shared[:8])[0]

    time.time = lambda: right() + offset()
    time.time_ns = lambda: right_ns() + int(offset() * 1e9)


def _poison() -> None:
    import numpy

    from pipeline.embedding import generation
    from pipeline.embedding.hashing import HashingEmbedder

    embed, cut = HashingEmbedder.embed_documents, generation.chunk

    def embed_documents(self, texts):
        vectors = embed(self, texts)
        vectors[["poisonembed" in text for text in texts]] = numpy.nan
        return vectors

    def cut_or_fail(text, *more):
        if "poisonchunk" in text:
            raise RuntimeError("planted by the soak")
        return cut(text, *more)

    HashingEmbedder.embed_documents, generation.chunk = embed_documents, cut_or_fail


if "VECTIDE_TEST_CLOCK" in os.environ:
    _clock(os.environ["VECTIDE_TEST_CLOCK"])
if "VECTIDE_TEST_POISON" in os.environ:
    _poison()
if "VECTIDE_TEST_MUTANT" in os.environ:
    from tests.soak.mutants import switch_off

    switch_off(os.environ["VECTIDE_TEST_MUTANT"])
    print(f"mutant {os.environ['VECTIDE_TEST_MUTANT']}", file=sys.stderr)
