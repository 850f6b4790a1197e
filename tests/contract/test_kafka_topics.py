"""The kafka connector on a real broker: what its own place cannot show to the certification suite."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from kafka import KafkaProducer
from kafka import codec as kafka_codec
from kafka.admin import NewPartitions

from connectors.certification.rig import Documents, running, wait_until
from connectors.extraction import Extracted
from connectors.extraction.formats import FORMATS
from connectors.kafka import following
from connectors.kafka.index import Put
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.source import KafkaSource
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.cli.main import cli
from pipeline.errors import ConfigError, Poison, SourceUnavailable, Transient
from pipeline.ports import Expired, Fetched, Hint, TopicPartition, without_pauses
from tests.support.shared_kafka import SharedKafka
from tests.support.topics import Topics

pytestmark = pytest.mark.kafka
SECONDS = 30.0


@pytest.fixture(scope="module")
def topics(kafka: SharedKafka) -> Iterator[Topics]:
    with closing(Topics(kafka.bootstrap)) as found:
        yield found


Opened = Callable[..., KafkaSource]


@pytest.fixture
def opened(kafka: SharedKafka, tmp_path: Path) -> Iterator[Opened]:
    """Makes sources, as a restart does: what is in their folder stays."""
    made: list[KafkaSource] = []

    def open_(
        *names: str, format: str = "json", clock: Callable[[], float] = time.time, **settings: Any
    ) -> KafkaSource:
        for one in made:
            one.close()
        table = {"bootstrap_servers": kafka.bootstrap, "topics": list(names), "format": format, **settings}
        made.append(KafkaSource("shop", KafkaSettings.model_validate(table), 1000, tmp_path / "state", clock))
        return made[-1]

    yield open_
    for one in made:
        one.close()


def listed(source: KafkaSource) -> dict[str, str]:
    """Every document's text, without its topic; not of those whose records have expired."""
    found = {}
    for one in without_pauses(source.scan()):
        fetched = source.fetch(one.path)
        if isinstance(fetched, Expired):
            continue
        assert isinstance(fetched, Fetched), f"{one.path} is listed, and fetching it gave {fetched}"
        assert fetched.revision == one.revision
        found[one.path.partition("/")[2]] = fetched.text or fetched.omitted
    return found


def hinted(source: KafkaSource, count: int = 1) -> list[str | None]:
    """The paths of the next hints, without their topics."""
    found: dict[str | None, Hint] = {}
    deadline = time.monotonic() + SECONDS
    while len(found) < count:
        assert time.monotonic() < deadline, f"{list(found)} of {count} hints came"
        found |= {one.path: one for one in source.hints(0.2)}
    return [path if path is None else path.partition("/")[2] for path in found]


def noted(source: KafkaSource) -> str:
    """Where a restart goes on, once all is published that a scan has listed."""
    assert source.hints(0.0) == []
    return source.position()


def envelope(op: str, before: Any = None, after: Any = None) -> Any:
    return {"op": op, "before": before, "after": after, "source": {"ts_ms": round(time.time() * 1000)}}


def row(id: int, title: str) -> dict[str, Any]:
    return {"id": id, "title": title}


def test_a_table_of_debezium_is_followed(topics: Topics, fresh: str, opened: Opened) -> None:
    """Given a snapshot and what follows it, with another key, a message, a delete and a truncation, then each row
    is one document, and nothing else is.
    """
    topic = topics.create(fresh, cleanup="delete")
    snapshot = [({"id": id}, {"schema": {}, "payload": envelope("r", after=row(id, f"T{id}"))}) for id in (1, 2, 3)]
    topics.send(topic, *snapshot, ({"id": 1}, envelope("u", row(1, "T1"), row(1, "T1 again"))), (None, {"ts_ms": 1}))
    source = opened(topic, format="debezium")
    assert listed(source) == {"1": "T1 again", "2": "T2", "3": "T3"}
    topics.send(topic, ({"id": 2}, envelope("d", row(2, "T2"))), ({"id": 2}, None))
    topics.send(topic, ({"id": 9}, envelope("c", after=row(9, "T2"))))
    assert set(hinted(source, 2)) == {"2", "9"}
    assert source.fetch(f"{topic}/2") is None
    assert listed(source) == {"1": "T1 again", "3": "T3", "9": "T2"}
    topics.send(topic, (None, envelope("t")), ({"id": 4}, envelope("c", after=row(4, "T4"))))
    assert set(hinted(source, 2)) == {"", "4"}, "the topic itself, and with it all that is below"
    assert source.fetch(f"{topic}/3") is None
    assert listed(source) == {"4": "T4"}


