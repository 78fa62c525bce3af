"""One evaluated cell on disk: (suite, zoo, method) as a result file and a sidecar of per-item scores."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, RootModel, ValidationError

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import write_bytes, write_json
from lorafuse_bench.leaderboards import document_hashes, run_ids
from lorafuse_bench.leaderboards.item_checks import check_items
from lorafuse_bench.leaderboards.layout import cell_path as cell_path
from lorafuse_bench.leaderboards.layout import items_path as items_path
from lorafuse_bench.leaderboards.layout import slug as slug
from lorafuse_bench.leaderboards.plausible import check_place, check_plausible
from lorafuse_bench.leaderboards.reading import inflate, parsed, read_bytes

if TYPE_CHECKING:
    from lorafuse_bench.tasks.suites import Suite

RESULT_SCHEMA: Final = "lorafuse.result/2"
READABLE = tuple(run_ids.IDENTITY)
MOST_ITEMS = 10_000_000
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_HASH_BYTES, _METRIC_BYTES = 512, 300  # of one item in a sidecar, with room for another way to write it


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


class RouterId(Strict):
    """One trained router that the method used."""

    name: str = Field(description="Name of the router in the zoo.")
    sha256: Sha256 = Field(description="sha256 of router.safetensors.")
    experts: dict[str, Sha256] = Field(
        description="Experts trained jointly with it: name to sha256; empty when it serves the pool's own."
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


class Dataset(Strict):
    """The rows of one task."""

    hub: str = Field(description="Hub id of the dataset.")
    name: str | None = Field(description="Its configuration; null for the default.")
    revision: str | None = Field(
        default=None, description="Commit of the hub's dataset; null for rows from elsewhere."
    )
    split: str = Field(description="The evaluated split.")


class Metric(Strict):
    """One metric of one task."""

    value: float = Field(description="Value over all items, in `unit`.")
    stderr: float | None = Field(description="Standard error over items; null when not known.")
    stderr_method: Literal["mean", "ratio", "bootstrap"] = Field(
        description="mean: sd/sqrt(n); ratio: delta method of a ratio of sums; bootstrap: sd over resamples."
    )
    measure: str | None = Field(
        default=None,
        description="Name of what its items are: mean, ratio, loss, bleu, mcc, or one of a package's; null in results"
        " of version 1.",
    )
    direction: Literal["up", "down"] = Field(description="up: larger is better; down: a loss.")
    unit: str = Field(description="fraction (0 to 1, a correlation from -1), nats/byte or nats/token.")


class SuiteTask(Strict):
    """What a suite says of one of its tasks."""

    key: str = Field(description="Task key.")
    metric: str = Field(description="The metric that stands for it.")
    direction: Literal["up", "down"] = Field(description="up: larger is better; down: a loss.")
    unit: str = Field(description="Unit of that metric.")
    chance: float | None = Field(default=None, description="What guessing scores; null where nothing does.")


class SuiteRecord(Strict):
    """The suite as it was when the cell was run, so that a board needs no other definition of it."""

    kind: Literal["scored", "loss", "oblivion"] = Field(
        description="scored: over the oracle; loss: all metrics are losses; oblivion: before and after."
    )
    source: str | None = Field(default=None, description="The paper it follows.")
    tasks: tuple[SuiteTask, ...] = Field(description="Its tasks, in order.")

    @classmethod
    def of(cls, suite: Suite) -> SuiteRecord:
        tasks = (
            SuiteTask(key=key, metric=t.metric, direction=t.direction, unit=t.unit, chance=t.chance)
            for key, t in suite.tasks.items()
        )
        return cls(kind=suite.kind, source=suite.source, tasks=tuple(tasks))

    @property
    def keys(self) -> tuple[str, ...]:
        """Its task keys, in order."""
        return tuple(task.key for task in self.tasks)


class Request(Strict):
    """What one of lm-eval's tasks sent to the model, and how answers were taken."""

    output_type: str = Field(description="generate_until, loglikelihood, multiple_choice, ...")
    generation: dict[str, JsonValue] = Field(
        description="Settings of generation: stops, tokens, sampling; empty for likelihoods."
    )
    filters: JsonValue = Field(description="lm-eval's filters between answer and metric; null for none.")
    repeats: int = Field(ge=1, description="How often each prompt was asked.")
    prompts_sha256: Sha256 = Field(
        description="sha256 over the hashes of the prompts as they were sent, in the documents' order: instruction,"
        " examples and chat template included."
    )


