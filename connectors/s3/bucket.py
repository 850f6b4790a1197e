"""A bucket as it is listed and read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from connectors.s3.client import Body, Broken, Client, Refused, unavailable, unreadable
from pipeline.deadline import Deadline
from pipeline.errors import Poison, SourceUnavailable, VectideError

#: The most that a server gives at once, and so the most that is in memory of a listing.
_PAGE: Final = 1000
#: What must be restored before it can be read.
_ARCHIVES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_PART_BYTES: Final = 1 << 20
#: Of a whole content; well below the minute within which a loop must show that it lives.
_READ_SECONDS: Final = 20.0
#: A server that is busy asks to be left alone; a listing of an hour must not begin anew for that.
_THROTTLED_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = (0.5, 4.0)
#: An object that needs a key of the reader's.
_ENCRYPTED: Final = "InvalidRequest"


@dataclass(frozen=True, slots=True)
class Object:
    """What is known of an object without its content."""

    key: str
    etag: str
    """Another one whenever the content is; of a multipart upload it is no digest of anything."""
    at: int
    """When it was written, in seconds since 1970."""
    size: int
    version: str = ""
    """Empty unless asked for."""
    archived: bool = False
    """It must be restored before it can be read."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An object whose content is on its way; close it."""

    object: Object
    content_type: str
    content_encoding: str
    metadata: Mapping[str, str]
    """The user's own."""
    read: Callable[[int], bytes]
    """At least so many bytes from the beginning; all of them if there are fewer. Called again, from there on."""
    close: Callable[[], None]


