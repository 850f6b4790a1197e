"""The formats, by suffix, and the text formats themselves, which stay as they are."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from connectors.extraction.front_matter import front_matter
from connectors.extraction.html import html_to_markdown
from connectors.extraction.tables import csv_to_markdown
from pipeline.identity import Metadata, MetadataValue

_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX: Final = re.compile(r" {0,3}#{1,6}[ \t]+(.*)")
_UNDERLINE: Final = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_ADORNMENT: Final = re.compile(r"([=\-`:.'\"~^_*+#<>])\1{2,}[ \t]*$")
_MARKUP: Final = re.compile(
    r"!?\[([^\]]*)\]\([^)]*\)|[*`]{1,3}(?=\S)|(?<=\S)[*`]{1,3}|(?<!\w)_{1,3}(?=\S)|(?<=\S)_{1,3}(?!\w)|<[^<>]{1,200}>"
)
#: A title stands at the top; what lies further down is a section's.
_TITLE_LINES: Final = 100
_TITLE_LENGTH: Final = 200
#: With its markup; what is longer is no title, and would take the square of its length to read.
_MARKED_LENGTH: Final = 4_000


@dataclass(frozen=True, slots=True)
class Extracted:
    """A document's text, and what kind of text it is."""

    text: str
    media_type: str
    """What the chunker cuts it as."""
    metadata: Metadata = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)
    """What else it says of itself, nested as it is: for mappings of metadata, never published."""


@dataclass(frozen=True, slots=True)
class Format:
    """How the text of one kind of file is found."""

    name: str
    version: int
    """Raise it with any change of the result: documents of this kind are then read again."""
    extract: Callable[[str, str], Extracted]
    """Decoded text and path to the document."""
    declares_encoding: bool = False
    needs: tuple[str, ...] = ()
    """Distributions; always installed."""

    @property
    def revision(self) -> str:
        """Another whenever the same text may give another document."""
        return reader_revision(f"{self.name}{self.version}", self.needs)


def reader_revision(own: str, needs: Iterable[str]) -> str:
    """A reader's revision: its own, and those of the distributions that it is built on."""
    return "-".join([own, *(installed(name) or "none" for name in needs)])


@cache
def installed(name: str) -> str | None:
    """The version of a distribution; None: it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _plain(text: str, path: str) -> Extracted:
    return Extracted(text, "text/plain")


def _code(text: str, path: str) -> Extracted:
    return Extracted(text, _code_type(path) or "text/plain")


def _markdown(text: str, path: str) -> Extracted:
    """As it is; the title is the front matter's, or the first heading."""
    said = front_matter(text)
    metadata: dict[str, MetadataValue] = dict(said.fields)
    if not isinstance(metadata.get("title"), str):
        metadata.pop("title", None)
        metadata.update(markdown_title(text))
    return Extracted(text, "text/markdown", metadata, said.nested)


def _csv(text: str, path: str) -> Extracted:
    return Extracted(csv_to_markdown(text), "text/markdown", {"source_media_type": "text/csv"})


def _restructured(text: str, path: str) -> Extracted:
    return Extracted(text, "text/x-rst", _title(_restructured_title(text)))


def _html(text: str, path: str) -> Extracted:
    """As Markdown, which keeps headings, lists, tables and code for the chunker."""
    page = html_to_markdown(text)
    return Extracted(page.text, "text/markdown", {**_title(page.title), "source_media_type": "text/html"})


_PLAIN: Final = Format("plain", 1, _plain)
_CODE: Final = Format("code", 1, _code)
MARKDOWN: Final = Format("markdown", 1, _markdown, needs=("PyYAML",))
HTML: Final = Format("html", 2, _html, declares_encoding=True, needs=("selectolax",))

#: Suffix to format. Code has its own table below; anything else that is text is plain.
FORMATS: Final[dict[str, Format]] = {
    **dict.fromkeys((".md", ".markdown", ".mdown", ".mkd", ".mdx"), MARKDOWN),
    **dict.fromkeys((".rst", ".rest"), Format("restructured", 1, _restructured)),
    **dict.fromkeys((".csv", ".tsv"), Format("csv", 1, _csv)),
    **dict.fromkeys((".html", ".htm", ".xhtml"), HTML),
}

