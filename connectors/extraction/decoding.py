"""Bytes to text: which encoding, or none at all."""

from __future__ import annotations

import codecs
import re
from pathlib import PurePosixPath
from typing import Final

#: So many bytes tell whether a file is binary.
SAMPLE_BYTES: Final = 8192
_BOMS: Final = (
    # The longer ones first: UTF-32's begins with UTF-16's.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROLS: Final = bytes(set(range(32)) - {7, 8, 9, 10, 11, 12, 13, 27}) + b"\x7f"
#: More control characters than this in a hundred bytes: not text.
_CONTROL_PERCENT: Final = 2
_DECLARED: Final = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""", re.IGNORECASE)
_DECLARED_WITHIN: Final = 2048
#: What pages are written in, by the names of Python's codecs. Others are no encodings of pages: UTF-7 and
#: the escapes of Python make surrogates out of ASCII, punycode and idna are for names of hosts.
_OF_PAGES: Final = re.compile(
    r"ascii|utf-8(-sig)?|(iso8859|cp|koi8|mac|gb|big5|euc|iso2022|shift)[-_0-9a-z]*|hz|johab|ptcp154|tis-620"
)

#: Not worth opening; whatever else is binary shows it in its first bytes.
_BINARY_SUFFIXES: Final = frozenset(
    {
        ".7z",
        ".a",
        ".aac",
        ".avi",
        ".avif",
        ".bin",
        ".bmp",
        ".bz2",
        ".class",
        ".db",
        ".dll",
        ".doc",
        ".dylib",
        ".eot",
        ".exe",
        ".flac",
        ".gif",
        ".gz",
        ".heic",
        ".ico",
        ".iso",
        ".jar",
        ".jpeg",
        ".jpg",
        ".lz4",
        ".m4a",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp3",
        ".mp4",
        ".npy",
        ".npz",
        ".o",
        ".odp",
        ".odt",
        ".ogg",
        ".onnx",
        ".otf",
        ".parquet",
        ".pickle",
        ".pkl",
        ".png",
        ".ppt",
        ".psd",
        ".pt",
        ".pyc",
        ".pyd",
        ".rar",
        ".safetensors",
        ".so",
        ".sqlite",
        ".sqlite3",
        ".tar",
        ".tgz",
        ".tif",
        ".tiff",
        ".ttf",
        ".wasm",
        ".wav",
        ".webm",
        ".webp",
        ".whl",
        ".woff",
        ".woff2",
        ".xz",
        ".zip",
        ".zst",
    }
)


def binary_suffix(path: str) -> bool:
    """True if the name alone says that there is no text in it."""
    return PurePosixPath(path).suffix.lower() in _BINARY_SUFFIXES


def decoded(data: bytes, *, declares: bool) -> tuple[str, str] | None:
    """The text without its byte order mark, and the encoding it was in; None if it is binary.

    In this order: a byte order mark; what the document declares (``declares``, for HTML); strict
    UTF-8; UTF-8 with replacements where most of what is not ASCII is UTF-8; Windows-1252. A NUL in
    a text becomes U+FFFD, which keeps the spans.
    """
    if binary(data[:SAMPLE_BYTES]):
        return None
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            text = data.decode("utf-8-sig" if encoding == "utf-8" else encoding, "replace")
            return without_nul(text), encoding
    declared = _declared(data) if declares else None
    if declared is not None:
        return without_nul(data.decode(declared, "replace")), declared
    try:
        return without_nul(data.decode("utf-8")), "utf-8"
    except UnicodeDecodeError:
        pass
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    if sum(1 for char in text if char > "\x7f") - broken >= broken:
        return without_nul(text), "utf-8 with replacements"
    # Its five undefined bytes are control characters in Latin-1, which no text has.
    return without_nul(data.decode("cp1252", "replace")), "windows-1252"


def binary(sample: bytes) -> bool:
    """True if a file that begins like this is no text."""
    if sample.startswith(tuple(mark for mark, _ in _BOMS)):
        return False
    controls = len(sample) - len(sample.translate(None, _CONTROLS))
    if controls * 100 > _CONTROL_PERCENT * max(len(sample), 100):
        return True
    if b"\0" not in sample:
        return False
    # A stray NUL in a text is an accident; beside bytes that are not UTF-8 it is a format.
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return True
    return False


def _declared(data: bytes) -> str | None:
    match = _DECLARED.search(data[:_DECLARED_WITHIN])
    if match is None:
        return None
    return page_encoding(match.group(1).decode("ascii"))


def page_encoding(name: str) -> str | None:
    """Python's name of an encoding that pages are written in; None if this is none."""
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        return None
    return found.name if _OF_PAGES.fullmatch(found.name) else None


def without_nul(text: str) -> str:
    """The text with U+FFFD for each NUL."""
    return text.replace("\0", "\ufffd")
