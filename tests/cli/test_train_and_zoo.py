"""`lorafuse train`, `zoo` and `methods` as typed by a user, on a tiny base and handmade rows."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from peft import AutoPeftModelForCausalLM
from tiny import add_adapter, byte_tokenizer, tiny_model, tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.tasks.suites import suite
from lorafuse_bench.zoo.manifest import Zoo


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_model().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(base: Path, handmade_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo trained by the two commands of the README."""
    out = tmp_path_factory.mktemp("zoo") / "zoo"
    fast = ["--steps", "3", "--batch-size", "2", "--rank", "2", "--data", str(handmade_data)]
    first = call("train", "experts", "--suite", "mtl5", "--base", str(base), "--out", str(out), *fast)
    assert first.exit_code == 0, first.output
    assert "5 experts in" in first.stdout
    second = call(
        "train", "router", "--suite", "mtl5", "--base", str(base), "--out", str(out), "--steps", "20"
    )
    assert second.exit_code == 0, second.output
    assert "router moa-last: accuracy" in second.stdout
    return out


MTL5 = ["--suite", "mtl5", "--base", "BASE", "--out", "OUT"]


def call(*arguments: str):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, list(arguments))


def test_experts_and_routers_make_a_zoo_that_every_method_runs_on(trained: Path, handmade_data: Path) -> None:
    zoo = Zoo.open(trained)
    assert {expert.task for expert in zoo.manifest.experts} == set(suite("mtl5").tasks)
    assert zoo.manifest.init == "shared"
    assert zoo.manifest.artefacts[0].settings["pool"] == "last"
    assert Path(zoo.data_source).resolve() == handmade_data.resolve()
    lm = LorafuseLM("moa", zoo=trained, device="cpu")
    assert lm.fused.extra_parameters > 0


def test_a_trained_expert_loads_with_peft_where_it_was_trained(trained: Path, base: Path) -> None:
    model = AutoPeftModelForCausalLM.from_pretrained(trained / "experts" / "sst2")
    assert model.peft_config["default"].base_model_name_or_path == str(base.resolve())
    assert Zoo.open(trained).base_name == base.name


def test_show_lists_what_is_there(trained: Path) -> None:
    shown = call("zoo", "show", str(trained))
    assert shown.exit_code == 0
    assert "expert" in shown.stdout
    assert "moa-last" in shown.stdout


def test_show_lists_adapters_where_there_are_no_experts(tmp_path: Path) -> None:
    add_adapter(tiny_zoo(tmp_path, experts=0), "lora:rank=3")
    shown = call("zoo", "show", str(tmp_path))
    assert shown.exit_code == 0, shown.output
    assert re.search(r"adapter +lora/two-rank=3 +sst2/mnli", shown.stdout)


@pytest.mark.slow
def test_adapters_alone_on_the_embedded_base_make_a_zoo_that_runs(tmp_path: Path) -> None:
    """`mini` names the base, and no expert is needed anywhere."""
    out, results = str(tmp_path / "zoo"), str(tmp_path / "results")
    few = ["--data", "mini", "--steps", "2", "--rows", "4", "--suite", "csr_mtl", "--out", out]
    trained = call("train", "adapter", "--method", "moore", "--base", "mini", *few)
    assert trained.exit_code == 0, trained.output
    done = call(
        "run", "--zoo", out, "--methods", "all", "--suites", "csr_mtl", "--limit", "2", "--out", results
    )
    assert done.exit_code == 0, done.output
    made = {path.stem for path in Path(results).rglob("*.json")}
    assert made == {"base", "moore"}


