"""The queue of a bucket's notifications: what they say, when a hint is due, and who may read it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from connectors.certification.rig import wait_until
from connectors.s3.queue import Queue, Told, notifications
from connectors.s3.settings import S3Settings
from pipeline.ports import Hint, LogSource, Source, without_pauses
from tests.contract.places import S3QueuePlace


def record(event: str, key: str, bucket: str = "b") -> dict[str, object]:
    return {"eventName": event, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}


def test_notifications_of_all_kinds_are_understood() -> None:
    own = json.dumps({"Records": [record("ObjectCreated:Put", "a+b/%C3%BC%2Bx"), record("ObjectRemoved:Delete", "c")]})
    told = [Told("b", "a b/ü+x", False), Told("b", "c", True)]
    assert list(notifications(own)) == told
    assert list(notifications(json.dumps({"Type": "Notification", "Message": own}))) == told
    bridge = {"source": "aws.s3", "detail-type": "Object Deleted",
              "detail": {"bucket": {"name": "b"}, "object": {"key": "a+b"}}}  # fmt: skip
    assert list(notifications(json.dumps(bridge))) == [Told("b", "a+b", True)]
    assert list(notifications(json.dumps({"Event": "s3:TestEvent", "Bucket": "b"}))) == []


@pytest.mark.parametrize("body", ["", "{", "[]", "7", "null", '{"Records": [{}]}', '{"Message": "x"}', '{"a": 1}'])
def test_what_is_no_notification_says_so(body: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        list(notifications(body))


def noted(*records: tuple[str, str]) -> Queue:
    queue = Queue(S3Settings(bucket="b-1", queue_url="http://127.0.0.1:9/q"))
    for event, key in records:
        queue._note(json.dumps({"Records": [record(event, key, "b-1")]}))
    return queue


def test_a_delete_waits_for_the_create_that_makes_it_a_rename() -> None:
    queue = noted(("ObjectRemoved:Delete", "old"), ("ObjectCreated:Copy", "new"))
    now = time.monotonic()
    assert [hint.path for hint in queue._due(now)] == ["new"]
    assert [hint.path for hint in queue._due(now + 3.0)] == ["old"]
    again = noted(("ObjectRemoved:Delete", "doc"), ("ObjectCreated:Put", "doc"))
    assert [hint.path for hint in again._due(time.monotonic())] == ["doc"]


def test_a_clock_that_is_set_back_holds_no_hint_up(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = noted(("ObjectCreated:Put", "doc"))
    queue._thread = threading.current_thread()  # nothing more is read
    monkeypatch.setattr("connectors.s3.queue.time.time", lambda: 0.0)
    assert [hint.path for hint in queue.taken(0.0)] == ["doc"]


def test_a_flood_of_notifications_becomes_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.s3.queue._KEYS", 3)
    queue = noted(*[("ObjectCreated:Put", str(number)) for number in range(50)])
    assert len(queue._keys) <= 3
    assert [hint.path for hint in queue._due(time.monotonic())] == [None]


def waiting(place: S3QueuePlace) -> tuple[int, int]:
    """Messages that nobody has read, and that somebody has, but not deleted."""
    counts = place.store.client("sqs").get_queue_attributes(QueueUrl=place.queue_url, AttributeNames=["All"])
    names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
    one, other = (int(counts["Attributes"][name]) for name in names)
    return one, other


def test_who_only_lists_leaves_the_queue_to_its_reader(tmp_path: Path) -> None:
    place = S3QueuePlace(tmp_path)
    place.client.put_object(Bucket=place.bucket, Key="outside.txt", Body=b"not of this source")
    place.put("a.txt", "text")
    passing = place.source()
    assert [one.path for one in without_pauses(passing.scan())] == ["a.txt"]
    assert passing.fetch("a.txt") is not None
    assert waiting(place) == (3, 0), "the first one is S3's own, of whether it may write there"
    reader = place.source()
    hints: list[Hint] = []
    while not hints:
        hints = reader.hints(5.0)
    assert [hint.path for hint in hints] == ["a.txt"]
    passing.close()
    reader.close()


def test_a_strange_message_asks_for_a_scan_and_is_not_read_again(tmp_path: Path) -> None:
    place = S3QueuePlace(tmp_path)
    source = place.source()
    list(source.scan())
    place.store.client("sqs").send_message(QueueUrl=place.queue_url, MessageBody="hello")
    hints: list[Hint] = []
    while not hints:
        hints = source.hints(5.0)
    assert [hint.path for hint in hints] == [None]
    assert isinstance(source, LogSource)
    source.acknowledge(source.position())
    wait_until(lambda: waiting(place) == (0, 0), lambda: f"the queue holds {waiting(place)}", 20.0)
    source.close()


def hinted(source: Source, path: str) -> None:
    wait_until(lambda: path in [hint.path for hint in source.hints(0.5)])


def test_a_message_is_deleted_when_it_is_published_and_not_before(tmp_path: Path) -> None:
    place = S3QueuePlace(tmp_path)
    place.put("a.txt", "text")
    source = place.source()
    assert isinstance(source, LogSource)
    assert source.resume(None) is False
    hinted(source, "a.txt")
    a_told = source.position()
    place.put("b.txt", "text")
    hinted(source, "b.txt")
    assert waiting(place)[1] == 3, "with S3's own, which tells nothing"
    source.acknowledge(a_told)
    wait_until(lambda: waiting(place) == (0, 1), lambda: f"the queue holds {waiting(place)}")
    # What is not published goes to the next one, at once.
    source.close()
    after = place.source()
    hinted(after, "b.txt")
    after.close()


def test_what_a_copy_takes_and_does_not_publish_comes_to_its_successor(tmp_path: Path) -> None:
    """Given one that hangs or was killed with a message in hand, then the queue shows that to the next one."""
    place = S3QueuePlace(tmp_path)
    place.store.client("sqs").set_queue_attributes(QueueUrl=place.queue_url, Attributes={"VisibilityTimeout": "1"})
    place.put("a.txt", "text")
    zombie = place.source()
    hinted(zombie, "a.txt")
    after = place.source()
    hinted(after, "a.txt")
    zombie.close()
    after.close()


def message(id: str, handle: str, key: str) -> dict[str, str]:
    body = json.dumps({"Records": [record("ObjectCreated:Put", key, "b-1")]})
    return {"MessageId": id, "ReceiptHandle": handle, "Body": body}


def test_a_message_that_comes_again_is_told_once_and_its_newest_handle_counts() -> None:
    queue = noted()
    queue._thread = threading.current_thread()  # nothing is read
    for handle in ("1", "2"):
        queue._take(message("m", handle, "doc"))
    assert [hint.path for hint in queue.taken(0.0)] == ["doc"]
    queue._take(message("m", "3", "doc"))
    assert queue.taken(0.0) == []
    assert queue._held == {"m": (1, "3")}


def test_a_position_is_before_the_first_message_that_was_not_given() -> None:
    queue = noted()
    queue._thread = threading.current_thread()
    removed = json.dumps({"Records": [record("ObjectRemoved:Delete", "gone", "b-1")]})
    queue._take(message("1", "x", "a"))
    queue._take({"MessageId": "2", "ReceiptHandle": "x", "Body": removed})
    queue._take(message("3", "x", "b"))
    queue._take({"MessageId": "4", "ReceiptHandle": "x", "Body": removed})
    assert [hint.path for hint in queue.taken(0.0)] == ["a", "b"]
    assert queue.given == 1, "a delete waits"
    assert [hint.path for hint in queue.taken(10.0)] == ["gone"]
    assert queue.given == 4
