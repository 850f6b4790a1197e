"""From what was extracted to what a source returns: the same for every source of files.

Apart from :mod:`connectors.extraction`, which the process that reads documents imports: its memory is limited.
"""

from __future__ import annotations

from typing import Final

from connectors.extraction import Extracted
from pipeline.identity import Metadata, content_hash
from pipeline.ports import Fetched

#: Of a document, to get it from where it is and to read it: its connector's loop must beat once a minute
#: (pipeline.observe.health).
FETCH_SECONDS: Final = 55.0


def fetched(extracted: Extracted, path: str, revision: str, event_time: float, metadata: Metadata) -> Fetched:
    """A document with the text that was found in it; its size is that of the text.

    Args:
        extracted: from :meth:`Extractor.extract`.
        path: in the source.
        revision: in the source.
        event_time: when it changed, in seconds since 1970.
        metadata: what the source says of it; what it says itself counts.
    """
    return Fetched(
        path=path,
        revision=revision,
        text=extracted.text,
        digest=content_hash(extracted.text),
        media_type=extracted.media_type,
        metadata={**metadata, **extracted.metadata},
        event_time=event_time,
        size=len(extracted.text.encode("utf-8", "surrogatepass")),
        found=extracted.found,
    )
