"""The language of a text: told where it can be told, and never against what the document says of itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from connectors import languages
from connectors.languages import language_of
from connectors.mapping import mapped, rules_of, with_rules
from connectors.memory import MemorySource
from pipeline.errors import ConfigError
from pipeline.ports import Fetched

TEXTS = {
    "en": "The backup of the database is made every night, and nobody has to be told that it was.",
    "de": "Die Sicherung der Datenbank läuft jede Nacht, und niemand muss davon erfahren.",
    "fr": "La sauvegarde de la base de données est faite chaque nuit, sans que personne ne le remarque.",
    "es": "La copia de seguridad de la base de datos se hace cada noche y nadie tiene que saberlo.",
    "ru": "Резервная копия базы данных создаётся каждую ночь, и никто об этом не должен знать.",
    "ja": "データベースのバックアップは毎晩作成されますので、誰も心配する必要はありません。",
    "zh": "数据库的备份每天晚上都会自动完成，所以没有人需要为此担心或者手动操作。",
    "ar": "يتم إجراء نسخ احتياطي لقاعدة البيانات كل ليلة ولا يحتاج أحد إلى معرفة ذلك",
}
CODE = "```python\nimport os\nfor name in os.listdir(folder):\n    print(name, end='')\n```\n"


@pytest.mark.parametrize("language", TEXTS)
def test_a_language_is_told(language: str) -> None:
    assert language_of(TEXTS[language], "text/plain") == language
    assert language_of(f"# T\n\n{CODE * 20}\n{TEXTS[language]}\n", "text/markdown") == language, "code is in none"


@pytest.mark.parametrize(
    "text",
    [None, "", "hello", "Hund Katze", "1234567890 " * 40, "https://www.example.com/the/very/long/path " * 9, CODE * 9,
     "API REST HTTP JSON XML YAML TOML", "\ud800" * 50, "\0" * 50],
)  # fmt: skip
def test_where_it_cannot_be_told_nothing_is_said(text: str | None) -> None:
    assert language_of(text, "text/markdown") is None


def test_nothing_is_said_of_source_code() -> None:
    assert language_of(TEXTS["en"], "text/x-python") is None
    assert language_of(TEXTS["en"], "application/json") is None


def test_only_the_beginning_is_looked_at() -> None:
    assert language_of((TEXTS["de"] + " ") * 70 + TEXTS["en"] * 5000, "text/plain") == "de"


def _document(text: str, **metadata: str) -> Fetched:
    return Fetched("p", "1", text, "d", "text/markdown", metadata, 0.0, len(text))


def test_what_the_document_says_counts_then_what_is_detected_then_the_default() -> None:
    rules = rules_of("s", {"language": {"detect": True, "default": "xx"}})
    assert mapped(rules, "s", _document(TEXTS["de"], language="en-GB"))[0] == {"language": "en-GB"}
    assert mapped(rules, "s", _document(TEXTS["de"], language=""))[0] == {"language": "de"}
    assert mapped(rules, "s", _document(TEXTS["de"]))[0] == {"language": "de"}
    assert mapped(rules, "s", _document("x"))[0] == {"language": "xx"}
    assert mapped(rules_of("s", {"language": {"detect": True}}), "s", _document("x"))[0] == {}
    other = rules_of("s", {"tongue": {"path": "$.spoken", "detect": True}})
    assert mapped(other, "s", _document(TEXTS["fr"], spoken="it"))[0]["tongue"] == "it"
    assert mapped(other, "s", _document(TEXTS["fr"], language="it"))[0] == {"language": "it", "tongue": "fr"}


def test_another_detector_reads_every_document_again_and_who_does_not_ask_notices_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = MemorySource("s")
    source.put("p", TEXTS["en"])

    def revision(rule: object) -> str:
        (listed,) = with_rules(source, rules_of("s", {"language": rule})).scan()
        return listed.revision

    asking, plain = revision({"detect": True}), revision("$.language")
    assert asking != plain
    monkeypatch.setattr(languages, "_VERSION", 2)
    assert revision({"detect": True}) != asking
    assert revision("$.language") == plain


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        ({"detect": True, "value": "en"}, "needs no detection"),
        ({"detect": True, "type": "list"}, "a text"),
        ({"detect": "yes"}, "detect"),
    ],
)
def test_a_wrong_rule_is_named(rule: object, word: str) -> None:
    with pytest.raises(ConfigError, match=rf"sources\.s\.metadata\.language: .*{word}"):
        rules_of("s", {"language": rule})


def test_without_the_library_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.mapping.installed", lambda: False)
    with pytest.raises(ConfigError, match=r"vectide\[language\]"):
        rules_of("s", {"language": {"detect": True}})


def test_it_is_loaded_only_when_it_is_asked_for() -> None:
    code = """import sys
from connectors.mapping import mapped, rules_of
from pipeline.ports import Fetched
found = mapped(rules_of("s", {"language": "$.language"}), "s", Fetched("p", "1", "a text", "d", "text/plain", {}, 0.0))
rules_of("s", {"language": {"detect": True}})
assert "py3langid" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
