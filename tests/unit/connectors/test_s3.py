"""The s3 connector against a server of the protocol: keys, answers of all kinds, and who is to blame."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from connectors.registry import open_source, source_of
from connectors.s3.bucket import Bucket
from connectors.s3.settings import S3Settings
from connectors.s3.source import S3Source, _inflated
from pipeline.config import SourceConfig
from pipeline.errors import ConfigError, Poison, SourceUnavailable, Transient
from pipeline.identity import content_hash
from pipeline.ports import Fetched, Skipped, without_pauses
from tests.support import files
from tests.support.object_store import KEY_ID, SECRET, ObjectStore, object_store

LIMIT = 64 * 1024
#: Each of them is a name somewhere; `..` is one like any other.
KEYS = ["a.txt", "a/b", "a//b", "/lead", "x/../y.txt", "./z.txt", "..", "x/..", "with space/c%d:e+f.txt", "%2F",
        "sub/ünïcödé 漢字 🌊.txt", "c\x01t\x02.txt", "q?x=1#f&y", "back\\slash", "<&>'\"", "a=b;c"]  # fmt: skip


class Store:
    """A bucket of its own."""

    def __init__(self) -> None:
        self.server: ObjectStore = object_store()
        self.client = self.server.client()
        self.bucket = self.server.bucket()

    def put(self, key: str, body: bytes | str = "text", **of: object) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data, **of)

    def source(self, **settings: object) -> S3Source:
        table = {"bucket": self.bucket, "endpoint_url": self.server.url, "access_key_id": KEY_ID,
                 "secret_access_key": SECRET} | settings  # fmt: skip
        return S3Source("s", S3Settings.model_validate(table), LIMIT)

    def listed(self, **settings: object) -> dict[str, str]:
        source = self.source(**settings)
        listed = [(one.path, one.revision) for one in without_pauses(source.scan())]
        source.close()
        assert len(dict(listed)) == len(listed)
        return dict(listed)

    def fetch(self, path: str, **settings: object) -> Fetched | Skipped | None:
        source = self.source(**settings)
        try:
            return source.fetch(path)
        finally:
            source.close()

    def fetched(self, path: str, **settings: object) -> Fetched:
        found = self.fetch(path, **settings)
        assert isinstance(found, Fetched), found
        return found


@pytest.fixture
def store() -> Any:
    made = Store()
    yield made
    made.server.fault()


# ---------------------------------------------------------------------------- keys, listings


def test_keys_of_any_bytes_are_listed_and_fetched(store: Store) -> None:
    for key in KEYS:
        store.put(key, f"text of {key}")
    assert sorted(store.listed(hidden=True)) == sorted(KEYS)
    source = store.source(hidden=True)
    for key in KEYS:
        found = source.fetch(key)
        assert isinstance(found, Fetched), key
        assert found.text == f"text of {key}"
    assert source.fetch("\udcff") is None
    assert source.fetch("k" * 1025) is None


def test_folders_of_tools_and_what_only_begins_like_the_prefix_are_no_documents(store: Store) -> None:
    for key in ("docs/", "docs/sub/", "docs/a.txt", "docs/b.log", "docs/.hidden", "docs-old/c.txt", "d.txt"):
        store.put(key)
    assert sorted(store.listed(prefix="docs", exclude=["*.log"])) == ["a.txt"]
    assert store.fetch("sub/", prefix="docs") is None
    assert store.fetch("b.log", prefix="docs", exclude=["*.log"]) is None


def test_a_listing_that_takes_longer_than_a_poll_asks_for_no_other(store: Store) -> None:
    """Else a large bucket is listed without a pause."""
    for number in range(3):
        store.put(str(number))
    source = store.source(poll_seconds=0.01)
    listing = without_pauses(source.scan())
    next(listing)
    assert source.hints(0.05) == []
    assert len(list(listing)) == 2
    assert [hint.path for hint in source.hints(5.0)] == [None]
    source.close()


@pytest.mark.parametrize("versions", [False, True])
def test_a_listing_of_many_pages_has_everything_once(store: Store, versions: bool) -> None:
    store.server.put_many(store.bucket, {f"{number:05}": "x" for number in range(2100)})
    before = store.server.requests()
    assert len(store.listed(versions=versions)) == 2100
    assert store.server.requests() - before == 3


class Endless:
    """A client of a bucket of many pages."""

    def __init__(self, pages: int = 20, token: str | None = None) -> None:
        self.pages = pages
        self.token = token

    def ask(self, operation: str, **of: Any) -> Mapping[str, Any]:
        page = int(of.get("ContinuationToken", 0))
        at = datetime.fromtimestamp(1e9, UTC)
        rows = [{"Key": f"{page}/{n}" + "k" * 200, "ETag": f'"{n}"', "LastModified": at, "Size": 1}
                for n in range(1000)]  # fmt: skip
        more = page + 1 < self.pages
        token = (
            {"NextContinuationToken": str(page + 1) if self.token is None or page == 0 else self.token} if more else {}
        )
        return {"Name": "b", "IsTruncated": more, "Contents": rows, **token}


def test_a_huge_listing_is_held_a_page_at_a_time() -> None:
    bucket = Bucket(Endless(), "b", "", versions=False, of_aws=True)  # type: ignore[arg-type]
    tracemalloc.start()
    count = sum(one is not None for one in bucket.objects())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 3_000_000, "20,000 keys take almost 9 MB"


@pytest.mark.parametrize("token", ["", "7"])
def test_a_listing_that_goes_in_circles_is_no_listing(token: str) -> None:
    bucket = Bucket(Endless(token=token), "b", "", versions=False, of_aws=True)  # type: ignore[arg-type]
    with pytest.raises(SourceUnavailable, match="how it goes on"):
        list(bucket.objects())


# ------------------------------------------------------------------------ what an object is


def test_an_etag_of_parts_is_a_revision_and_no_digest(store: Store) -> None:
    store.put("one", "the text")
    upload = store.client.create_multipart_upload(Bucket=store.bucket, Key="parts")["UploadId"]
    part = store.client.upload_part(
        Bucket=store.bucket, Key="parts", UploadId=upload, PartNumber=1, Body=b"the text"
    )["ETag"]  # fmt: skip
    store.client.complete_multipart_upload(
        Bucket=store.bucket, Key="parts", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]}
    )
    one, parts = store.fetched("one"), store.fetched("parts")
    assert one.digest == parts.digest == content_hash("the text")
    assert one.revision.split("-")[0] != parts.revision.split("-")[0]
    assert store.listed() == {"one": one.revision, "parts": parts.revision}


def test_an_object_over_the_limit_is_published_without_its_text(store: Store) -> None:
    store.put("large", "x" * (LIMIT + 1), Metadata={"acl": "staff"})
    store.put("bomb", gzip.compress(b"x" * 5_000_000), ContentEncoding="gzip", Metadata={"acl": "staff"})
    assert len(_inflated(gzip.compress(b"x" * 5_000_000), 100)) == 100
    for path in ("large", "bomb"):
        found = store.fetched(path)
        assert found.text is None
        assert "over the limit" in found.omitted
        assert found.metadata == {"acl": "staff"}, "its old text stays readable, to those who may read it now"
    assert "+" in store.listed()["large"]
    store.server.fault("truncated", of="large")
    assert store.fetched("large").text is None, "it was read"


def test_what_is_compressed_is_read_and_what_is_not_as_it_says_is_poison(store: Store) -> None:
    store.put("sound", gzip.compress(b"one ") + gzip.compress(b"two"), ContentEncoding="gzip")
    store.put("broken", gzip.compress(b"the text" * 100)[:-20], ContentEncoding="gzip")
    store.put("none", b"the text", ContentEncoding="gzip")
    store.put("other", b"the text", ContentEncoding="br")
    store.put("artefact", b"the text", ContentEncoding="aws-chunked")
    assert store.fetched("sound").text == "one two"
    assert store.fetched("artefact").text == "the text"
    for path, why in (("broken", "breaks off"), ("none", "no gzip"), ("other", "'br'")):
        with pytest.raises(Poison, match=why):
            store.fetch(path)


def test_a_content_of_many_compressed_parts_is_read_in_time_and_of_too_many_is_refused() -> None:
    """Of each part that ended, all that followed was copied: 4 MB of empty ones took 37 seconds, 8 MB the connector's
    life, again and again.
    """
    parts = [gzip.compress(b"%d\n" % number) for number in range(3_000)]
    assert _inflated(b"".join(parts), LIMIT) == b"".join(b"%d\n" % number for number in range(3_000))
    assert _inflated(b"".join(parts), 4) == b"0\n1\n"
    empty = gzip.compress(b"")
    with pytest.raises(Poison, match="more than 100000 parts"):
        _inflated(empty * 100_001, LIMIT)


def test_a_pdf_is_read_as_the_filesystem_reads_it(store: Store) -> None:
    store.put("a.pdf", files.pdf([["The first page."], ["The second one."]], title="Pages"))
    store.put("scan.pdf", files.scanned_pdf())
    found = store.fetched("a.pdf")
    assert "The second one." in (found.text or "")
    assert (found.metadata["title"], found.metadata["source_media_type"]) == ("Pages", "application/pdf")
    with pytest.raises(Poison, match="OCR"):
        store.fetch("scan.pdf")


def test_a_content_that_comes_byte_by_byte_is_given_up_in_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a slow line, then the deadline is looked at whenever something arrives, and not when a whole MiB has."""
    store.put("slow.txt", "x" * 100)
    store.server.fault("dribbling", of="slow.txt")
    monkeypatch.setattr("connectors.s3.bucket._READ_SECONDS", 0.2)
    with pytest.raises(Transient, match=r"slow.txt: \d\d? bytes took"):
        store.fetch("slow.txt")


