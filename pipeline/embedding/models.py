"""What a configured model is, without loading it: its files, its spec, its tokenizer. No torch here.

The spec's ``weights_sha256`` covers the files that decide the vectors, so a revision that moved
under its name is another model, and a folder copied elsewhere is the same one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

from pipeline.chunking.tokens import HuggingFaceTokenizer, WordTokenizer
from pipeline.config import Config, ModelConfig
from pipeline.embedding.hashing import HASHING_VERSION
from pipeline.errors import ConfigError, Fatal, FingerprintMismatch
from pipeline.ports import Tokenizer
from pipeline.specs import GenerationSpec, ModelSpec

_HASHING_DIMENSION: Final = 256
_HASHING_TOKENS: Final = 256
_WORDLLAMA_TOKENS: Final = 512
#: Files that decide vectors; READMEs, other frameworks' weights and caches do not.
_WEIGHTS: Final = ("*.safetensors", "pytorch_model*.bin", "*.json", "vocab.txt", "*.model")
#: Hashes of weights that this process has read, by their paths, sizes and times of change.
_HASHED: Final[dict[str, str]] = {}


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model is on this machine."""

    name: str
    """The hub id, or the folder's own name: never a path of this machine."""
    folder: Path
    weights: tuple[Path, ...]
    tokenizer: Path


def resolve(config: ModelConfig) -> ModelFiles:
    """Find a model's files, without a network.

    Raises:
        ConfigError: they are not on this machine; says where they were looked for.
    """
    if config.provider == "wordllama":
        root = _package_folder("wordllama" if not config.name.startswith("package:") else config.name[8:])
        tables = sorted(root.glob("**/l2_supercat_256.safetensors"))
        tokenizers = sorted(root.glob("**/l2_supercat_tokenizer_config.json"))
        if not tables or not tokenizers:
            raise ConfigError(f"model.name = {config.name!r}: no wordllama weights in {root}", "pip install wordllama")
        return ModelFiles("wordllama-l2-supercat-256", root, (tables[0],), tokenizers[0])
    folder = _folder(config)
    try:
        weights = tuple(
            sorted({path for pattern in _WEIGHTS for path in folder.glob(f"**/{pattern}") if path.is_file()})
        )
    except OSError as error:
        raise ConfigError(f"model.name = {config.name!r}: {error}", "give a folder that can be read") from None
    if not any(path.suffix in (".safetensors", ".bin") for path in weights):
        raise ConfigError(
            f"model.name = {config.name!r}: {folder} has no weights", "give a folder with model.safetensors"
        )
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.exists():
        raise ConfigError(
            f"model.name = {config.name!r}: {folder} has no tokenizer.json", "save it with a fast tokenizer"
        )
    name = config.name.removeprefix("package:")
    return ModelFiles(
        Path(name).name if Path(name).is_absolute() or name.startswith(".") else name, folder, weights, tokenizer
    )


def tokenizer_of(config: ModelConfig) -> Tokenizer:
    """The model's tokenizer.

    Raises:
        ConfigError: the model is not on this machine.
    """
    return WordTokenizer() if config.provider == "hashing" else HuggingFaceTokenizer(resolve(config).tokenizer)


def model_spec(config: ModelConfig, tokenizer: Tokenizer) -> ModelSpec:
    """The spec of a configured model, with everything that changes an answer.

    Raises:
        ConfigError: the model is not on this machine, or its files do not say what it is.
        FingerprintMismatch: its weights are not those that ``weights_sha256`` pins.
    """
    if config.provider == "hashing":
        name, weights, dimension, tokens = "hashing", HASHING_VERSION, _HASHING_DIMENSION, _HASHING_TOKENS
        prompts: Mapping[str, str] = {}
    else:
        files = resolve(config)
        name, weights = files.name, weights_sha256(files)
        if config.provider == "wordllama":
            dimension, tokens, prompts = 256, _WORDLLAMA_TOKENS, {}
        else:
            dimension, tokens = _measures(files.folder)
            prompts = _prompts(files.folder / "config_sentence_transformers.json")
    if config.max_tokens is not None and config.max_tokens > tokens and config.provider != "hashing":
        raise ConfigError(
            f"model.max_tokens = {config.max_tokens} is over the {tokens} that {name} was made for",
            "leave it out, or choose a model with a longer context",
        )
    if config.dimension is not None and config.dimension > dimension and config.provider != "hashing":
        raise ConfigError(f"model.dimension = {config.dimension} is over the {dimension} of {name}", "leave it out")
    if config.weights_sha256 not in (None, weights):
        raise FingerprintMismatch(
            f"model.weights_sha256 = {config.weights_sha256}, and the weights of {name} here have {weights}",
            "bring the right weights; or pin these, where the live generation is of them",
        )
    return ModelSpec(
        provider=config.provider,
        name=name,
        weights_sha256=weights,
        tokenizer_sha256=tokenizer.sha256,
        dimension=config.dimension or dimension,
        max_tokens=config.max_tokens or tokens,
        document_prompt=_prompt(config.document_prompt, prompts, "document", "passage"),
        query_prompt=_prompt(config.query_prompt, prompts, "query"),
        normalize=config.normalize,
        distance=config.distance,
        dtype=config.dtype,
    )


def measures(config: ModelConfig) -> tuple[int, int]:
    """Dimension and sequence limit of a sentence-transformers model, by its files; no weights are read.

    Raises:
        ConfigError: it is not on this machine, or its files do not say.
    """
    return _measures(resolve(config).folder)