#: Suffix to media type.
CODE_TYPES: Final = {
    ".bash": "text/x-shellscript",
    ".c": "text/x-c",
    ".cc": "text/x-c++",
    ".cfg": "text/x-ini",
    ".clj": "text/x-clojure",
    ".cpp": "text/x-c++",
    ".cs": "text/x-csharp",
    ".css": "text/x-css",
    ".cxx": "text/x-c++",
    ".dart": "text/x-dart",
    ".el": "text/x-lisp",
    ".ex": "text/x-elixir",
    ".exs": "text/x-elixir",
    ".go": "text/x-go",
    ".h": "text/x-c",
    ".hpp": "text/x-c++",
    ".hs": "text/x-haskell",
    ".ini": "text/x-ini",
    ".java": "text/x-java",
    ".jl": "text/x-julia",
    ".js": "application/javascript",
    ".json": "application/json",
    ".jsonl": "application/json",
    ".jsx": "application/javascript",
    ".kt": "text/x-kotlin",
    ".less": "text/x-less",
    ".lisp": "text/x-lisp",
    ".lua": "text/x-lua",
    ".mjs": "application/javascript",
    ".ml": "text/x-ocaml",
    ".php": "text/x-php",
    ".pl": "text/x-perl",
    ".proto": "text/x-protobuf",
    ".ps1": "text/x-powershell",
    ".py": "text/x-python",
    ".pyi": "text/x-python",
    ".r": "text/x-r",
    ".rb": "text/x-ruby",
    ".rs": "text/x-rust",
    ".scala": "text/x-scala",
    ".scss": "text/x-scss",
    ".sh": "text/x-shellscript",
    ".sql": "application/sql",
    ".svg": "application/xml",
    ".swift": "text/x-swift",
    ".tf": "text/x-terraform",
    ".toml": "application/toml",
    ".ts": "application/typescript",
    ".tsx": "application/typescript",
    ".vue": "text/x-vue",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".zig": "text/x-zig",
    ".zsh": "text/x-shellscript",
}
_CODE_NAMES: Final = {
    "Makefile": "text/x-makefile",
    "Dockerfile": "text/x-dockerfile",
    "Containerfile": "text/x-dockerfile",
    "CMakeLists.txt": "text/x-cmake",
    "Rakefile": "text/x-ruby",
    "Gemfile": "text/x-ruby",
}


def format_of(path: str) -> Format:
    """The format of a file by its name."""
    if _code_type(path) is not None:
        return _CODE
    return FORMATS.get(posixpath.splitext(path)[1].lower(), _PLAIN)


def _code_type(path: str) -> str | None:
    name = posixpath.basename(path)
    return _CODE_NAMES.get(name) or CODE_TYPES.get(posixpath.splitext(name)[1].lower())


def _title(text: str) -> dict[str, MetadataValue]:
    title = " ".join(text.split())[:_TITLE_LENGTH]
    return {"title": title} if title else {}


def markdown_title(text: str) -> dict[str, MetadataValue]:
    """The title of a text in Markdown as metadata: its first heading near the top."""
    return _title(_markdown_title(text))


def _markdown_title(text: str) -> str:
    lines = _top(text)
    fence = ""
    for index, line in enumerate(lines):
        mark = _FENCE.match(line)
        if mark and (not fence or line.strip().startswith(fence)):
            fence = "" if fence else mark.group(1)
        elif not fence:
            heading = _ATX.match(line)
            below = index + 1 < len(lines) and line.strip() and _UNDERLINE.match(lines[index + 1])
            if heading or (below and _alone(lines, index)):
                title = _unclosed(heading.group(1)) if heading else line
                return _MARKUP.sub(lambda match: match.group(1) or "", title[:_MARKED_LENGTH])
    return ""


def _unclosed(title: str) -> str:
    """A heading's text without the number signs that may close it."""
    title = title.rstrip(" \t")
    opened = title.rstrip("#")
    return opened.rstrip(" \t") if opened[-1:] in (" ", "\t") else title


def _alone(lines: list[str], index: int) -> bool:
    """True if a line is a paragraph of its own, as an underlined heading is."""
    return index == 0 or not lines[index - 1].strip()


def _restructured_title(text: str) -> str:
    lines = _top(text)
    for index, line in enumerate(lines[:-1]):
        title = line.strip()
        adorned = _ADORNMENT.match(lines[index + 1])
        if title and adorned and not _ADORNMENT.match(line) and len(lines[index + 1].rstrip()) >= len(title) // 2:
            return title.replace("``", "").replace("*", "")
    return ""


def _top(text: str) -> list[str]:
    """The first lines, without front matter."""
    lines = text[: _TITLE_LINES * 200].split("\n", _TITLE_LINES)[:_TITLE_LINES]
    lines = [line.removesuffix("\r") for line in lines]
    if lines and lines[0].rstrip() == "---":
        end = next((at for at in range(1, len(lines)) if lines[at].rstrip() in ("---", "...")), None)
        if end is not None:
            return lines[end + 1 :]
    return lines
