"""TLS and an API key to Qdrant: whom vectide talks to, and what it says about the others."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from pipeline.config import load
from pipeline.errors import ConfigError, Fatal, StoreUnavailable
from pipeline.ports import Store
from pipeline.store.qdrant import QdrantSettings, QdrantStore
from tests.contract.store_points import SPEC, head, stamp
from tests.support.certificates import Authority, Missing
from tests.support.stores import loopback

KEY = "the-right-key-hunter2"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    try:
        return Authority(tmp_path_factory.mktemp("tls"))
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def url(authority: Authority, tmp_path: Path) -> Iterator[str]:
    with loopback(tmp_path, authority.sign("qdrant", ["IP:127.0.0.1"]), api_key=KEY) as url, warnings.catch_warnings():
        yield url
        # Of a refused handshake the client leaves its socket to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


CALLS: dict[str, Callable[[Store], object]] = {
    "check": lambda store: store.check(),
    "names": lambda store: store.names(""),
    "create": lambda store: store.create(SPEC),
}


def test_the_right_authority_and_the_right_key_are_let_in(url: str, authority: Authority) -> None:
    store = QdrantStore(QdrantSettings(url, KEY, ca_file=str(authority.certificate)))
    store.check()
    store.create(SPEC).insert_heads([head("d", stamp(1))])
    assert store.open(SPEC.name).count_heads() == {"complete": 1}
    store.close()


@pytest.mark.parametrize("known", [True, False])
def test_another_authority_than_the_one_that_signed_is_refused(url: str, tmp_path: Path, known: bool) -> None:
    """Given a server whose certificate nobody here knows, then it gets nothing, the key least of all."""
    authority = str(Authority(tmp_path / "foreign").certificate) if known else None
    store = QdrantStore(QdrantSettings(url, KEY, ca_file=authority))
    with pytest.raises(ConfigError, match=r"certificate is refused(.|\n)*qdrant\.ca_file"):
        store.check()
    for call in (CALLS["names"], CALLS["create"]):
        with pytest.raises(StoreUnavailable, match="certificate is refused"):
            call(store)
    store.close()


def test_a_server_of_another_name_is_refused(url: str, authority: Authority) -> None:
    store = QdrantStore(QdrantSettings(url.replace("127.0.0.1", "localhost"), KEY, ca_file=str(authority.certificate)))
    with pytest.raises(ConfigError, match="not valid for 'localhost'"):
        store.check()
    store.close()


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
@pytest.mark.parametrize("key", ["another-key-hunter2", None])
def test_a_wrong_key_is_refused_and_not_shown(
    url: str, authority: Authority, call: Callable[[Store], object], key: str | None
) -> None:
    store = QdrantStore(QdrantSettings(url, key, ca_file=str(authority.certificate)))
    with pytest.raises(Fatal, match=r"qdrant\.api_key") as caught:
        call(store)
    assert "hunter2" not in str(caught.value)
    store.close()


def test_grpc_trusts_the_same_authority(authority: Authority, tmp_path: Path) -> None:
    """Given a server that answers every call over gRPC with `not implemented`, then who trusts it hears that."""
    signed = authority.sign("grpc", ["IP:127.0.0.1"])
    server = grpc.server(ThreadPoolExecutor(1))
    pair = (signed.key.read_bytes(), signed.certificate.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    foreign = Authority(tmp_path)
    try:
        for trusted, answer in ((authority, Fatal), (foreign, StoreUnavailable)):
            settings = QdrantSettings(
                "https://127.0.0.1:1",
                KEY,
                grpc=True,
                grpc_port=port,
                ca_file=str(trusted.certificate),
                timeout_seconds=2,
            )
            store = QdrantStore(settings)
            with pytest.raises(answer) as caught:
                store.names("")
            assert KEY not in str(caught.value)
            store.close()
    finally:
        server.stop(None).wait(10)


def test_a_key_is_not_in_the_settings_repr() -> None:
    assert "hunter2" not in repr(QdrantSettings("http://x", KEY))


def test_files_of_authorities_are_looked_at_at_once_and_named(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("hunter2")
    for file in (tmp_path / "nothing.pem", junk):
        with pytest.raises(ConfigError, match=r"qdrant\.ca_file") as caught:
            QdrantStore(QdrantSettings("https://127.0.0.1:1", ca_file=str(file)))
        assert str(file) in str(caught.value)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["https://me:hunter2@host", "https://hunter2@host:6333", "host:6333", "ftp://host", "https://h?key=hunter2", ""],
)
def test_an_address_that_is_none_or_holds_a_key_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="VECTIDE_QDRANT__URL") as caught:
        load(None, {"VECTIDE_QDRANT__URL": url})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:6333", "https://q.example", "https://[::1]:6333", "https://h/a/b-1"])
def test_an_address_is_a_url(url: str) -> None:
    assert load(None, {"VECTIDE_QDRANT__URL": url}).qdrant.url == url