def located(spec: GenerationSpec, config: Config) -> ModelConfig:
    """How to load a generation's model on this machine: where its weights are, with the configured
    device and threads, and the spec's own prompts, limits and dtype.

    Looks at the configured model, where the weights were when the generation was begun, and at
    ``migrate.models``.

    Raises:
        ConfigError: it is not on this machine.
        FingerprintMismatch: what is there is another model.
    """
    model = spec.model
    errors: list[Fatal] = []
    # The configured name says nothing of a model of another kind, and the hub is not to be asked for it.
    configured = [config.model.name] if config.model.provider == model.provider or not spec.model_at else []
    for name in dict.fromkeys([*configured, *([spec.model_at] if spec.model_at else []), *config.migrate.models]):
        candidate = _as_spec(model, config.model, name)
        try:
            found = model_spec(candidate, tokenizer_of(candidate))
        except ConfigError as error:
            errors.append(error)
            continue
        if found.fingerprint == model.fingerprint:
            return candidate
        theirs, ours = model.model_dump(), found.model_dump()
        differing = {field: (value, ours[field]) for field, value in theirs.items() if ours[field] != value}
        errors.append(
            FingerprintMismatch(
                f"generation {spec.id} was made by another model than {name}: {differing} (there, here)",
                "give this machine the generation's weights (migrate.models says where they are); "
                "a new model needs a migration",
            )
        )
    raise next((error for error in errors if isinstance(error, FingerprintMismatch)), errors[0])


def place_of(config: ModelConfig) -> str:
    """Where a configured model's weights are, as another process can find them."""
    folder = _local(config.name)
    return config.name if folder is None else str(folder.resolve())


def _as_spec(spec: ModelSpec, config: ModelConfig, name: str) -> ModelConfig:
    return config.model_copy(
        update={
            "provider": spec.provider,
            "name": name,
            "revision": config.revision if name == config.name else None,
            "weights_sha256": None,  # the spec's own is compared
            "max_tokens": spec.max_tokens,
            "dimension": spec.dimension,
            "document_prompt": spec.document_prompt,
            "query_prompt": spec.query_prompt,
            "normalize": spec.normalize,
            "distance": spec.distance,
            "dtype": spec.dtype,
        }
    )


def weights_sha256(files: ModelFiles) -> str:
    """A hash over names and contents of the files that decide vectors.

    Hashing gigabytes takes seconds, so the result is remembered by path, size and time of change: in this
    process, and for others where the home can be written.
    """
    stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files.weights]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vectide" / "weights.json"
    key = hashlib.sha256(repr(stamps).encode()).hexdigest()
    if key in _HASHED:
        return _HASHED[key]
    known = _json(cache)
    if isinstance(known.get(key), str):
        return str(known[key])
    digest = hashlib.sha256()
    for path in files.weights:
        digest.update(str(path.relative_to(files.folder)).encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    result = _HASHED[key] = digest.hexdigest()
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({**known, key: result}))
        temporary.replace(cache)
    except OSError:
        pass  # a read-only home only costs each process its own hashing
    return result


def _folder(config: ModelConfig) -> Path:
    if config.name.startswith("package:"):
        return _package_folder(config.name.removeprefix("package:"))
    folder = _local(config.name)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(config.name, revision=config.revision, local_files_only=_offline()))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise ConfigError(
            f"model.name = {config.name!r} is neither a folder nor in the model cache ({type(error).__name__})",
            "give a folder with weights, or download the model once without HF_HUB_OFFLINE",
        ) from None


def _local(name: str) -> Path | None:
    """The folder of this name; None if there is none, and of what cannot be the name of one."""
    try:
        folder = Path(name).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError):  # too long; of a user who is not here
        return None


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes")


def _package_folder(name: str) -> Path:
    package, _, inside = name.partition("/")
    # Finds the folder, and imports nothing of it.
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            f"model.name: package {package!r} is not installed",
            f"pip install {package.replace('_', '-')}, or name another model",
        )
    folder = Path(found.submodule_search_locations[0]) / inside
    if not folder.is_dir():
        raise ConfigError(f"model.name: package {package!r} has no folder {inside!r}", "name a folder that it has")
    return folder


def _measures(folder: Path) -> tuple[int, int]:
    return _dimension(folder), _max_tokens(folder)


def _dimension(folder: Path) -> int:
    dense, pooling = sorted(folder.glob("*_Dense/config.json")), sorted(folder.glob("*_Pooling/config.json"))
    if dense:
        found = _json(dense[-1]).get("out_features")
    elif pooling:
        described = _json(pooling[0])
        found = described.get("word_embedding_dimension") or described.get("embedding_dimension")
    else:
        found = _json(folder / "config.json").get("hidden_size")
    if not _size(found):
        raise ConfigError(f"{folder}: no file says the model's dimension", "is it a sentence-transformers model?")
    return found


def _max_tokens(folder: Path) -> int:
    limits = [
        _json(folder / "sentence_bert_config.json").get("max_seq_length"),
        _json(folder / "tokenizer_config.json").get("model_max_length"),
        _json(folder / "config.json").get("max_position_embeddings"),
    ]
    known = [limit for limit in limits if _size(limit)]
    if not known:
        raise ConfigError(f"{folder}: no file says the model's sequence limit", "set model.max_tokens")
    return known[0]


def _size(value: Any) -> TypeGuard[int]:
    """True for what can be a number of tokens or dimensions: "no limit" is written as one of 30 digits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1_000_000


def _prompts(path: Path) -> dict[str, str]:
    found = _json(path).get("prompts")
    texts = found.items() if isinstance(found, dict) else ()
    return {name: text for name, text in texts if isinstance(text, str)}


def _prompt(configured: str | None, prompts: Mapping[str, str], *names: str) -> str:
    if configured is not None:
        return configured
    return next((prompts[name] for name in names if prompts.get(name)), "")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
