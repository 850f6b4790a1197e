"""What is shown of settings and texts that hold secrets: nothing of the secret, the rest as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.config import SourceConfig
from pipeline.masking import masked, without_passwords

CANARY = "hunter2"


@pytest.mark.parametrize(
    "key",
    [
        "password", "passwd", "PASSPHRASE", "db_passwords", "pwd", "client_secret", "secret_access_key", "token",
        "github_token", "api_key", "apikey", "API-KEY", "apiKey", "access_key", "accountKey", "private_key",
        "SharedAccessKeys", "credentials", "Authorization", "session_cookie", "bearer_header",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [CANARY, [CANARY], {"user": CANARY}, [{"deep": [CANARY]}]])
def test_what_such_a_key_holds_is_masked_whole(key: str, value: Any) -> None:
    assert CANARY not in json.dumps(masked({"settings": {key: value}}))


def test_a_number_can_be_a_password() -> None:
    assert masked({"password": 123456}) == {"password": "**********"}


@pytest.mark.parametrize(
    "plain",
    [
        {"max_tokens": 256, "target_tokens": 200, "monkey": "x", "key": "x", "partition_key": "x"},
        {"token_file": "/run/secrets/token", "sasl_password_file": "/run/secrets/kafka", "use_password": True},
        {"url": "https://host:6333/path", "author": "ann@example.com", "remote": "ssh://git@host/repo.git"},
        {"password": None, "secret": "", "note": "a = b, 3 tokens = 4"},
    ],
)
def test_what_is_no_secret_is_shown(plain: dict[str, Any]) -> None:
    assert masked(plain) == plain


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"postgres://me:{CANARY}@host/db", "postgres://me:"),
        (f"postgres://me:a/{CANARY}@b@host/db", "@host/db"),
        (f"cannot reach 'amqps://:{CANARY}@host:5671': refused", ": refused"),
        (f"https://{CANARY}@github.com/a/b.git is away", "@github.com/a/b.git is away"),
        (f"host=db user=me password={CANARY} sslmode=require", "sslmode=require"),
        (f"host=db password = 'x {CANARY}' user=me", "user=me"),
        (f"AccountName=n;AccountKey={CANARY}==;Suffix=core", "Suffix=core"),
        (f"GET /v1?a=1&api_key={CANARY}&b=2", "&b=2"),
        (f'PlainLoginModule required username="me" password="{CANARY}";', 'username="me"'),
    ],
)
def test_a_password_inside_a_text_is_masked_and_the_rest_is_kept(text: str, kept: str) -> None:
    shown = without_passwords(text)
    assert CANARY not in shown
    assert kept in shown


@pytest.mark.parametrize("part", ["a-", "a.", "passwor-", "token "])
def test_a_long_text_is_no_burden(part: str) -> None:
    """It is logged and put into letters, and its writer may be anybody: these took hours."""
    assert without_passwords(part * 50_000) == part * 50_000


def test_the_settings_of_a_source_are_not_in_its_repr() -> None:
    source = SourceConfig.model_validate(
        {"connector": "sql", "password": CANARY, "dsn": f"pg://u:{CANARY}@h/d", "nested": {"token": CANARY}}
    )
    assert CANARY not in repr(source)
    assert CANARY not in str({"sources": source})
    assert source.settings["password"] == CANARY
