"""Bytes of a file to text that the chunker understands: a seam made for adding formats.

A format is one function from decoded text to :class:`Extracted`, entered in
:data:`connectors.extraction.formats.FORMATS` under its suffixes. The same bytes and suffix give
the same text on every machine; the file's name is never part of it, so that a rename embeds nothing.
"""

from __future__ import annotations

from connectors.extraction.decoding import SAMPLE_BYTES, binary, binary_suffix, decoded
from connectors.extraction.formats import Extracted, format_of
from pipeline.errors import Poison

__all__ = ["SAMPLE_BYTES", "VERSION", "Extracted", "binary", "binary_suffix", "extract"]

#: Raised with any change of what some format extracts: every document is then looked at again.
VERSION = 1


def extract(data: bytes, path: str) -> Extracted | None:
    """The text of a document and what it says about itself; None if it is binary.

    Args:
        data: the whole file.
        path: only its suffix, or the name of a file without one, chooses the format.

    Raises:
        Poison: the format's library cannot read it.
    """
    format_ = format_of(path)
    found = decoded(data, declares=format_.declares_encoding)
    if found is None:
        return None
    text, encoding = found
    try:
        extracted = format_.extract(text, path)
    except Poison:
        raise
    except Exception as error:  # a library's error on one file is about that file
        raise Poison("extraction_failed", f"{format_.name}: {type(error).__name__}: {error}") from error
    metadata = {**extracted.metadata, "extractor": f"{format_.name}/{format_.version}"}
    if encoding != "utf-8":
        metadata["encoding"] = encoding
    return Extracted(extracted.text, extracted.media_type, metadata)
