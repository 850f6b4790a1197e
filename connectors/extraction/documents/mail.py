"""E-mail: subject, who wrote to whom, and the text; the names of what is attached."""

from __future__ import annotations

from contextlib import suppress
from email import policy
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.parser import BytesParser
from email.utils import parsedate_to_datetime
from typing import Final

from connectors.extraction.documents.writing import Text, line
from connectors.extraction.formats import Extracted
from connectors.extraction.html import html_to_markdown
from pipeline.errors import Poison
from pipeline.identity import MetadataValue

_SHOWN: Final = 200
_PEOPLE: Final = 100
_PARTS: Final = 1_000
#: Characters of a header.
_HEADER: Final = 64 * 1024


def read(data: bytes, limit: int) -> Extracted:
    """One message. Of two versions of its text the plain one counts.

    Raises:
        Poison: no message, or over the limit.
    """
    message = BytesParser(policy=policy.default).parsebytes(data)
    assert isinstance(message, EmailMessage)  # the policy makes these
    if not message.keys():
        raise Poison("malformed_document", "it is no message: it has no headers")
    subject = _header(message, "Subject")
    text, metadata = Text(limit), _metadata(message, subject)
    text.block(f"# {subject}" if subject else "#")
    for name in ("From", "To", "Cc", "Date"):
        if said := _header(message, name):
            text.add(f"{name}: {said}\n")
    text.add("\n")
    text.block(_body(message))
    if attached := _attached(message):
        text.block("Attachments: " + ", ".join(attached))
        metadata["attachments"] = attached
    return Extracted(text.text(), "text/markdown", metadata)


def _header(message: EmailMessage, name: str) -> str:
    """A header's text. Not as the policy parses it: that takes a second for a thousand recipients."""
    raw = next((str(value) for key, value in message.raw_items() if key.lower() == name.lower()), "")[:_HEADER]
    try:
        return line(str(make_header(decode_header(raw))))
    except (HeaderParseError, LookupError, ValueError):  # an encoding that is none
        return line(raw)


def _metadata(message: EmailMessage, subject: str) -> dict[str, MetadataValue]:
    found: dict[str, MetadataValue] = {}
    if subject:
        found["title"] = subject[:_SHOWN]
    if author := _header(message, "From"):
        found["author"] = author[:_SHOWN]
    people = [one.strip()[:_SHOWN] for name in ("To", "Cc") for one in _header(message, name).split(",")]
    if people := [one for one in people if one][:_PEOPLE]:
        found["recipients"] = people
    with suppress(ValueError, TypeError, IndexError, OverflowError):
        found["created"] = parsedate_to_datetime(_header(message, "Date")).isoformat()
    return found


def _body(message: EmailMessage) -> str:
    part = message.get_body(("plain", "html"))
    if part is None:
        return ""
    try:
        content = part.get_content()
    except (LookupError, ValueError):  # an encoding that is none
        content = (part.get_payload(decode=True) or b"").decode("utf-8", "replace")  # type: ignore[union-attr]
    if not isinstance(content, str):
        return ""
    return html_to_markdown(content, framed=False).text if part.get_content_subtype() == "html" else content


def _attached(message: EmailMessage) -> list[str]:
    found: list[str] = []
    for number, part in enumerate(message.walk()):
        if number >= _PARTS:
            break
        with suppress(Exception):  # the library's parsers of headers trip over broken ones with errors of every kind
            if name := part.get_filename():
                found.append(line(name)[:_SHOWN])
    return found[:_PEOPLE]
