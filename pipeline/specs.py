"""What a generation is made of: the chunking spec, the model spec and their fingerprints.

A spec holds everything that changes an answer, and nothing that only changes speed (device,
batch size, threads): those are configuration of a worker.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.identity import fingerprint

Distance = Literal["cosine", "dot", "euclid"]
FieldType = Literal["keyword", "integer", "float", "bool", "tenant"]
Provider = Literal["sentence-transformers", "wordllama", "hashing"]


class Spec(BaseModel):
    """A frozen pydantic model with a fingerprint over all of its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def fingerprint(self) -> str:
        """64 bits in hex; equal specs have equal fingerprints on every machine."""
        return fingerprint(self.model_dump(mode="json"))


class ModelSpec(Spec):
    """An embedding model and how it is used: queries and documents of one spec share a space."""

    provider: Provider
    name: str = Field(description="hub id, or the folder's name where the weights came from a folder")
    weights_sha256: str = Field(description="over the model's files; detects a revision that moved under a name")
    tokenizer_sha256: str = Field(description="over the canonical tokenizer definition")
    dimension: Annotated[int, Field(gt=0)]
    max_tokens: Annotated[int, Field(gt=0)] = Field(description="sequence limit, special tokens included")
    document_prompt: str = ""
    query_prompt: str = ""
    normalize: bool = True
    distance: Distance = "cosine"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"


class ChunkingSpec(Spec):
    """How documents are cut. ``algorithm`` counts the changes of our own chunking code."""

    algorithm: Annotated[int, Field(ge=1)] = 1
    max_tokens: Annotated[int, Field(gt=0)] = Field(
        description="most tokens of a chunk's embedded text, special tokens and document prompt excluded"
    )
    target_tokens: Annotated[int, Field(gt=0)] = Field(description="packing stops near this size")
    context: Literal["none", "headings"] = Field(description="whether the heading path is embedded with the text")
    tokenizer_sha256: str


class GenerationSpec(Spec):
    """One materialised view of the log: chunking, model and the fields that can be filtered on."""

    chunking: ChunkingSpec
    model: ModelSpec
    filter_fields: dict[str, FieldType] = Field(default_factory=dict)
    life: Annotated[int, Field(ge=1)] = Field(
        1, description="counts generations of equal specs, so that the names of one that is over are never used again"
    )
    model_at: str = Field("", description="where the weights were when the generation was begun; a hint")

    @property
    def fingerprint(self) -> str:
        """Of what changes an answer: lives and places do not."""
        return fingerprint(self.model_dump(mode="json", exclude={"life", "model_at"}))

    @property
    def id(self) -> str:
        """The generation's name, from its fingerprint and life."""
        return f"g{self.fingerprint[:12]}" + (f"-{self.life}" if self.life > 1 else "")


def differences(old: GenerationSpec, new: GenerationSpec) -> dict[str, list[object]]:
    """The fields that differ, with both values."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    found = {}
    for part in ("model", "chunking", "filter_fields"):
        for name in sorted({*before[part], *after[part]}):
            if before[part].get(name) != after[part].get(name):
                found[f"{part}.{name}"] = [before[part].get(name), after[part].get(name)]
    return found
