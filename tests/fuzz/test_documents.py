"""Documents that are cut off, damaged or mixed up: a text, or poison; and the connector goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.extraction import ExtractionLimits, Extractor, reader
from pipeline.anchors import ANCHORS, place
from pipeline.chunking.structure import blocks
from pipeline.errors import Poison
from tests.fuzz.bytes import mutated
from tests.fuzz.settings import FUZZ
from tests.support import files

LIMIT = 1 << 20


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_DEADLINE_SECONDS", 170.0)  # a machine may do much else
        one = Extractor(ExtractionLimits(seconds=5, memory_bytes=512 << 20), LIMIT)
        yield one
        one.close()


@pytest.fixture(scope="module")
def samples() -> dict[str, bytes]:
    return {path: made() for path, made in files.SAMPLES.items()}


@given(st.data(), st.sampled_from(sorted(files.SAMPLES)), st.sampled_from(sorted(files.SAMPLES)))
@FUZZ
def test_changed_documents(
    extractor: Extractor, samples: dict[str, bytes], data: st.DataObject, path: str, other: str
) -> None:
    """Bytes changed, cut out or put in, or a part of one document before a part of another."""
    whole = samples[path]
    if data.draw(st.booleans()):
        document = data.draw(mutated(whole))
    else:
        cut = data.draw(st.integers(0, len(whole)))
        document = whole[:cut] + samples[other][data.draw(st.integers(0, len(samples[other]))) :]
    poison, found = None, None
    try:
        found = extractor.extract(document, path)
    except Poison as error:
        poison = error
    if poison is not None:
        assert poison.reason
        assert len(poison.detail.encode()) < 1000
        return
    assert found is not None
    assert len(found.text.encode()) <= LIMIT
    assert not set(found.text) & set("\0\r\x0c\ufffe")
    for value in found.metadata.values():
        assert isinstance(value, str | int | float | bool | list)
    assert len(repr(dict(found.metadata))) < 100_000
    for block in blocks(found.text, found.media_type):
        assert ANCHORS not in found.metadata or place(found.metadata[ANCHORS], block.start, block.end) is not None