def test_index_makes_a_zoo_of_existing_adapters(base: Path, tmp_path: Path) -> None:
    made = tiny_zoo(tmp_path / "zoo")
    (made.root / "manifest.json").unlink()
    done = call("zoo", "index", str(made.root), "--base", str(made.root / "base"), "--data", "mini")
    assert done.exit_code == 0, done.output
    found = Zoo.open(made.root)
    assert {e.name: e.sha256 for e in found.manifest.experts} == {
        e.name: e.sha256 for e in made.manifest.experts
    }
    assert found.base_folder().resolve() == (made.root / "base").resolve()
    assert LorafuseLM("concat", zoo=made.root, device="cpu").fused.pool.names == ("mnli", "squad", "sst2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "experts", "--suite", "mtl6", "--base", "BASE", "--out", "OUT"], "Did you mean 'mtl7'?"),
        (["train", "experts", "--suite", "mtl5", "--base", "nowhere", "--out", "OUT"], "nowhere"),
        (["train", "experts", *MTL5, "--dtype", "foo"], "unknown dtype 'foo'"),
        (["train", "experts", *MTL5, "--device", "foo"], "device 'foo' cannot be used"),
        (["train", "experts", *MTL5, "--report-to", "foo"], "unknown tracker 'foo'"),
        (["train", "experts", *MTL5, "--accumulation", "3"], "8 rows does not divide into 3 portions"),
        (["train", "router", "--out", "ZOO", "--training", "joint", "--eta", "nan"], "'--eta': nan is not"),
        (["train", "router", "--out", "ZOO", "--dtype", "foo"], "unknown dtype 'foo'"),
        (["train", "router", "--out", "ZOO", "--cutoff", "100"], "rows of at most 512 tokens, not 100"),
        (["train", "router", "--out", "nowhere"], "zoo 'nowhere' not found"),
        (["train", "router", "--out", "ZOO", "--suite", "mtl7"], "no expert for paws, piqa of suite 'mtl7'"),
        (["zoo", "build", "maxi"], "unknown zoo to build 'maxi'. Known: mini"),
        (["zoo", "index", "nowhere", "--base", "BASE"], "no adapters in nowhere/experts"),
        (["zoo", "show", "nowhere"], "zoo 'nowhere' not found"),
        (["methods", "mao"], "unknown method 'mao'. Did you mean 'moa'?"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    trained: Path, base: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    names = {"BASE": str(base), "OUT": str(tmp_path / "out"), "ZOO": str(trained)}
    done = call(*(names.get(word, word) for word in arguments))
    assert done.exit_code == 2, done.output
    assert len([line for line in done.stderr.splitlines() if message in line]) == 1, done.stderr


def test_a_router_for_another_base_is_refused(trained: Path, tmp_path: Path) -> None:
    tiny_model(seed=9).save_pretrained(tmp_path / "other")
    done = call("train", "router", "--out", str(trained), "--base", str(tmp_path / "other"))
    assert done.exit_code == 2
    assert "is not the base of zoo" in done.stderr


def test_experts_of_other_settings_are_not_overwritten(
    trained: Path, base: Path, handmade_data: Path
) -> None:
    before = Zoo.open(trained).sha256()
    arguments = ["--suite", "mtl5", "--base", str(base), "--out", str(trained), "--data", str(handmade_data)]
    done = call("train", "experts", *arguments, "--steps", "4", "--batch-size", "2", "--rank", "2")
    assert done.exit_code == 2
    assert "another settings than asked for" in done.stderr
    assert Zoo.open(trained).sha256() == before


def test_a_moved_zoo_still_works(trained: Path, tmp_path: Path) -> None:
    """Paths in the manifest are relative, but a base outside the zoo does not move along."""
    made = tiny_zoo(tmp_path / "a")
    shutil.move(made.root, tmp_path / "b")
    assert LorafuseLM("concat", zoo=tmp_path / "b", device="cpu").zoo.name == "tiny"


def test_methods_lists_all_and_describes_one() -> None:
    listed = call("methods")
    assert listed.exit_code == 0
    assert all(name in listed.stdout for name in ("base", "oracle", "moa", "concat", "weight_sum", "svd"))
    one = call("methods", "weight_sum")
    assert "B̄ = Σ λ_i s_i B_i" in one.stdout
    assert "average" in one.stdout