class Bucket:
    """Lists and reads; tells what is wrong with one object from what is wrong with all. Used by one thread.

    Args:
        client: of the service.
        name: of the bucket.
        prefix: of the keys that are asked for; rights can be for these alone.
        versions: ask for the versions of objects.
        of_aws: listings can tell what has been restored; other servers refuse to be asked.
    """

    def __init__(self, client: Client, name: str, prefix: str, *, versions: bool, of_aws: bool) -> None:
        self._client = client
        self._name = name
        self._prefix = prefix
        self._versions = versions
        self._more: dict[str, object] = {"OptionalObjectAttributes": ["RestoreStatus"]} if of_aws else {}

    def objects(self) -> Iterator[Object | None]:
        """Every object below the prefix, page by page; None before each page.

        Raises:
            SourceUnavailable: it cannot be listed now.
        """
        operation, rows = ("list_object_versions", "Versions") if self._versions else ("list_objects_v2", "Contents")
        next_: dict[str, str] = {}
        while True:
            page = self._unhurried(operation, MaxKeys=_PAGE, **self._more, **next_)
            yield None
            for row in page.get(rows, ()):
                if row.get("IsLatest", True):
                    yield self._listed(row)
            if not page["IsTruncated"]:
                return
            before, next_ = next_, self._following(page)
            # Else it would be listed for ever.
            if not next_ or next_ == before:
                raise SourceUnavailable(f"{self}: the listing does not say how it goes on")

    def stat(self, key: str) -> Object | None:
        """An object without its content; None if there certainly is none.

        Raises:
            SourceUnavailable, Transient: nothing, or this one, can be read now.
        """
        try:
            answer = self._client.ask("head_object", Bucket=self._name, Key=key)
        except (Refused, Broken) as error:
            if isinstance(error, Refused) and error.status == 404:
                self._check()  # an answer without a body does not say what is missing
                return None
            raise self._blamed(key, error) from None
        return self._answered(key, answer)

    def opened(self, key: str) -> Opened | Object | None:
        """An object and its content; without it if it must be restored first; None if there certainly is none.

        Raises:
            SourceUnavailable, Transient: nothing, or this one, can be read now.
            Poison: this one can never be read.
        """
        try:
            answer = self._client.ask("get_object", Bucket=self._name, Key=key)
        except Refused as error:
            match error.code:
                case "NoSuchKey" | "KeyTooLongError":
                    return None
                case "InvalidObjectState":
                    found = self.stat(key)
                    # If it was restored meanwhile, its revision must not be the one of when it can be read.
                    return None if found is None else replace(found, archived=True)
                case code if code == _ENCRYPTED and "encrypt" in str(error).lower():
                    raise Poison("encrypted", f"{self}: {error}") from None
            raise self._blamed(key, error) from None
        except Broken as error:
            raise self._blamed(key, error) from None
        body = Body(answer["Body"])
        try:
            object_ = self._answered(key, answer)
        except SourceUnavailable:
            body.close()
            raise
        return Opened(
            object_,
            answer.get("ContentType", ""),
            answer.get("ContentEncoding", ""),
            answer.get("Metadata", {}),
            self._reading(key, body),
            body.close,
        )

    def __str__(self) -> str:
        return f"s3://{self._name}"

    # ------------------------------------------------------------------------- answers

    def _unhurried(self, operation: str, **of: object) -> Mapping[str, Any]:
        """A page, however often the server asks to wait for it, for a while."""
        deadline, pause = Deadline.after(_THROTTLED_SECONDS), _PAUSE_SECONDS[0]
        while True:
            try:
                return self._page(operation, **of)
            except SourceUnavailable as error:
                why = error.__cause__
                if not isinstance(why, Refused) or not why.throttled or deadline.expired:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE_SECONDS[1])

    def _page(self, operation: str, **of: object) -> Mapping[str, Any]:
        try:
            page = self._client.ask(operation, Bucket=self._name, Prefix=self._prefix, **of)
        except (Refused, Broken) as error:
            raise unavailable(str(self), error) from error
        # A page of a proxy is XML, too, and says that there is nothing.
        if "Name" not in page or "IsTruncated" not in page:
            raise SourceUnavailable(f"{self}: the answer is no listing of a bucket; check `endpoint_url`")
        return page

    def _following(self, page: Mapping[str, Any]) -> dict[str, str]:
        names = ("KeyMarker", "VersionIdMarker") if self._versions else ("ContinuationToken",)
        return {name: page[f"Next{name}"] for name in names if page.get(f"Next{name}")}

    def _listed(self, row: Mapping[str, Any]) -> Object:
        restored = row.get("RestoreStatus", {}).get("RestoreExpiryDate") is not None
        return Object(
            row["Key"],
            row.get("ETag", "").strip('"'),
            int(row["LastModified"].timestamp()),
            row["Size"],
            row.get("VersionId", "") if self._versions else "",
            row.get("StorageClass") in _ARCHIVES and not restored,
        )

    def _answered(self, key: str, answer: Mapping[str, Any]) -> Object:
        if not answer.keys() >= {"ETag", "LastModified", "ContentLength"}:
            raise SourceUnavailable(f"{self}: the answer is not that of an object; check `endpoint_url`")
        archived = answer.get("StorageClass") in _ARCHIVES or "ArchiveStatus" in answer
        return Object(
            key,
            answer["ETag"].strip('"'),
            int(answer["LastModified"].timestamp()),
            answer["ContentLength"],
            answer.get("VersionId", "null") if self._versions else "",
            archived and 'ongoing-request="false"' not in answer.get("Restore", ""),
        )

    def _check(self) -> None:
        """Ask for the bucket itself.

        Raises:
            SourceUnavailable: it cannot be listed.
        """
        self._page("list_objects_v2", MaxKeys=1)

    def _blamed(self, key: str, error: Refused | Broken) -> VectideError:
        """What is wrong with one object, or with all: a bucket that can be listed tells."""
        if isinstance(error, Refused) and (error.throttled or (error.unauthorised and error.code != "AccessDenied")):
            return unavailable(str(self), error)
        try:
            self._check()
        except SourceUnavailable as all_:
            return all_
        return unreadable(f"{self}/{key}", error)

    def _reading(self, key: str, body: Body) -> Callable[[int], bytes]:
        deadline = Deadline.after(_READ_SECONDS)
        data = bytearray()

        def read(size: int) -> bytes:
            try:
                while len(data) < size and (part := body.read(min(size - len(data), _PART_BYTES))):
                    data.extend(part)
                    if deadline.expired:
                        raise Broken(f"{len(data)} bytes took {_READ_SECONDS:.0f} s")
            except Broken as error:
                raise self._blamed(key, error) from None
            return bytes(data)

        return read