def test_a_restart_goes_on_where_it_was(topics: Topics, fresh: str, opened: Opened, tmp_path: Path) -> None:
    """Given a source that has read and hinted, when it is started again, then only what is new is hinted; without
    its index, or with other settings, all is compared.
    """
    topic = topics.create(fresh, partitions=2)
    topics.send(topic, ("a", 1), ("b", 1), ("c", 1))
    source = opened(topic)
    assert not source.resume(None)
    list(source.scan())
    first = noted(source)
    topics.send(topic, ("a", 2))
    assert hinted(source) == ["a"]
    later = source.position()
    topics.send(topic, ("b", 2), ("c", None))
    source = opened(topic)
    assert source.resume(first)
    assert not source.caught_up()
    source._following.drop()  # an outage: new connections begin where the index says
    assert set(hinted(source, 3)) == {"a", "b", "c"}
    assert source.caught_up()
    assert source.fetch(f"{topic}/c") is None
    assert listed(source) == {"a": "2", "b": "2"}
    source = opened(topic)
    assert source.resume(later)
    assert set(hinted(source, 2)) == {"b", "c"}
    assert not opened(topic, text="{title}").resume(later), "another template makes other documents"
    source = opened(topic)
    assert not source.resume("of-another@t=0:1")
    source.close()
    for file in (tmp_path / "state").iterdir():
        file.unlink()
    assert not opened(topic).resume(later), "nothing is known without the index"


def test_what_a_scan_has_read_is_hinted_before_a_position_says_so(topics: Topics, fresh: str, opened: Opened) -> None:
    """Given a scan that has read on, when its process is killed before that is published, then it is hinted again."""
    topic = topics.create(fresh)
    topics.send(topic, ("a", 1))
    source = opened(topic)
    source.resume(None)
    list(source.scan())
    before = noted(source)
    topics.send(topic, ("b", 1), ("a", None))
    assert listed(source) == {"b": "1"}
    assert source.position() == before
    assert set(hinted(source, 2)) == {"a", "b"}
    assert source.position() != before
    source.acknowledge(source.position())
    assert listed(source) == {"b": "1"}
    assert source.fetch(f"{topic}/a") is None
    backlog = source.backlog()
    assert backlog is not None
    assert (backlog.amount, backlog.unit) == (0, "records")


def test_a_record_of_another_document_is_not_taken_for_one(topics: Topics, fresh: str, opened: Opened) -> None:
    """Given a place where another document's record lies by now, as when the topic was made again a moment ago."""
    topic = topics.create(fresh)
    topics.send(topic, ("a", 1), ("b", 1))
    source = opened(topic)
    source.resume(None)
    list(source.scan())
    at = TopicPartition(topic, 0)
    source._following.index().apply([Put(f"{topic}/a", at, 1, time.time(), False)], {})
    with pytest.raises(Transient, match="another document's record"):
        source.fetch(f"{topic}/a")