class Task(Strict):
    """One task's scores."""

    dataset: Dataset = Field(description="The rows it was measured on.")
    version: str = Field(description="Version of the task's definition, raised when its prompts change.")
    few_shot: int = Field(ge=0, description="Examples in the prompt.")
    n: int = Field(ge=1, le=MOST_ITEMS, description="Items evaluated.")
    n_original: int = Field(ge=1, description="Items the split has.")
    docs_sha256: Sha256 = Field(description="sha256 over the documents' hashes, in order.")
    metrics: dict[str, Metric] = Field(description="Metric name to its value.")
    requests: dict[str, Request] | None = Field(
        default=None,
        description="lm-eval's name of each task that was asked to what it sent; null in results of version 1.",
    )
    representative: str = Field(description="The metric that stands for the task in the ability.")
    empty_share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Share of the written answers that are nothing but white space; null where none are written,"
        " and in results older than this field.",
    )


class Truncation(Strict):
    """How prompts too long for the model were cut."""

    rule: str = Field(description="middle: the beginning and the end of a prompt stay.")
    length: int = Field(ge=1, description="Tokens of prompt and answer at most, as it ran.")
    answers: dict[str, int] = Field(
        default_factory=dict,
        description="Task key to the tokens that its answers were held to, where half of `length` is less than"
        " the task allows.",
    )


class Result(Strict):
    """The result file of one cell. Build it with `Result.of`, which fills in the hashes."""

    schema_: Literal["lorafuse.result/1", "lorafuse.result/2"] = Field(
        default=RESULT_SCHEMA, alias="schema", description="Schema id: which fields the run id counts."
    )
    run_id: Sha256 = Field(description="sha256 of all inputs: the same run again has the same id.")
    suite: str = Field(description="Name of the suite, such as mtl5.")
    definition: SuiteRecord | None = Field(
        default=None, description="The suite as it was run; null in results of version 1."
    )
    method: Method = Field(description="The fusion method.")
    zoo: ZooId = Field(description="The zoo.")
    base: BaseId = Field(description="The base model.")
    experts: tuple[ExpertId, ...] = Field(description="The pool, in order.")
    routers: tuple[RouterId, ...] = Field(description="The trained routers it used, by name.")
    data: Data = Field(description="Where the rows came from.")
    limit: int | None = Field(description="Items per task at most; null for all of them.")
    max_length: int | None = Field(
        default=None, description="Tokens of prompt and answer at most; null for the model's own length."
    )
    truncation: Truncation | None = Field(
        default=None,
        description="How longer prompts were cut; null in results older than this field, which lost their start.",
    )
    num_fewshot: int | None = Field(
        default=None, ge=0, description="Examples asked for in every prompt; null for each task's own number."
    )
    batch_size: int | str = Field(description="As given to lm-eval: a number, or auto.")
    seeds: Seeds = Field(description="Seeds of the evaluation.")
    cost: Cost = Field(description="What it cost.")
    environment: Environment = Field(description="What it ran on.")
    tasks: dict[str, Task] = Field(description="Task key to its scores.")
    items_sha256: Sha256 = Field(description="sha256 of the sidecar of per-item scores, before compression.")

    @classmethod
    def of(cls, items: Items, tasks: dict[str, dict[str, Any]], **fields: Any) -> Result:
        """A result with its hashes, from the items and all other fields; LorafuseError for a bad field."""
        hashed: Any = {
            key: {**task, "docs_sha256": items.root[key].docs_sha256()} for key, task in tasks.items()
        }
        try:
            draft = cls(run_id="0" * 64, items_sha256=items.sha256(), tasks=hashed, **fields)
        except ValidationError as error:
            raise invalid("result", error) from error
        return draft.model_copy(update={"run_id": run_id(draft)})


class TaskItems(Strict):
    """Per-item scores of one task, sorted by doc_id."""

    doc_hashes: tuple[Sha256, ...] = Field(
        description="Hash of each document: what was scored. Empty in a published folder, which keeps those of"
        " all its cells once, in documents/<docs_sha256>.txt.gz, one a line."
    )
    metrics: dict[str, list[float] | list[list[float]]] = Field(
        description="Metric name to one entry per item: a score; or [numerator, denominator], for a ratio of"
        " sums; or the BLEU statistics [sys_len, ref_len, correct 1..4, total 1..4]."
    )

    def docs_sha256(self) -> str:
        """sha256 over the documents' hashes, in order."""
        return document_hashes.docs_sha256(self.doc_hashes)

    def with_hashes(self, hashes: tuple[str, ...]) -> TaskItems:
        """The same scores, of these documents."""
        return TaskItems.model_construct(doc_hashes=hashes, metrics=self.metrics)


