"""What `lorafuse plan` counts on shapes is what a model that fits here takes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from lorafuse_bench.base_model import Base
from lorafuse_bench.bench.models import Shape, random_model, random_zoo
from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.adapters.trained import TrainedAdapter, initialise
from lorafuse_bench.fusion.base import FusionMethod, Merge
from lorafuse_bench.layers import Selection, install
from lorafuse_bench.memory import Alive
from lorafuse_bench.merge_sizes import merged_unfitted, random_pool, rank_of_merge
from lorafuse_bench.planning import Experts, Work, memory_of, of_cell
from lorafuse_bench.zoo.manifest import Zoo

SHAPE = Shape(hidden_size=128, layers=2, vocabulary=512, rank=4)
EXPERTS = 16
ROWS, TOKENS, ANSWER = 4, 64, 8
WORK = Work(ROWS, TOKENS, ANSWER)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return random_zoo(tmp_path_factory.mktemp("plan"), SHAPE, EXPERTS)[0]


def measured(zoo: Zoo, method: FusionMethod) -> int:
    """The most bytes of tensors at once from loading a model to the scores of one batch."""
    with Alive() as alive, torch.no_grad():
        pool = ExpertPool.from_zoo(zoo) if method.fuses_experts else ExpertPool([])
        fused = FusedModel(random_model(SHAPE), zoo, pool)
        fused.use(method)
        alive.restart()
        fused.selection.set(torch.arange(ROWS)[:, None].repeat(1, SHAPE.layers))
        passed = fused.model.base_model(input_ids=torch.zeros(ROWS, TOKENS, dtype=torch.long), use_cache=True)
        logits = fused.model.get_output_embeddings()(passed.last_hidden_state[:, -ANSWER:])
        logits.clone().float().log_softmax(-1)
    return alive.peak


@pytest.mark.parametrize(
    "spec", ["base", "oracle", "concat", "svd:rank=3", "ties", "knots", "arrow", "spectr"]
)
def test_a_plan_is_within_15_per_cent_of_what_is_measured(zoo: Zoo, spec: str) -> None:
    method = registry.parse(spec)
    planned = memory_of(zoo.base_folder(), method, Experts(EXPERTS, 4), WORK, torch.float32)
    assert planned.total == pytest.approx(measured(zoo, method), rel=0.15)


MERGES = [
    *("svd", "svd:rank=16", "svd:rank=2", "tsv", "tsv:rank=2", "concat", "merge_uniform", "knots", "ties"),
    *("core_space", "iso_cts", "lora_soups", "merge_sgd", "distill", "regmean", "fisher"),
]


@pytest.mark.parametrize("rank", [4, 12])
@pytest.mark.parametrize("spec", MERGES)
def test_what_a_merge_keeps_is_counted_by_its_own_rank(rank: int, spec: str) -> None:
    """Whatever its options ask for, and where the experts' ranks together are less or more than a map's sides."""
    method, ranks = registry.parse(spec), (rank,) * EXPERTS
    assert isinstance(method, Merge)
    shapes = {"square": (128, 128), "narrow": (32, 128), "out": (344, 128), "in": (128, 344)}
    merged = merged_unfitted(method, random_pool(ranks, shapes))
    found = [len(merged.factors[name][0]) if name in merged.factors else None for name in shapes]
    assert [rank_of_merge(method, ranks, shape) for shape in shapes.values()] == found


@pytest.mark.parametrize("spec", ["base", "arrow", "ensemble"])
def test_a_cell_of_a_zoo_is_planned_by_its_own_experts(zoo: Zoo, spec: str) -> None:
    pool = ExpertPool.from_zoo(zoo)
    of_all = memory_of(zoo.find_base(), registry.parse(spec), Experts(EXPERTS, 4), WORK, torch.float32)
    assert of_cell(zoo, registry.parse(spec), pool, ROWS, TOKENS, torch.float32).weights == of_all.weights
    few = of_cell(zoo, registry.parse(spec), ExpertPool(pool.experts[:4]), ROWS, TOKENS, torch.float32)
    assert few.experts == of_all.experts / 4
    assert few.cache == of_all.cache


@pytest.mark.parametrize("spec", ["lora:rank=8", "moore:d_t=8+d_s=4", "full_finetune"])
def test_of_training_too(zoo: Zoo, spec: str) -> None:
    method = registry.parse(spec)
    assert isinstance(method, TrainedAdapter)
    with Alive() as alive:
        model = random_model(SHAPE).requires_grad_(False)
        base, selection = Base(model), Selection()
        updates = method.attach(base, 2, selection)
        initialise(updates, 0)
        install(model, base.modules, updates)
        optimizer = torch.optim.Adam([p for update in updates.values() for p in update.parameters()])
        for _ in range(2):  # Adam's moments are made by the first step
            alive.restart()
            selection.set(torch.arange(ROWS)[:, None].repeat(1, SHAPE.layers) % 2)
            ids = torch.zeros(ROWS, TOKENS, dtype=torch.long)
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            model.get_output_embeddings()(hidden[:, -ANSWER:]).logsumexp(-1).sum().backward()
            hidden = None
            optimizer.step()
            optimizer.zero_grad()
    planned = memory_of(
        zoo.base_folder(), method, Experts(), replace(WORK, train=True), torch.float32, tasks=2
    )
    assert planned.total == pytest.approx(alive.peak, rel=0.15)


def test_what_cannot_be_planned_is_said_in_a_line(tmp_path: Path) -> None:
    random_model(Shape(hidden_size=64, layers=1)).save_pretrained(tmp_path)

    def told(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["plan", "--base", str(tmp_path), *arguments])
        assert result.exit_code == 2
        return result.stderr

    assert "needs experts" in told("--method", "arrow")
    assert "Add --train" in told("--method", "lora", "--gradient-checkpointing")
    assert "trains no adapter" in told("--method", "arrow", "--experts", "2", "--train")
    assert "linear map" in told("--method", "arrow", "--experts", "2", "--targets", "w_proj")


def test_the_command_prints_every_part(tmp_path: Path) -> None:
    random_model(Shape(hidden_size=64, layers=1)).save_pretrained(tmp_path)
    asked = [
        "plan",
        "--base",
        str(tmp_path),
        "--method",
        "arrow",
        "--experts",
        "4",
        "--rank",
        "2",
        "--max-length",
        "64",
    ]
    told = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert (
        told
        == memory_of(
            tmp_path,
            registry.parse("arrow"),
            Experts(4, 2, "q_proj/k_proj/v_proj/o_proj"),
            Work(1, 64, 32),
            torch.float32,
        ).record()
    )
    assert f"{told['cache'] / 1e9:.3f}" in CliRunner().invoke(app, asked).stdout


@pytest.mark.parametrize("spec", ["full_finetune", "moore:d_t=8+d_s=4"])
def test_an_adapter_is_kept_in_the_base_s_type(zoo: Zoo, spec: str) -> None:
    method = registry.parse(spec)
    wide, narrow = (
        memory_of(zoo.base_folder(), method, Experts(), WORK, dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert narrow.updates == pytest.approx(wide.updates / 2, rel=0.01)


LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


@pytest.mark.slow
def test_the_documented_memory_of_adapters_is_the_plan_s(tmp_path: Path) -> None:
    AutoConfig.for_model("llama", dtype="bfloat16", **LLAMA_8B).save_pretrained(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "adapters.md").read_text()
    lines = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert [method for method, *_ in lines] == ["lora", "moore", "full_finetune"]
    ways = [], ["--train"], ["--train", "--gradient-checkpointing"]
    for method, *printed in lines:
        command = f"plan --base {tmp_path} --method {method} --tasks 9 --max-length 512 --json".split()
        told = [json.loads(CliRunner().invoke(app, [*command, *more]).stdout) for more in ways]
        assert [f"{each['total'] / 1e9:.1f}" for each in told] == printed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mixture_s_experts_are_counted_in_any_type(tmp_path: Path, dtype: torch.dtype) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "vocab_size": 512, "num_local_experts": 4}
    config = AutoConfig.for_model("mixtral", **sizes)
    config.save_pretrained(tmp_path)
    with Alive() as alive, torch.no_grad():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        alive.restart()
        passed = model.model(input_ids=torch.zeros(ROWS, TOKENS, dtype=torch.long), use_cache=True)
        model.lm_head(passed.last_hidden_state[:, -ANSWER:]).clone().float().log_softmax(-1)
    planned = memory_of(tmp_path, registry.parse("base"), Experts(), WORK, dtype)
    assert planned.total == pytest.approx(alive.peak, rel=0.15)


def test_rows_are_no_longer_than_the_base_reads(tmp_path: Path) -> None:
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 64, "n_positions": 128}
    AutoConfig.for_model("gpt2", **sizes).save_pretrained(tmp_path)
    asked = ["plan", "--base", str(tmp_path), "--max-length"]
    long, whole = (CliRunner().invoke(app, [*asked, length]).stdout for length in ("4096", "128"))
    assert long == whole + "Rows of 128 tokens, the most that this base reads.\n"


def test_quantised_weights_are_not_counted_as_whole_ones(tmp_path: Path) -> None:
    random_model(Shape(hidden_size=64, layers=1)).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    path.write_text(json.dumps(json.loads(path.read_text()) | quantised))
    with pytest.raises(LorafuseError, match="quantised weights, whose bytes its shape does not tell"):
        memory_of(tmp_path, registry.parse("base"), Experts(), WORK, torch.float32)


def test_a_pass_of_any_size_is_counted_at_once(zoo: Zoo) -> None:
    of = [
        memory_of(zoo.base_folder(), registry.parse("base"), Experts(), Work(rows, 64, 64), torch.float32)
        for rows in (10**3, 10**6)
    ]
    assert of[1].logits == pytest.approx(1000 * of[0].logits, rel=0.01)