def test_partitions_that_are_added_are_read_from_their_start(
    kafka: SharedKafka, topics: Topics, fresh: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a key whose records go to a new partition, then the later record counts, also after a restart."""
    monkeypatch.setattr(following, "_TOPICS_SECONDS", 0.1)
    topic = topics.create(fresh)
    topics.send(topic, ("a", "one"), ("b", "one"), partition=0)
    source = opened(topic, format="text")
    source.resume(None)
    assert listed(source) == {"a": "one", "b": "one"}
    before = noted(source)
    topics.admin.create_partitions({topic: NewPartitions(2)})
    with closing(Topics(kafka.bootstrap)) as informed:  # of the new partition
        informed.send(topic, ("a", "two"), partition=1)
    assert hinted(source) == ["a"]
    assert listed(source) == {"a": "two", "b": "one"}
    source = opened(topic, format="text")
    assert source.resume(before), "a partition that it does not know is read from its start"
    assert hinted(source) == ["a"]
    assert listed(source) == {"a": "two", "b": "one"}


def test_a_topic_that_was_made_again_is_read_again(
    topics: Topics, fresh: str, opened: Opened, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a topic that is deleted, then nothing counts as deleted; made again, all is compared with it, also where
    it has as many records as before.
    """
    monkeypatch.setattr(following, "_TOPICS_SECONDS", 0.1)
    topic = topics.create(fresh)
    topics.send(topic, ("a", "old"), ("b", "old"))
    source = opened(topic, format="text")
    source.resume(None)
    assert listed(source) == {"a": "old", "b": "old"}
    topics.send(topic, ("c", "old"))
    assert hinted(source) == ["c"]
    before = noted(source)
    topics.delete(topic)
    deadline = time.monotonic() + SECONDS
    refused = ""
    while not refused:
        assert time.monotonic() < deadline
        try:
            source.hints(0.2)
        except SourceUnavailable as error:
            refused = str(error)
    assert "there is no topic" in refused or "ask for offsets" in refused
    with pytest.raises(SourceUnavailable):
        source.fetch(f"{topic}/a")
    topics.create(topic)
    topics.send(topic, ("d", "new"), ("b", "new"), ("c", "new"))  # two of them where they were
    while True:
        try:
            assert hinted(source) == [None]
            break
        except SourceUnavailable:
            assert time.monotonic() < deadline
    assert "made again" in str([one.__dict__.get("why") for one in caplog.records])
    assert listed(source) == {"b": "new", "c": "new", "d": "new"}
    assert source.fetch(f"{topic}/a") is None
    assert not opened(topic, format="text").resume(before)


@pytest.mark.parametrize("expired", ["keep", "delete"])
def test_what_retention_removed_unread_is_said_and_what_is_left_is_read(
    topics: Topics, fresh: str, opened: Opened, caplog: pytest.LogCaptureFixture, expired: str
) -> None:
    """Given a topic that keeps records for a time, when they are removed before they were read, then all is compared
    with what is left: of a document that has no record any more nobody knows whether it was deleted.
    """
    topic = topics.create(fresh, cleanup="delete")
    topics.send(topic, ("a", 1), ("b", 1))
    source = opened(topic, expired=expired)
    source.resume(None)
    assert listed(source) == {"a": "1", "b": "1"}
    before = noted(source)
    source.close()
    last = topics.send(topic, ("c", 1), ("b", None), ("d", 1), ("c", 2))
    topics.trim(topic, last - 1)
    source = opened(topic, expired=expired)
    assert not source.resume(before)
    (why,) = [one.__dict__["why"] for one in caplog.records if one.levelno == logging.WARNING and "why" in one.__dict__]
    assert "removed unread, and deletes among them are not known" in why
    assert listed(source) == {"d": "1", "c": "2"}
    assert source.fetch(f"{topic}/b") == (Expired(f"{topic}/b") if expired == "keep" else None)
    topics.trim(topic, last)  # read, and removed: that is no news
    source._lookup.close()  # what was read ahead
    assert listed(source) == {"c": "2"}
    assert source.fetch(f"{topic}/d") == (Expired(f"{topic}/d") if expired == "keep" else None)
    topics.send(topic, ("c", None))
    assert "c" in hinted(source)
    assert listed(source) == {}
    assert source.fetch(f"{topic}/c") is None, "its delete is known, and is not published yet"


def test_a_truncation_ends_what_has_expired_too(topics: Topics, fresh: str, opened: Opened, tmp_path: Path) -> None:
    """Given documents whose records have expired, when their table is truncated, then they are deleted, also for an
    index that never had them.
    """
    topic = topics.create(fresh, cleanup="delete")
    last = topics.send(
        topic, ({"id": 1}, envelope("c", after=row(1, "T"))), ({"id": 2}, envelope("c", after=row(2, "T")))
    )
    source = opened(topic, format="debezium")
    source.resume(None)
    assert listed(source) == {"1": "T", "2": "T"}
    topics.trim(topic, last)
    source._lookup.close()  # what was read ahead
    assert source.fetch(f"{topic}/1") == Expired(f"{topic}/1")
    topics.send(topic, (None, envelope("t")), ({"id": 3}, envelope("c", after=row(3, "T"))))
    assert set(hinted(source, 2)) == {"", "3"}
    assert source.fetch(f"{topic}/1") is None
    topics.trim(topic, topics.send(topic, ({"id": 4}, envelope("c", after=row(4, "T")))))
    source._lookup.close()
    assert listed(source) == {"4": "T"}
    assert source.fetch(f"{topic}/3") == Expired(f"{topic}/3"), "it came after the truncation"
    topics.send(topic, (None, envelope("t")))
    source.close()
    for file in (tmp_path / "state").iterdir():
        file.unlink()
    source = opened(topic, format="debezium")
    assert listed(source) == {}
    assert source.fetch(f"{topic}/3") is None


def test_records_that_vanish_under_a_reader_are_said_too(
    topics: Topics, fresh: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = topics.create(fresh, cleanup="delete")
    topics.send(topic, ("a", 1))
    source = opened(topic)
    source.resume(None)
    list(source.scan())
    topics.trim(topic, topics.send(topic, ("a", None), ("b", 1), ("c", 1)))
    found = hinted(source)
    if found != [None]:  # the broker had sent them before they were gone
        assert set(found) <= {"a", "b", "c"}
        return
    assert listed(source) == {"c": "1"}


def test_deletes_that_may_have_been_compacted_away_lead_to_another_reading(
    topics: Topics, fresh: str, opened: Opened
) -> None:
    """Given a compacted topic that was not read to its end for longer than it keeps nulls, then the index is made
    anew: a delete could be missing from what follows.
    """
    clock = time.time()
    topic = topics.create(fresh, delete_retention_ms=3_600_000)
    topics.send(topic, ("a", 1), ("b", 1))
    source = opened(topic, clock=lambda: clock)
    source.resume(None)
    list(source.scan())
    before = noted(source)
    clock += 3000
    source = opened(topic, clock=lambda: clock)
    assert source.resume(before)
    assert source.hints(0.3) == []
    clock += 3700
    source = opened(topic, clock=lambda: clock)
    source.resume(before)
    assert hinted(source) == [None]
    assert not source._following.index().complete
    assert listed(source) == {"a": "1", "b": "1"}
    assert source.hints(0.3) == []


def test_only_what_is_committed_is_read(kafka: SharedKafka, topics: Topics, fresh: str, opened: Opened) -> None:
    topic = topics.create(fresh)
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=f"{fresh}.writer")
    producer.init_transactions()
    for key, ends in (("aborted", producer.abort_transaction), ("committed", producer.commit_transaction)):
        producer.begin_transaction()
        producer.send(topic, key=key.encode(), value=b"1")
        producer.flush()
        ends()
    source = opened(topic)
    source.resume(None)
    assert listed(source) == {"committed": "1"}
    producer.begin_transaction()
    producer.send(topic, key=b"open", value=b"1")
    producer.flush()
    assert source.hints(0.5) == []
    assert listed(source) == {"committed": "1"}
    producer.commit_transaction()
    assert hinted(source) == ["open"]
    producer.close()


def test_one_bad_record_harms_no_other(
    topics: Topics, fresh: str, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    """Given values that nobody can read, a record without a key and a text that is too long, then each is said."""
    topic = topics.create(fresh, cleanup="delete")
    topics.send(topic, ("good", "text"), ("bad", b"{half"), ("avro", b"\0\0\0\0\x07x"), (None, 1), (None, 2))
    topics.send(topic, ("long", json.dumps("x" * 2000)), ("last", "text"))
    source = opened(topic)
    paths = [one.path for one in without_pauses(source.scan())]
    assert paths == [f"{topic}/{name}" for name in ("good", "bad", "avro", "long", "last")]
    for name, why in (("bad", "no JSON"), ("avro", "schema registry")):
        with pytest.raises(Poison, match=why):
            source.fetch(f"{topic}/{name}")
    long = source.fetch(f"{topic}/long")
    assert isinstance(long, Fetched)
    assert (long.text, long.omitted) == (None, "2000 bytes, over the limit of 1000")
    said = [(one.getMessage(), one.__dict__.get("records")) for one in caplog.records if one.name.startswith("connect")]
    assert said == [
        ("record is left out; others of its topic are only counted", None),
        ("records were left out", 2),
    ]


def test_every_compression_is_read(kafka: SharedKafka, topics: Topics, fresh: str, opened: Opened) -> None:
    """Batches of a producer in C and, where the topic has a compression of its own, of the broker in Java; each
    unpacks to more than a mebibyte.
    """
    texts = {str(number): f"{number} " * 600 for number in range(500)} | {"last": "the last text"}
    sizes = {"linger.ms": 1000, "batch.size": 4_000_000, "message.max.bytes": 8_000_000}
    for codec in ("gzip", "lz4", "snappy", "zstd"):
        for by in ("producer", codec):
            topic = topics.create(f"{fresh}-{codec}-{by}", compression_type=by, max_message_bytes=8_000_000)
            sent = codec if by == "producer" else "none"
            producer = Producer({"bootstrap.servers": kafka.bootstrap, "compression.type": sent, **sizes})
            for key, text in texts.items():
                producer.produce(topic, key=key, value=text)
            assert producer.flush(SECONDS) == 0
            source = opened(topic, format="text")
            assert len(list(without_pauses(source.scan()))) == len(texts)
            found = source.fetch(f"{topic}/last")
            assert isinstance(found, Fetched)
            assert found.text == texts["last"], (codec, by)


@pytest.mark.parametrize(("codec", "missing"), [("lz4", "lz4"), ("snappy", "snappy"), ("zstd", "zstd")])
def test_a_compression_that_no_library_is_there_for_is_named(
    kafka: SharedKafka,
    topics: Topics,
    fresh: str,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
    codec: str,
    missing: str,
) -> None:
    topic = topics.create(fresh)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "compression.type": codec})
    for number in range(50):
        producer.produce(topic, key=str(number), value=json.dumps({"text": "text " * 100}))
    assert producer.flush(SECONDS) == 0
    monkeypatch.setattr(kafka_codec, missing, None)
    with pytest.raises(SourceUnavailable, match=rf"{codec}.*pip install 'vectide\[kafka-codecs\]'"):
        listed(opened(topic))


