"""The configuration as a user meets it: precedence, mistakes that are named, secrets that stay secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli.main import cli
from pipeline.config import effective, load
from pipeline.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "vectide.toml"


def test_defaults_are_whole() -> None:
    config = load(None, {})
    assert (config.broker, config.store, config.sources) == ("embedded", "embedded", {})


def test_an_override_wins_over_the_environment_and_that_over_the_file(file: Path) -> None:
    file.write_text("[pipeline]\nname = 'file'\npartitions = 3\n[work]\ncommit_seconds = 2\n")
    environment = {"VECTIDE_PIPELINE__NAME": "environment", "VECTIDE_PIPELINE__PARTITIONS": "4"}
    config = load(file, environment, pipeline__name="override", http__port=None)
    assert (config.pipeline.name, config.pipeline.partitions, config.work.commit_seconds) == ("override", 4, 2.0)


def test_lists_and_tables_in_the_environment_are_written_as_in_toml() -> None:
    environment = {
        "VECTIDE_PIPELINE__FILTER_FIELDS": '{tenant = "tenant"}',
        "VECTIDE_SOURCES__DOCS__INCLUDE": '["*.md"]',
        "VECTIDE_SOURCES__DOCS__PATH": "/docs",
    }
    config = load(None, environment)
    assert config.pipeline.filter_fields == {"tenant": "tenant"}
    assert config.sources["docs"].settings == {"include": ["*.md"], "path": "/docs"}


def test_a_password_that_begins_with_a_bracket_is_a_text() -> None:
    config = load(None, {"VECTIDE_HTTP__TOKEN": "[x"})
    assert config.http.token is not None
    assert config.http.token.get_secret_value() == "[x"


def test_names_of_the_environment_that_are_no_keys_are_left_alone() -> None:
    load(None, {"VECTIDE_CONFIG": "x", "VECTIDE_TEST_SEED": "1", "HOME": "/"})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[kafka]\nbootstrap_server = 'x'", "did you mean 'kafka.bootstrap_servers'?"),
        ("brokr = 'kafka'", "did you mean 'broker'?"),
        ("[pipeline]\nzzz = 1", "unknown key 'pipeline.zzz'; see docs/config.md"),
        ("[pipeline]\npartitions = 0", "pipeline.partitions"),
        ("[pipeline]\nepoch = 16", "pipeline.epoch"),
        ("[work]\ncommit_seconds = inf", "work.commit_seconds"),
        ("broker = 'kafka'", 'set store = "qdrant"'),
        ("[pipeline\n", "line 1"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_the_file(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert str(file) in str(caught.value)
    assert told in str(caught.value)


def test_a_mistake_in_the_environment_is_named_with_the_variable() -> None:
    with pytest.raises(ConfigError, match=r"VECTIDE_KAFKA__BOOTSTRAP_SERVER: unknown key .*bootstrap_servers"):
        load(None, {"VECTIDE_KAFKA__BOOTSTRAP_SERVER": "x"})
    with pytest.raises(ConfigError, match="VECTIDE_PIPELINE__FILTER_FIELDS"):
        load(None, {"VECTIDE_PIPELINE__FILTER_FIELDS": "{"})


def test_every_mistake_is_told_at_once(file: Path) -> None:
    file.write_text("brokr = 1\n[http]\nport = 70000\n")
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert "brokr" in str(caught.value)
    assert "http.port" in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_named(file: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(file, {})
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"vectide\.toml"):
        load(file, {})


def test_secrets_come_from_files_and_are_never_shown(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    file.write_text(
        f"[kafka]\nsasl_password_file = '{secret}'\n[qdrant]\napi_key = 'hunter2'\n[http]\ntoken = 'hunter2'\n"
        "[kafka.options]\nssl_password = 'hunter2'\n"
        "[sources.db]\nconnector = 'x'\ndsn = 'postgres://me:hunter2@host/db'\npassword = 'hunter2'\n"
    )
    config = load(file, {})
    assert config.kafka.sasl_password is not None
    assert config.kafka.sasl_password.get_secret_value() == "hunter2"
    assert "hunter2" not in json.dumps(effective(config))
    assert "hunter2" not in repr(config.kafka)


def test_a_secret_in_a_wrong_place_is_not_shown_by_the_error(file: Path) -> None:
    file.write_text("[http]\nport = 'hunter2'\n")
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"])
def test_a_secret_s_file_that_is_missing_empty_or_no_text_is_named(tmp_path: Path, content: bytes | None) -> None:
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    with pytest.raises(ConfigError, match=r"qdrant\.api_key_file"):
        load(None, {"VECTIDE_QDRANT__API_KEY_FILE": str(secret)})


@pytest.mark.parametrize("key", ["QDRANT__API_KEY", "HTTP__TOKEN"])
@pytest.mark.parametrize("secret", ["hunter2\nX: y", "hunter2 x", "hünter2", "", "hunter2\x00"])
def test_a_secret_that_no_header_can_carry_is_refused_without_showing_it(key: str, secret: str) -> None:
    """A client that is given it would say what it was given."""
    with pytest.raises(ConfigError) as caught:
        load(None, {f"VECTIDE_{key}": secret})
    assert key.lower().replace("__", ".") in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_key_of_receipts_comes_from_the_environment_or_a_file_and_is_never_shown(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    for environment in ({"VECTIDE_RECEIPT_KEY": "hunter2"}, {"VECTIDE_RECEIPT_KEY_FILE": str(secret)}):
        config = load(None, environment)
        assert config.receipt_key is not None
        assert config.receipt_key.get_secret_value() == "hunter2"
        assert "hunter2" not in json.dumps(effective(config))
        assert "hunter2" not in repr(config)
    with pytest.raises(ConfigError, match=r"^receipt_key_file: "):
        load(None, {"VECTIDE_RECEIPT_KEY_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[pipeline]\npartitions = 10001", "pipeline.partitions: Input should be less than or equal to 10000"),
        ("[chunking]\nmax_tokens = 100\ntarget_tokens = 200", "chunking: target_tokens = 200 is over max_tokens = 100"),
        ("[retry]\ninitial_seconds = 10\nmaximum_seconds = 1", "retry: initial_seconds = 10 is over"),
        ("sources = 5", "sources: it must be a table"),
        ("[sources]\nnotes = '/srv/notes'", "sources.notes: it must be a table"),
        ("pipeline = 'x'", "pipeline: it must be a table"),
        ("[sources.'']\npath = '/srv'", "a source has no name"),
        ("state = ''", "state: it is empty"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_words_of_the_file(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert told in str(caught.value)
    assert "docs/config.md" in str(caught.value)


def _checked(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["config", "check", *arguments])


def test_a_check_names_the_mistakes_of_all_parts_at_once(file: Path) -> None:
    file.write_text(
        "broker = 'kafka'\nstore = 'qdrant'\n[pipeline]\nname = 'My pipe'\n[kafka]\nsecurity_protocol = 'SASL_SSL'\n"
        "[sources.a]\npaht = '/srv'\n[sources.b]\nconnector = 'filesytem'\n"
    )
    told = _checked("--config", str(file)).exception
    assert isinstance(told, ConfigError)
    for part in ("pipeline.name", "kafka.sasl_mechanism", "sources.a.paht", "sources.a.path", "did you mean 'filesys"):
        assert part in str(told)


def test_a_check_tells_what_is_not_on_this_machine_and_refuses_nothing_of_it(file: Path, tmp_path: Path) -> None:
    (tmp_path / "notes" / "inner").mkdir(parents=True)
    (tmp_path / "plain").touch()
    of = {"a": "notes", "b": "notes/inner", "c": "notes", "d": "plain", "e": "nowhere"}
    paths = {id: f"{tmp_path}/{path}" for id, path in of.items()} | {"f": "~nosuchuser/notes", "g": "/" + "x" * 300}
    file.write_text(
        f"state = '{tmp_path}/plain/state'\n[http]\nhost = '0.0.0.0'\n"
        + "".join(f"[sources.{id}]\npath = '{path}'\n" for id, path in paths.items())
    )
    found = _checked("--config", str(file), "--json")
    assert found.exit_code == 0
    assert json.loads(found.stdout)["sources"]["e"]["path"] == f"{tmp_path}/nowhere"
    lines = [line.replace(str(tmp_path), "").replace(str(Path.cwd()), "") for line in found.stderr.splitlines()]
    told = "http.host = '0.0.0.0' can be reached from other machines, and there is no http.token"
    assert lines == [
        "vectide: state: /plain is not a folder",
        "vectide: sources.b.path: /notes/inner lies inside sources.a, or is the same: it is indexed twice",
        "vectide: sources.b.path: /notes/inner lies inside sources.c, or is the same: it is indexed twice",
        "vectide: sources.c.path: /notes lies inside sources.a, or is the same: it is indexed twice",
        "vectide: sources.d.path: /plain is not a folder on this machine",
        "vectide: sources.e.path: /nowhere is not there on this machine",
        "vectide: sources.f.path: /~nosuchuser/notes is not there on this machine",
        f"vectide: sources.g.path: /{'x' * 300} is not there on this machine",
        f"vectide: `up` and `serve` will refuse: {told}",
    ]


def test_a_state_folder_without_a_name_is_not_the_current_folder() -> None:
    found = CliRunner().invoke(cli, ["status", "--state", ""])
    assert found.exit_code == 2
    assert "name a folder" in found.output
