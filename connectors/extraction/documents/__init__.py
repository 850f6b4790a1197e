"""Documents that are no text: by suffix, what reads them, and whether that is installed.

Each is one function ``read(data, limit)`` in a module of its own that gives :class:`Extracted`, or raises
Poison. It runs in a process that may be killed at any moment (:mod:`connectors.extraction.reader`), so it
writes nothing and asks nobody.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Final

from connectors.extraction.formats import HTML, MARKDOWN, Format, installed, reader_revision

#: What ``pip install`` calls the packages of the readers.
EXTRA: Final = "vectide[documents]"


@dataclass(frozen=True, slots=True)
class DocumentFormat:
    """How documents of one kind are read."""

    name: str
    version: int
    """Raise it with any change of the result: documents of this kind are then read again."""
    module: str
    """In this package; imported only where documents are read."""
    media_type: str
    needs: tuple[str, ...] = ()
    """Distributions; those of the extra."""
    built_on: tuple[Format, ...] = ()
    """Formats of texts that read parts of it."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Those of ``needs`` that are not installed."""
        return tuple(name for name in self.needs if installed(name) is None)

    @property
    def revision(self) -> str:
        """Another whenever the same bytes may give another text."""
        own = reader_revision(f"{self.name}{self.version}", self.needs)
        return "-".join([own, *(one.revision for one in self.built_on)])


_PDF: Final = DocumentFormat("pdf", 1, "pdf", "application/pdf", ("pypdfium2",))
_OFFICE: Final = "application/vnd.openxmlformats-officedocument."
_WORD: Final = DocumentFormat("word", 1, "word", f"{_OFFICE}wordprocessingml.document", ("lxml",))
_SLIDES: Final = DocumentFormat("slides", 1, "slides", f"{_OFFICE}presentationml.presentation", ("lxml",))
_SHEETS: Final = DocumentFormat("sheets", 1, "sheets", f"{_OFFICE}spreadsheetml.sheet", ("python-calamine", "lxml"))
_EPUB: Final = DocumentFormat("epub", 1, "epub", "application/epub+zip", ("lxml",), (HTML,))
_MAIL: Final = DocumentFormat("mail", 1, "mail", "message/rfc822", built_on=(HTML,))
_NOTEBOOK: Final = DocumentFormat("notebook", 1, "notebook", "application/x-ipynb+json", built_on=(MARKDOWN,))

FORMATS: Final[dict[str, DocumentFormat]] = {
    ".pdf": _PDF,
    **dict.fromkeys((".docx", ".docm", ".dotx"), _WORD),
    **dict.fromkeys((".pptx", ".pptm", ".ppsx"), _SLIDES),
    **dict.fromkeys((".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"), _SHEETS),
    ".epub": _EPUB,
    ".eml": _MAIL,
    ".ipynb": _NOTEBOOK,
}
BY_NAME: Final = {one.name: one for one in FORMATS.values()}


def document_format(path: str) -> DocumentFormat | None:
    """What reads a document of this name; None: it is a text, or nothing that is read."""
    return FORMATS.get(posixpath.splitext(path)[1].lower())