def test_html_in_a_record_is_read_and_a_better_extractor_reads_it_again(
    topics: Topics, fresh: str, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = topics.create(fresh)
    topics.send(
        topic,
        ({"id": 1}, {"title": "T", "body": "<h2>H</h2><p>x &amp; <b>böđy</b></p>"}),
        ({"id": 2}, {"title": "T", "body": "<p></p>" * 200}),
        ({"id": 3}, {"title": "T", "body": "<ul><li>x" * 40}),
    )
    settings = {"text": "<title>{title}</title>{body}", "media_type": "text/html"}
    source = opened(topic, **settings)
    texts = listed(source)
    assert texts == {
        "1": "## H\n\nx & böđy\n",
        "2": "1416 bytes, over the limit of 1000",
        "3": "1720 bytes, over the limit of 1000",
    }
    found = source.fetch(f"{topic}/1")
    assert isinstance(found, Fetched)
    extractor = f"html/{FORMATS['.html'].version}"
    assert found.metadata == {"title": "T", "source_media_type": "text/html", "extractor": extractor}
    assert found.media_type == "text/markdown"
    documents = Documents(EmbeddedBroker(tmp_path / "log"))
    with running(opened(topic, **settings), documents, tmp_path / "known"):
        wait_until(lambda: len(documents.texts()) == 3)
    better = replace(
        FORMATS[".html"],
        version=FORMATS[".html"].version + 1,
        extract=lambda text, path: Extracted("better", "text/markdown"),
    )
    monkeypatch.setitem(FORMATS, ".html", better)
    with running(opened(topic, **settings), documents, tmp_path / "known"):
        wait_until(lambda: documents.texts()[f"{topic}/1"] == "better")
    documents.broker.close()


def test_a_documents_topic_of_vectide_is_no_source(topics: Topics, fresh: str, opened: Opened) -> None:
    topic = topics.create(fresh)
    headers = [("vectide-kind", b"changed"), ("vectide-schema", b"1")]
    topics.send(topic, ("a", "x"), headers=headers)
    with pytest.raises(ConfigError, match="vectide's own"):
        list(opened(topic).scan())


def test_what_retention_removed_stays_published(topics: Topics, fresh: str, opened: Opened, tmp_path: Path) -> None:
    """Given a published document whose record expires, and an index that is lost, then the log keeps it, and a
    delete that is read is a delete.
    """
    topic = topics.create(fresh, cleanup="delete")
    last = topics.send(topic, ("old", "text"), ("gone", "text"), ("new", "text"))
    documents = Documents(EmbeddedBroker(tmp_path / "log"))
    with running(opened(topic, format="text"), documents, tmp_path / "known"):
        wait_until(lambda: len(documents.texts()) == 3)
    for file in (tmp_path / "state").iterdir():
        file.unlink()
    topics.trim(topic, last)
    topics.send(topic, ("gone", None))
    with running(opened(topic, format="text"), documents, tmp_path / "known"):
        wait_until(lambda: f"{topic}/gone" not in documents.texts())
        topics.send(topic, ("newer", "text"))
        wait_until(lambda: f"{topic}/newer" in documents.texts())
    assert documents.texts().keys() == {f"{topic}/{name}" for name in ("old", "new", "newer")}
    documents.broker.close()


def test_a_dry_run_says_what_would_be_published(
    kafka: SharedKafka, topics: Topics, fresh: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = topics.create(fresh)
    topics.send(topic, ({"id": 1}, {"title": "One", "team": "ops"}), ({"id": 2}, b"{half"), ({"id": 3}, None))
    config = tmp_path / "vectide.toml"
    config.write_text(
        f"""state = "{tmp_path / "state"}"
[sources.shop]
connector = "kafka"
bootstrap_servers = "{kafka.bootstrap}"
format = "json"
text = "{{title}}"
[sources.shop.topics."{topic}"]
[sources.shop.metadata]
team = "$.value.team"
"""
    )
    ran = CliRunner().invoke(cli, ["connect", "kafka", "--dry-run", "--json", "--config", str(config)])
    assert ran.exit_code == 0, ran.output
    (found,) = json.loads(ran.output)["sources"]
    assert found["events"] == {"created": 2, "changed": 0, "metadata": 0, "deleted": 0}
    assert "no JSON" in found["without_text"]["examples"][0]
    topics.send(topic, ("a", "x"), headers=[("vectide-kind", b"changed"), ("vectide-schema", b"1")])
    ran = CliRunner().invoke(cli, ["connect", "kafka", "--dry-run", "--config", str(config)])
    assert isinstance(ran.exception, ConfigError)
    assert f"topic {topic} holds records of vectide's own" in str(ran.exception)
