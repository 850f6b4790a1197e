"""A queue of a bucket's notifications, read by a thread of its own.

A message is deleted once the events of what it told are in the log. Whoever is killed before, or fenced, leaves it
to the next reader: the queue shows it again after its visibility timeout. One that comes again meanwhile is told
once.

S3 says neither in which order nor how often it tells of a change, and neither matters: the object itself is
looked at.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus, urlsplit

from connectors.s3.client import Broken, Client, Refused, unavailable
from connectors.s3.settings import S3Settings
from pipeline.deadline import Deadline
from pipeline.errors import SourceUnavailable, VectideError
from pipeline.ports import Hint

log = logging.getLogger(__name__)

#: Most that a service lets one wait is 20; an answer that takes no longer ends a thread soon.
_WAIT_SECONDS: Final = 10
_MESSAGES: Final = 10
#: The same while messages are to be deleted, which the same thread does.
_HOLDING_SECONDS: Final = 1
#: Messages that are received and not published: further ones are left in the queue.
_HELD: Final = 20_000
#: Of them, at the end; the others are shown again by the queue itself.
_RELEASED: Final = 100
#: A rename is a copy and a delete, told of in any order: the new name goes first, and finds the vectors.
_REMOVED_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = (0.25, 30.0)
#: More keys than this in hand: a scan is asked for, and memory stays bounded.
_KEYS: Final = 20_000
#: Bytes of UTF-8 that a key has at most. Longer ones, or none, the service would refuse again and again.
_KEY_BYTES: Final = 1024
_REGION: Final = re.compile(r"(?:sqs\.|queue\.)?([a-z]{2}(?:-[a-z]+)+-\d)\.(?:queue\.)?amazonaws\.com(?:\.cn)?")


@dataclass(frozen=True, slots=True)
class Told:
    """What a notification says."""

    bucket: str
    key: str
    removed: bool


class Queue:
    """The keys that notifications name; read from the first call of :meth:`taken` on.

    Args:
        settings: of the source; has a ``queue_url``.
    """

    def __init__(self, settings: S3Settings) -> None:
        address = urlsplit(settings.queue_url)
        region = _REGION.fullmatch(address.hostname or "")
        self._client = Client(
            "sqs",
            settings,
            f"{address.scheme}://{address.netloc}",
            region="" if region is None else region.group(1),
            read_seconds=_WAIT_SECONDS,
        )
        self._settings = settings
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._error: VectideError | None = None
        self._keys: dict[str, tuple[float, float, int]] = {}
        """By key, when it was told of, in seconds since 1970, when it is due, on the monotonic clock, and the number of
        the first message that told it.
        """
        self._everything: float | None = None
        self._held: dict[str, tuple[int, str]] = {}
        """By the message's id, its number and its newest handle."""
        self._number = 0
        self._published = 0
        self.given = 0
        """The number up to which :meth:`taken` has returned all that messages told."""

    def taken(self, timeout: float) -> list[Hint]:
        """What was told of since the last call, by key; None for the path if anything may have changed.

        Raises:
            SourceUnavailable: the queue does not answer now.
        """
        deadline = Deadline.after(timeout)
        with self._changed:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="s3-queue", daemon=True)
                self._thread.start()
            while True:
                if self._error is not None and not self._closed:
                    raise self._error
                hints = self._due(time.monotonic())
                if hints or self._closed or deadline.expired:
                    self.given = min((number - 1 for _, _, number in self._keys.values()), default=self._number)
                    return hints
                dues = [due for _, due, _ in self._keys.values()]
                wake = min(dues) - time.monotonic() if dues else deadline.remaining()
                self._changed.wait(max(0.001, min(wake, deadline.remaining())))

    def publish(self, number: int) -> None:
        """All that was given up to there is in the log: its messages can go."""
        with self._changed:
            self._published = max(self._published, number)
            self._changed.notify_all()

    def close(self) -> None:
        """Wake whoever waits; the thread ends with its present question."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # ------------------------------------------------------------------------- the thread

    def _due(self, now: float) -> list[Hint]:
        if self._everything is not None:
            at, self._everything = self._everything, None
            return [Hint(None, at)]
        due = [key for key, (_, due, _) in self._keys.items() if due <= now]
        return [Hint(key, self._keys.pop(key)[0]) for key in due]

    def _run(self) -> None:
        pause = _RETRY_SECONDS[0]
        while not self._closed:
            error: VectideError | None = None
            try:
                self._receive()
                pause = _RETRY_SECONDS[0]
            except VectideError as failure:
                error = failure
            except Exception as failure:  # a bug must not end the reading without a word
                error = SourceUnavailable(f"the queue: {type(failure).__name__}: {failure}")
            with self._changed:
                self._error = error
                self._changed.notify_all()
                if error is not None and not self._closed:
                    self._changed.wait(pause)
                    pause = min(2 * pause, _RETRY_SECONDS[1])
        with suppress(VectideError, Refused, Broken):
            self._forget()
            self._release()
        self._client.close()

    def _receive(self) -> None:
        url = self._settings.queue_url
        try:
            self._forget()
            with self._changed:
                if len(self._held) >= _HELD:
                    self._changed.wait(_HOLDING_SECONDS)
                    return
                wait = _HOLDING_SECONDS if self._held else _WAIT_SECONDS
            answer = self._client.ask(
                "receive_message", QueueUrl=url, MaxNumberOfMessages=_MESSAGES, WaitTimeSeconds=wait
            )
            messages: Sequence[Mapping[str, Any]] = answer.get("Messages", ())
            for message in messages:
                self._take(message)
        except (Refused, Broken) as error:
            raise unavailable(url, error) from None

    def _take(self, message: Mapping[str, Any]) -> None:
        id, handle = str(message["MessageId"]), str(message["ReceiptHandle"])
        with self._changed:  # its number and what it tells are seen together
            known = self._held.get(id)
            if known is not None:
                self._held[id] = (known[0], handle)  # only the newest one counts
                return
            self._number += 1
            self._held[id] = (self._number, handle)
            self._note(message.get("Body", ""))

    def _forget(self) -> None:
        """Delete what is published. One that is not deleted after all comes again."""
        done = [id for id, (number, _) in self._held.items() if number <= self._published]
        for ids in (done[at : at + _MESSAGES] for at in range(0, len(done), _MESSAGES)):
            entries = [{"Id": str(n), "ReceiptHandle": self._held[id][1]} for n, id in enumerate(ids)]
            self._client.ask("delete_message_batch", QueueUrl=self._settings.queue_url, Entries=entries)
            for id in ids:
                del self._held[id]

    def _release(self) -> None:
        """Show what is not published to the next reader at once."""
        held = [handle for _, handle in self._held.values()][:_RELEASED]
        for handles in (held[at : at + _MESSAGES] for at in range(0, len(held), _MESSAGES)):
            entries = [{"Id": str(n), "ReceiptHandle": one, "VisibilityTimeout": 0} for n, one in enumerate(handles)]
            self._client.ask("change_message_visibility_batch", QueueUrl=self._settings.queue_url, Entries=entries)

    def _note(self, body: str) -> None:
        now, clock = time.time(), time.monotonic()
        try:
            told = list(notifications(body))
        except ValueError as error:
            extra = {"queue": self._settings.queue_url, "error": str(error)}
            log.warning("a message of the queue is no notification; everything is listed instead", extra=extra)
            told = None
        with self._changed:
            for one in told or ():
                # An access point has another name than the bucket.
                if one.bucket != self._settings.bucket and not self._settings.bucket.startswith("arn:"):
                    continue
                _, _, number = self._keys.pop(one.key, (now, clock, self._number))
                self._keys[one.key] = (now, clock + _REMOVED_SECONDS if one.removed else clock, number)
            if told is None or len(self._keys) > _KEYS:
                self._keys.clear()
                self._everything = self._everything or now
            self._changed.notify_all()


def notifications(body: str) -> Iterator[Told]:
    """What a message says: S3's own, one that SNS has passed on, or EventBridge's.

    Raises:
        ValueError: it is none of these.
    """
    try:
        said = json.loads(body)
        if "Message" in said and "Records" not in said:
            said = json.loads(said["Message"])
        if said.get("Event") == "s3:TestEvent":
            return
        if said.get("source") == "aws.s3":
            detail = said["detail"]
            removed = said["detail-type"] == "Object Deleted"
            yield Told(detail["bucket"]["name"], _key(detail["object"]["key"]), removed)
            return
        for record in said["Records"]:
            s3, event = record["s3"], str(record["eventName"])
            # As in a form: a space is a plus.
            key = _key(unquote_plus(s3["object"]["key"], errors="strict"))
            yield Told(s3["bucket"]["name"], key, "Created" not in event)
    except (KeyError, TypeError, AttributeError, UnicodeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _key(found: str) -> str:
    if not 0 < len(found.encode()) <= _KEY_BYTES:
        raise ValueError(f"no object has a key of {len(found)} characters")
    return found
