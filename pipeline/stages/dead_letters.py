"""The dead-letters topic: what failed for good, why, and with itself; replayed without undoing.

A letter's key names generation, stage and origin, so burying it twice leaves one letter, and a
null under its key says that it is resolved.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

from pipeline.broker.reading import to_the_end
from pipeline.codec import (
    decode_chunked,
    decode_dead_letter,
    decode_event,
    encode_chunked,
    encode_dead_letter,
)
from pipeline.deadline import Deadline
from pipeline.errors import Fatal, MalformedRecord, Poison
from pipeline.identity import DocumentKey
from pipeline.masking import without_passwords
from pipeline.naming import Names
from pipeline.ports import Broker, NewRecord, Publisher, Record
from pipeline.records import ChunkedDocument, DeadLetter, DocumentEvent, Origin, Stage

log = logging.getLogger(__name__)

#: Kept of a cause: enough for a person, bounded for the topic.
DETAIL_CHARACTERS = 2_000
_SECONDS = 30.0
#: Each letter holds a whole record.
_PAGE = 100
_PART_BYTES = 4 * 1024 * 1024


def letter_of(record: Record, generation: str, stage: Stage, version: int, cause: Poison, attempts: int) -> DeadLetter:
    """The dead letter of a record that failed."""
    return DeadLetter(
        generation=generation,
        stage=stage,
        origin=Origin(record.topic, record.partition, record.offset),
        version=version,
        reason=cause.reason,
        detail=_shown(cause.detail),
        attempts=attempts,
        failed_at=time.time(),
        record_key=record.key,
        record_value=record.value,
        record_headers=record.headers,
    )


def _shown(detail: str) -> str:
    """A cause, bounded. It may quote what was wrong: a lone surrogate must not keep the letter from being written."""
    # Not cut to its length at once: half an address with a password is no address any more.
    text = without_passwords(detail[: 2 * DETAIL_CHARACTERS])[:DETAIL_CHARACTERS]
    return text.encode("utf-8", "backslashreplace").decode()


def bury(publisher: Publisher, names: Names, letters: Sequence[DeadLetter]) -> None:
    """Write dead letters, many at once; durable on return, so that the offset may be committed.

    A record too large to be kept is buried without its value and headers: its origin still names it.

    Raises:
        BrokerUnavailable: no answer; do not commit.
    """
    for some in _parted(letters):
        _publish(publisher, names, some)
    if letters:
        # One line for a batch: a poisoned stretch of the log must not flood the logs as well.
        first = letters[0]
        fields = {"count": len(letters), "id": first.id, "reason": first.reason, "detail": first.detail}
        log.warning("dead letters", extra=fields)


def standing(broker: Broker, names: Names) -> dict[str, DeadLetter]:
    """All unresolved dead letters by id, with their records: as large as those are.

    Raises:
        BrokerUnavailable: no answer.
    """
    letters: dict[str, DeadLetter] = {}
    for id, letter in _letters(broker, names):
        if letter is None:
            letters.pop(id, None)
        else:
            letters[id] = letter
    return letters


def count(broker: Broker, names: Names) -> int:
    """How many dead letters are unresolved; their records are not kept in memory.

    Raises:
        BrokerUnavailable: no answer.
    """
    ids: set[str] = set()
    for id, letter in _letters(broker, names):
        (ids.discard if letter is None else ids.add)(id)
    return len(ids)


def resolve(publisher: Publisher, names: Names, ids: list[str]) -> None:
    """Write the nulls that end these letters."""
    if ids:
        records = [NewRecord(names.dead_letters, id.encode(), None) for id in ids]
        publisher.publish(records, Deadline.after(_SECONDS))


def replay(
    publisher: Publisher,
    names: Names,
    letter: DeadLetter,
    chunkers: Mapping[str, Callable[[DocumentEvent, int], ChunkedDocument]],
) -> None:
    """Run the failed stage again at the record's own version, then resolve the letter.

    It never goes through the documents topic: a later edit keeps its higher version and wins.

    Args:
        publisher: for the chunks topic.
        names: of the pipeline.
        letter: what to replay.
        chunkers: by generation, what makes a chunked document of an event at a version.

    Raises:
        Fatal: the letter lacks its record, or its generation is not followed any more.
        Poison: it fails again in the same way; the letter stays.
    """
    record = _original(letter)
    if letter.stage == "embed":
        document = dataclasses.replace(decode_chunked(record), replay=True)
    else:
        if letter.generation not in chunkers:
            raise Fatal(f"dead letter {letter.id} is of generation {letter.generation}, which is gone", "drop it")
        event = decode_event(record)
        if event is None:
            resolve(publisher, names, [letter.id])
            return
        chunked = chunkers[letter.generation](event, letter.version)
        document = dataclasses.replace(chunked, replay=True)
    # The partition of the origin, so that it is read in order with the document's other versions.
    again = NewRecord(names.chunks(letter.generation), *encode_chunked(document), letter.origin.partition)
    publisher.publish([again], Deadline.after(_SECONDS))
    resolve(publisher, names, [letter.id])


def describe(letter: DeadLetter) -> dict[str, object]:
    """A letter without its record, for JSON and tables."""
    try:
        key = DocumentKey.from_bytes(letter.record_key or b"").text
    except Poison:
        key = ""
    return {
        "id": letter.id,
        "key": key,
        "generation": letter.generation,
        "stage": letter.stage,
        "topic": letter.origin.topic,
        "partition": letter.origin.partition,
        "offset": letter.origin.offset,
        "version": letter.version,
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": letter.attempts,
        "failed_at": letter.failed_at,
        "record_bytes": len(letter.record_value or b""),
    }


def _parted(letters: Sequence[DeadLetter]) -> Iterator[list[DeadLetter]]:
    """In parts that a publisher can hold: each letter has a whole record in it."""
    part: list[DeadLetter] = []
    size = 0
    for letter in letters:
        part.append(letter)
        size += len(letter.record_value or b"")
        if size >= _PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _publish(publisher: Publisher, names: Names, letters: Sequence[DeadLetter]) -> None:
    """All at once, for each wait is for a disk or for replicas; halved down to the one that is too large."""
    try:
        publisher.publish([_record(names, letter) for letter in letters], Deadline.after(_SECONDS))
    except Poison:
        if len(letters) == 1 and letters[0].record_value is None:
            raise
        if len(letters) == 1:
            bare = dataclasses.replace(letters[0], record_value=None, record_headers=())
            _publish(publisher, names, [bare])
            return
        middle = len(letters) // 2
        _publish(publisher, names, letters[:middle])
        _publish(publisher, names, letters[middle:])


def _record(names: Names, letter: DeadLetter) -> NewRecord:
    return NewRecord(names.dead_letters, *encode_dead_letter(letter))


def _original(letter: DeadLetter) -> Record:
    if letter.record_value is None:
        raise Fatal(
            f"dead letter {letter.id} was buried without its record, which was too large",
            "publish the document again, then drop the letter",
        )
    where = letter.origin
    return Record(
        where.topic, where.partition, where.offset, letter.record_key, letter.record_value, letter.record_headers
    )


def _letters(broker: Broker, names: Names) -> Iterator[tuple[str, DeadLetter | None]]:
    """Ids in the log's order with their letters; None: resolved."""
    topic = names.dead_letters
    for record in chain.from_iterable(to_the_end(broker.reader(topic), topic, _PAGE, _SECONDS)):
        try:
            letter = decode_dead_letter(record)
        except MalformedRecord as error:
            # Not ours: one foreign record must not hide all letters.
            log.warning("not a dead letter", extra={"error": str(error)})
            continue
        yield (record.key or b"").decode(errors="replace") if letter is None else letter.id, letter
