"""Whatever a configuration says: settings, or an error that names the place and the remedy, and no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline.config import Config, effective, load
from pipeline.errors import ConfigError
from tests.fuzz.bytes import mutated, nested
from tests.fuzz.settings import FUZZ

SECRET = "hunter2-hunter2"
SOUND = b"""
broker = "kafka"
store = "qdrant"
[pipeline]
partitions = 4
filter_fields = {tenant = "tenant", n = "integer"}
[kafka]
bootstrap_servers = "a:9092,b:9092"
sasl_password = "hunter2-hunter2"
options = {api_version = [2, 3]}
[qdrant]
url = "https://q:6333"
api_key = "hunter2-hunter2"
[embed]
delete_grace_seconds = 1.5
[sources.docs]
connector = "filesystem"
path = "docs"
password = "hunter2-hunter2"
"""


def keys(model: type[BaseModel] = Config, before: str = "VECTIDE_") -> list[str]:
    """Every name of the environment that is a key."""
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += keys(kind, f"{before}{name.upper()}__")
        else:
            found.append(before + name.upper())
    return found


KEYS = keys()
TEXTS = st.one_of(
    st.sampled_from(["", "0", "-1", "1e400", "nan", "inf", "true", "[", "{", "[1]\nb = 2", "{a = {"]),
    st.sampled_from(["[" * 5000, "9" * 5000]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
)


def loaded(path: Path | None, environment: dict[str, str]) -> Config | ConfigError:
    try:
        return load(path, environment)
    except ConfigError as error:
        return error


def check(path: Path | None, environment: dict[str, str], names: set[str], secret: str = SECRET) -> None:
    """Settings that can be shown; or an error that says where, and what to do."""
    found = loaded(path, environment)
    if isinstance(found, Config):
        assert secret not in repr(effective(found))
    else:
        assert found.remedy
        assert any(name in found.what for name in names), found
        assert secret not in str(found)


@given(st.data())
@FUZZ
def test_changed_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    text = data.draw(mutated(SOUND))
    path.write_bytes(text)
    # A key of another name is no secret
    named = all(f"\n{name} = ".encode() in text for name in ("sasl_password", "api_key", "password"))
    check(path, {}, {str(path), "_file: ", "qdrant.api_key"}, SECRET if named else "\0")


@given(st.dictionaries(st.sampled_from(KEYS), TEXTS, min_size=1, max_size=3))
@example({"VECTIDE_PIPELINE__FILTER_FIELDS": "{" + "a = {" * 2000})
@example({"VECTIDE_SOURCES__DOCS__INCLUDE": "[" * 2000})
@FUZZ
def test_any_environment(environment: dict[str, str]) -> None:
    # A path that is no path is named by its key, as it is known in the file
    dotted = {name.removeprefix("VECTIDE_").lower().replace("__", ".") for name in environment}
    check(None, environment, {*environment, *dotted, "the configuration"})


@given(st.lists(st.text("abcKAFZ_09", max_size=8), max_size=4), TEXTS)
@FUZZ
def test_names_that_are_no_keys(parts: list[str], value: str) -> None:
    name = "VECTIDE_" + "__".join(parts)
    if not name.startswith(("VECTIDE_TEST_", "VECTIDE_SIM_", "VECTIDE_CACHE", "VECTIDE_BENCH_", "VECTIDE_CONFIG")):
        check(None, {name: value}, {name, name.upper(), "the configuration"})


@pytest.mark.parametrize(
    "text",
    [
        b"a = " + nested(b"[", b"]"),
        b"a = " + b"{a = " * 100_000,
        b"[" + b"a." * 3_000 + b"a]",
        b"[kafka]\nsasl_password_file = 'a\\u0000b'",
        b'[kafka]\nsasl_password_file = "a\\u0000b"',
        b'[http]\ntoken_file = "/"',
        b'state = "\\u0000"',
        b"[pipeline]\npartitions = " + b"9" * 5000,
        b"[work]\ncommit_seconds = 1e999",
        b"broker = 2024-01-31",
        b"[sources]\nx = 1",
        b"\xef\xbb\xbfbroker = 'kafka'",
    ],
)
def test_files_that_nobody_writes_by_accident(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "vectide.toml"
    path.write_bytes(text)
    check(path, {}, {str(path), "_file: "})


def test_an_error_that_does_not_say_where_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def vague(*arguments: Any) -> ConfigError:
        return ConfigError("something is wrong", "put it right")

    monkeypatch.setattr("pipeline.config._explained", vague)
    with pytest.raises(AssertionError):
        check(None, {"VECTIDE_BROKER": "x"}, {"VECTIDE_BROKER"})