class Items(RootModel[dict[str, TaskItems]]):
    """The sidecar of a result: task key to its items."""

    model_config = ConfigDict(frozen=True)

    def content(self) -> bytes:
        """The sidecar's JSON; the same items give the same bytes."""
        return self.model_dump_json().encode()

    def sha256(self) -> str:
        """sha256 of the sidecar's JSON."""
        return hashlib.sha256(self.content()).hexdigest()


def run_id(result: Result) -> str:
    """The id that a result's inputs have: not its scores, cost or environment; see `run_ids`."""
    return run_ids.run_id(result.model_dump(mode="json", by_alias=True))


def write_cell(out: str | Path, result: Result, items: Items, hashes_apart: bool = False) -> Path:
    """Write a finished cell and return the path of its result file.

    The result is written last: where it exists, the cell is whole. `hashes_apart` keeps the documents'
    hashes once for all cells below `out`. LorafuseError when the items do not bear the result out.
    """
    path = cell_path(out, result.suite, result.zoo.name, result.zoo.seed, result.method.label)
    check_plausible(path, result)
    check_items(path, result, items)
    if hashes_apart:
        for held in items.root.values():
            document_hashes.write_hashes(Path(out), held.doc_hashes)
        items = Items.model_construct({key: held.with_hashes(()) for key, held in items.root.items()})
    write_bytes(items_path(path), gzip.compress(items.content(), mtime=0))
    write_json(path, result.model_dump(mode="json", by_alias=True))
    return path


def read_result(path: str | Path) -> Result:
    """Read a result file; LorafuseError naming the file and the field when it is not right."""
    content = read_bytes(Path(path))
    head = parsed(Path(path), content, "Run the cell again.")
    if not isinstance(head, dict) or head.get("schema") not in READABLE:
        said = head.get("schema") if isinstance(head, dict) else type(head).__name__
        raise LorafuseError(
            f"{path}: schema: '{said}' is unknown; this version reads {' and '.join(READABLE)}."
            " Give a folder of result files, or use the version that wrote them."
        )
    try:
        result = Result.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise invalid(path, error) from error
    if result.run_id != run_id(result):
        raise LorafuseError(
            f"{path}: run_id: not the hash of the inputs; the file was altered. Run it again."
        )
    return result


def read_cell(path: str | Path) -> tuple[Result, Items]:
    """Read a result and its items, which must bear it out; LorafuseError naming the file and the field."""
    result = read_result(path)
    check_place(Path(path), result)
    check_plausible(path, result)
    sidecar = items_path(Path(path))
    content = inflate(sidecar, _most_bytes(result), "Run the cell again.")
    try:
        kept = Items.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise invalid(sidecar, error) from error
    items = _with_hashes(Path(path), result, kept)
    check_items(sidecar, result, items)
    found = hashlib.sha256(content).hexdigest() if items is kept else items.sha256()
    if result.items_sha256 != found:
        raise LorafuseError(
            f"{sidecar}: not the items of {path} (items_sha256): one of them was altered. Run the cell again."
        )
    return result, items


def _most_bytes(result: Result) -> int:
    """What the items of a result take at most: a hash, and ten numbers of each metric, for each."""
    rows = sum(task.n * (_HASH_BYTES + len(task.metrics) * _METRIC_BYTES) for task in result.tasks.values())
    return rows + sum(_HASH_BYTES * (1 + len(task.metrics)) for task in result.tasks.values()) + _HASH_BYTES


def _with_hashes(path: Path, result: Result, items: Items) -> Items:
    """The items with the hashes that their folder keeps apart; the very same object where it keeps none."""
    apart = {key for key, held in items.root.items() if key in result.tasks and not held.doc_hashes}
    if not apart:
        return items
    out = path.absolute().parent.parent.parent  # as in `cell_path`
    return Items.model_construct(
        {
            key: held.with_hashes(
                document_hashes.read_hashes(out, result.tasks[key].docs_sha256, result.tasks[key].n)
            )
            if key in apart
            else held
            for key, held in items.root.items()
        }
    )


def invalid(where: str | Path, error: ValidationError) -> LorafuseError:
    """The first problem pydantic found, as one line."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "file"
    return LorafuseError(f"{where}: {field}: {first['msg']}. Correct the field or run the cell again.")
