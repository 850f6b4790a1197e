"""What goes wrong, as problem details (RFC 9457): one type for each cause, and what the sender should do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_URN: Final = "urn:vectide:problem:"

#: Type, status and title. What a sender decides by is the type.
TYPES: Final[Mapping[str, tuple[int, str]]] = {
    "invalid-request": (400, "The request cannot be read"),
    "unauthorised": (401, "There is no token, or not a known one"),
    "forbidden": (403, "The token may not do this"),
    "foreign-page": (403, "A web page may not ask this"),
    "no-such-page": (404, "There is no such page"),
    "not-found": (404, "There is no such document"),
    "method-not-allowed": (405, "This cannot be done here"),
    "timeout": (408, "The request did not come in time"),
    "stale-revision": (409, "A newer revision is known"),
    "revision-taken": (409, "This revision is known with another content"),
    "patch-impossible": (409, "The document cannot be patched"),
    "forgotten": (410, "The document was forgotten"),
    "precondition-failed": (412, "The document is not as the request wants it"),
    "too-large": (413, "The request is too large"),
    "unsupported-media-type": (415, "This kind of document cannot be read"),
    "invalid-document": (422, "The document or its metadata cannot be accepted"),
    "idempotency-key-reused": (422, "The idempotency key came with another request"),
    "too-many-requests": (429, "Wait, then try again"),
    "internal-error": (500, "A defect of vectide"),
    "unavailable": (503, "The log cannot be written now"),
}


class Problem(Exception):
    """Why a request is not done.

    Args:
        type_: of :data:`TYPES`.
        detail: for a person; names the field.
        retry_after: seconds after which it may be tried again.
        headers: of the answer.
        also: further members.
    """

    def __init__(
        self,
        type_: str,
        detail: str = "",
        *,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        also: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{type_}: {detail}")
        self.type = type_
        self.status, self.title = TYPES[type_]
        self.detail = detail
        self.headers = dict(headers or {})
        self.also = dict(also or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, round(retry_after)))

    def body(self) -> dict[str, Any]:
        """Members of the problem."""
        said: dict[str, Any] = {"type": _URN + self.type, "title": self.title, "status": self.status}
        if self.detail:
            said["detail"] = self.detail
        return said | self.also
