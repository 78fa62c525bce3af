"""What a cell is made of: method, zoo, base, experts, data, seeds; and what it cost and ran on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Strict(BaseModel):
    """Unknown fields, NaN and inf are refused; values are not changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Method(Strict):
    """The fusion method and everything it was told."""

    name: str = Field(pattern=r"^[ -~]+$", description="Registered name, such as concat.")
    label: str = Field(
        min_length=1, description="Canonical spec, such as concat:scaling=false; the board's row label."
    )
    family: Literal["floor", "reference", "merging", "routing", "ensembling", "adapters"] = Field(
        description="Family of the method."
    )
    options: dict[str, JsonValue] = Field(description="Every option with its value, defaults included.")
    version: str = Field(description="Version of the method, raised when its outputs change.")
    source_sha256: Sha256 = Field(
        description="sha256 of the method's code and of the fusion code it uses; comments do not count."
    )


class ZooId(Strict):
    """The zoo whose experts were fused."""

    name: str = Field(description="Name of the zoo; zoos that share it and differ in seed are replicates.")
    seed: int = Field(ge=0, lt=2**63, description="Seed the zoo was built from.")
    sha256: Sha256 = Field(
        description="sha256 over the zoo's manifest, without places, and all files that are read beside its weights."
    )
    init: Literal["shared", "independent"] = Field(description="LoRA initialisation of the experts.")


class BaseId(Strict):
    """The base model."""

    repo: str = Field(description="Hub id, or folder inside the zoo; never a path of one machine.")
    revision: str | None = Field(description="Hub revision; null for a folder of the zoo.")
    sha256: Sha256 = Field(description="sha256 over the base's weights files.")
    tokenizer_sha256: Sha256 = Field(description="sha256 over the base's tokenizer files.")
    dtype: str = Field(description="Type the weights were evaluated in, such as float32.")


class ExpertId(Strict):
    """One LoRA expert of the pool."""

    name: str = Field(description="Name of the expert.")
    revision: str | None = Field(
        default=None, description="Hub revision it was taken from; null for a file of the zoo."
    )
    sha256: Sha256 = Field(description="sha256 of adapter_model.safetensors.")
    rank: int = Field(ge=1, description="LoRA rank (the largest, where a pattern gives several).")
    alpha: float = Field(gt=0, description="LoRA alpha.")
    targets: tuple[str, ...] = Field(description="Names of the adapted modules.")


class ArtefactId(Strict):
    """One thing learned that the method used: a router, coefficients, an adapter."""

    name: str = Field(description="Its name in the zoo.")
    sha256: Sha256 = Field(description="sha256 of its tensors' file.")
    experts: dict[str, Sha256] = Field(
        description="Experts trained jointly with it: name to sha256; empty when it serves the pool's own."
    )


class Settings(Strict):
    """What was asked of the model beside each task's own definition."""

    system_instruction: str | None = Field(default=None, description="Said before every prompt.")
    chat_template: str | None = Field(
        default=None,
        description="Name of the tokenizer's template that prompts went through, such as default; null for none.",
    )
    fewshot_as_multiturn: bool = Field(
        default=False, description="Whether examples were turns of a conversation in that template."
    )
    generation: dict[str, JsonValue] = Field(
        default_factory=dict, description="Settings of generation that replaced the tasks' own."
    )
    model: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Options of the model that may change what it answers, such as add_bos_token.",
    )


class Seeds(Strict):
    """What chance at evaluation started from; the zoo has its own."""

    python: int = Field(description="Of Python's generator.")
    numpy: int = Field(description="Of numpy's generator.")
    torch: int = Field(description="Of torch's generator.")
    fewshot: int = Field(description="Of the choice of few-shot examples.")


class Data(Strict):
    """Where the evaluated rows came from."""

    source: str = Field(description="hub, mini, or the name of a data folder; a board never mixes sources.")
    splits: dict[str, JsonValue] = Field(description="Which file served which split, per dataset or task.")


class Cost(Strict):
    """What the cell cost; not part of the run id."""

    fuse_seconds: float = Field(ge=0, description="Seconds to fit and fuse, without loading.")
    eval_seconds: float = Field(
        ge=0, description="Seconds to evaluate the suite; in lm-eval's own results, loading included."
    )
    tokens_per_second: float | None = Field(
        default=None,
        ge=0,
        description="Tokens of all requests and answers over eval_seconds; null when not counted.",
    )
    peak_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Most memory in use while fusing and evaluating: of the process, or on an accelerator what"
        " was allocated there; null when not measured.",
    )
    extra_parameters: int = Field(ge=0, description="Parameters kept at inference beyond the base model.")
    route_seconds: float | None = Field(
        default=None,
        ge=0,
        description="Seconds of eval_seconds that went into choosing experts before anything was served; null when"
        " not measured apart.",
    )
    served_seconds_per_1000_tokens: float | None = Field(
        default=None,
        ge=0,
        description="Seconds to generate 1,000 tokens in vLLM's continuous batch, as `lorafuse bench serve` entered"
        " it; null when not measured.",
    )


class Environment(Strict):
    """What it ran on; not part of the run id."""

    versions: dict[str, str] = Field(description="Package name to version.")
    git_commit: str | None = Field(description="Commit of the checkout; null outside one.")
    git_dirty: bool | None = Field(description="Whether the checkout had local changes; null outside one.")
    hardware: str = Field(description="Processor or accelerator, in words.")