def test_to_get_a_document_and_to_read_it_have_one_deadline(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given one that has come so slowly that no time is left, then reading does not begin another minute: a loop that
    does not beat is restarted.
    """
    store.put("a.pdf", files.pdf([["The first page."]]))
    monkeypatch.setattr("connectors.s3.source.FETCH_SECONDS", 0.0)
    with pytest.raises(Transient, match="not enough time"):
        store.fetch("a.pdf")


def test_a_name_without_a_suffix_is_read_as_its_type_says(store: Store) -> None:
    page = "<html><head><title>T</title></head><body><h1>H</h1></body></html>"
    store.put(
        "page",
        page,
        ContentType="text/html; charset=utf-8",
        Metadata={"team": "docs", "who": "=?utf-8?q?J=C3=BCrgen?="},
    )
    store.put("page.txt", page, ContentType="text/html")
    found = store.fetched("page")
    assert (found.text, found.media_type) == ("# H\n", "text/markdown")
    assert {"title": "T", "team": "docs", "who": "Jürgen"}.items() <= found.metadata.items()
    assert store.fetched("page.txt").text == page


def test_what_is_binary_is_skipped(store: Store) -> None:
    store.put("image.png", "not looked at")
    store.put("binary", bytes(range(256)) * 240)
    assert store.fetch("image.png") == Skipped("image.png", store.listed()["image.png"], "binary")
    store.server.fault("truncated", of="binary")  # its beginning tells, and the rest is not read
    assert store.fetch("binary") == Skipped("binary", store.listed()["binary"], "binary")


def test_what_must_be_restored_is_skipped_until_it_is(store: Store) -> None:
    store.put("old.txt", "the text", StorageClass="DEEP_ARCHIVE")
    store.put("cold.txt", "the text", StorageClass="GLACIER_IR")
    assert store.fetch("old.txt") == Skipped("old.txt", store.listed()["old.txt"], "archived")
    assert store.fetched("cold.txt").text == "the text"
    store.client.restore_object(Bucket=store.bucket, Key="old.txt", RestoreRequest={"Days": 1})
    found = store.fetched("old.txt")
    assert found.text == "the text"
    assert "archived" not in found.revision
    store.server.fault("InvalidObjectState", of="cold.txt", times=1)  # as if it had been restored just now
    skipped = store.fetch("cold.txt")
    assert isinstance(skipped, Skipped)
    assert (skipped.reason, skipped.revision == store.listed()["cold.txt"]) == ("archived", False)


def test_versions_are_told_and_old_ones_are_not_listed(store: Store) -> None:
    store.client.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration={"Status": "Enabled"})
    for text in ("one", "two", "two"):
        store.put("doc", text)
    store.put("gone")
    store.client.delete_object(Bucket=store.bucket, Key="gone")
    found = store.fetched("doc", versions=True)
    assert found.text == "two"
    assert found.metadata["version_id"]
    assert store.listed(versions=True) == {"doc": found.revision}
    assert store.fetch("gone", versions=True) is None
    assert "version_id" not in store.fetched("doc").metadata


# ---------------------------------------------------------------------------- who is to blame


def test_what_vanishes_between_look_and_reading_is_gone(store: Store) -> None:
    store.put("a.txt")
    source = store.source()
    assert [one.path for one in without_pauses(source.scan())] == ["a.txt"]
    store.client.delete_object(Bucket=store.bucket, Key="a.txt")
    assert source.fetch("a.txt") is None
    assert source.fetch("a.png") is None


def test_a_bucket_that_is_gone_deletes_nothing(store: Store) -> None:
    source = store.source(bucket="no-such-bucket")
    for path in ("a.txt", "a.png"):
        with pytest.raises(SourceUnavailable, match=r"NoSuchBucket.*make it"):
            source.fetch(path)
    with pytest.raises(SourceUnavailable, match="NoSuchBucket"):
        list(source.scan())


@pytest.mark.parametrize("fault", ["AccessDenied", "InternalError", "truncated", "down"])
def test_what_is_wrong_with_one_object_is_its_own(store: Store, fault: str) -> None:
    store.put("bad.txt", "the text " * 1000)
    store.put("good.txt")
    store.server.fault(fault, of="bad.txt")
    with pytest.raises(Transient) as caught:
        store.fetch("bad.txt")
    assert not isinstance(caught.value, SourceUnavailable)
    assert "bad.txt" in str(caught.value)
    assert store.fetched("good.txt").text == "text"


@pytest.mark.parametrize("fault", ["AccessDenied", "InternalError", "down", "garbled", "SignatureDoesNotMatch"])
def test_what_is_wrong_with_all_is_waited_out(store: Store, fault: str) -> None:
    store.put("a.txt")
    store.server.fault(fault)
    for path in ("a.txt", "a.png"):
        with pytest.raises(SourceUnavailable) as caught:
            store.fetch(path)
        assert SECRET not in str(caught.value)
    with pytest.raises(SourceUnavailable):
        store.listed()


def test_rights_that_are_for_a_prefix_alone_are_enough(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("docs/bad.txt")
    source = store.source(prefix="docs")
    asked: list[object] = []
    ask = source._client.ask

    def noted(operation: str, **of: object) -> Mapping[str, Any]:
        asked.append((operation, of.get("Prefix")))
        return ask(operation, **of)

    monkeypatch.setattr(source._client, "ask", noted)
    store.server.fault("AccessDenied", of="bad.txt")
    with pytest.raises(Transient):
        source.fetch("bad.txt")
    assert asked == [("get_object", None), ("list_objects_v2", "docs/")]


def test_being_throttled_is_waited_out(store: Store) -> None:
    store.put("a.txt")
    store.server.fault("SlowDown", times=6)
    assert list(store.listed()) == ["a.txt"]
    store.server.fault("SlowDown", of="a.txt")  # the bucket itself can be listed
    with pytest.raises(SourceUnavailable, match="SlowDown"):
        store.fetch("a.txt")


def test_a_secret_is_read_again_when_it_is_refused(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    store.put("a.txt")
    source = store.source(secret_access_key=None, secret_access_key_file=str(file))
    store.server.fault("SignatureDoesNotMatch", times=1)
    with pytest.raises(SourceUnavailable):
        list(source.scan())
    file.unlink()
    with pytest.raises(SourceUnavailable, match="secret_access_key_file"):
        list(source.scan())
    file.write_text(SECRET)
    assert len(list(without_pauses(source.scan()))) == 1
    source.close()


# ------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, ["sources.s.bucket", "Field required"]),
        ({"bucket": "a/b"}, ["sources.s.bucket", "no name of a bucket"]),
        ({"bucket": "bbb", "endpoint_url": "minio:9000"}, ["sources.s.endpoint_url", "http://host:port"]),
        ({"bucket": "bbb", "endpoint_url": "http://u:hunter2@h"}, ["sources.s.endpoint_url", "no password"]),
        ({"bucket": "bbb", "access_key_id": "A"}, ["belong together"]),
        ({"bucket": "bbb", "secret_access_key": "hunter2"}, ["belong together"]),
        ({"bucket": "bbb", "anonymous": True, "profile": "p"}, ["exclude each other"]),
        ({"bucket": "bbb", "access_key_id": "A", "secret_access_key_file": "/absent"}, ["_key_file: ", "absent"]),
        ({"bucket": "bbb", "prefx": "a"}, ["'sources.s.prefx'", "did you mean 'prefix'?"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(settings: dict[str, object], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        open_source("s", SourceConfig.model_validate({"connector": "s3", **settings}), LIMIT)
    for part in expected:
        assert part in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_uri_says_the_same() -> None:
    config = source_of("s3://bucket/a%20b/c#region=eu-west-1&endpoint_url=http://minio:9000&anonymous=true")
    assert config.connector == "s3"
    settings = S3Settings.model_validate(config.settings)
    assert (settings.bucket, settings.prefix, settings.region) == ("bucket", "a%20b/c/", "eu-west-1")
    assert (settings.endpoint_url, settings.anonymous) == ("http://minio:9000", True)
    for uri in ("s3://", "s3:///x", "s3://bucket#zone=1"):
        with pytest.raises(ConfigError):
            source_of(uri)


def test_every_setting_is_documented_with_its_default() -> None:
    text = (Path(__file__).parents[3] / "docs" / "connectors.md").read_text()
    section = text[text.index("## s3") :]
    rows = {row.split("`")[1]: row for row in section.splitlines() if row.startswith("| `")}
    for name, field in S3Settings.model_fields.items():
        assert name in rows, name
        if isinstance(field.default, bool | float):
            assert f"`{json.dumps(field.default).removesuffix('.0')}`" in rows[name], name
