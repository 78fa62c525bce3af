"""Exports as they are published: the card with its scores, the type of the weights, and the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import instances
from hub_stand_in import Hub, hub  # noqa: F401
from lm_eval.models.huggingface import HFLM
from safetensors.torch import load_file
from tiny import byte_tokenizer, tiny_zoo
from toy_cells import FIELDS, write
from typer.testing import CliRunner

from lorafuse_bench import cli
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.zoo.manifest import Zoo


def call(*words: object) -> Any:
    return CliRunner().invoke(cli.app, ["export", *map(str, words)])


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return tiny_zoo(tmp_path / "zoo", experts=2)


def results(out: Path, of: Zoo, **changes: Any) -> Path:
    """Scores of the base, the oracle and svd on the tiny zoo."""
    experts = [FIELDS["experts"][0] | {"name": e.name, "sha256": e.sha256} for e in of.manifest.experts]
    fields = {"zoo": {"name": of.name, "seed": 0, "sha256": of.sha256()}, "experts": experts} | changes
    for label, scores in (("base", [0.0] * 16), ("oracle", [1.0] * 16), ("svd:rank=2", [1.0, 0.0] * 8)):
        write(out, label, {"one": scores}, **fields)
    return out


def test_the_card_names_all_it_was_made_of_and_its_scores_with_intervals(zoo: Zoo, tmp_path: Path) -> None:
    scores = results(tmp_path / "results", zoo)
    done = call("--method", "svd:rank=2", "--zoo", zoo.root, "--out", tmp_path / "out", "--results", scores)
    assert done.exit_code == 0, done.output
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"- zoo: tiny, sha256 `{zoo.sha256()}`" in card
    assert (
        "- option rank: `2`" in card and f"- expert mnli: sha256 `{zoo.manifest.experts[1].sha256}`" in card
    )
    # 1.96 times the deviation of eight ones and eight zeros, .5164, over the root of 16
    assert "| one | acc | 0.500 (0.247 to 0.753) | 0.500 (0.247 to 0.753) | 16 |" in card
    assert str(tmp_path) not in card
    assert "Scores were not given" in card_of(zoo, tmp_path / "plain")


def card_of(zoo: Zoo, out: Path) -> str:
    assert call("--method", "svd", "--zoo", zoo.root, "--out", out).exit_code == 0
    return (out / "README.md").read_text()


def test_scores_of_something_else_are_refused(zoo: Zoo, tmp_path: Path) -> None:
    ours = results(tmp_path / "ours", zoo)
    other = results(tmp_path / "other", zoo, zoo={"sha256": "d" * 64})
    fewer = results(tmp_path / "fewer", zoo, experts=FIELDS["experts"])
    for spec, folder, said in (
        ("svd", ours, "unknown method 'svd' among the scores. Known: base, oracle, svd:rank=2"),
        ("svd:rank=2", other, "scores are not of zoo 'tiny' as it is now. Run them again"),
        ("svd:rank=2", fewer, "of other experts than are exported. Export those: --experts one"),
    ):
        done = call("--method", spec, "--zoo", zoo.root, "--out", tmp_path / "out", "--results", folder)
        assert done.exit_code == 2 and said in done.stderr, done.output
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("dtype", "whole"), [("bfloat16", False), ("float16", True), ("auto", True)])
def test_weights_are_written_in_the_type_asked_for(zoo: Zoo, tmp_path: Path, dtype: str, whole: bool) -> None:
    words = ["--whole"] if whole else []
    done = call("--method", "svd", "--zoo", zoo.root, "--out", tmp_path / "out", "--dtype", dtype, *words)
    assert done.exit_code == 0, done.output
    (file,) = (tmp_path / "out").glob("*.safetensors")
    wanted = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    assert {tensor.dtype for tensor in load_file(file).values()} == {wanted}
    assert (
        call("--method", "svd", "--zoo", zoo.root, "--out", tmp_path / "x", "--dtype", "int3").exit_code == 2
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stock_lm_eval_scores_the_same_in_either_type(zoo: Zoo, tmp_path: Path, dtype: str) -> None:
    """`--model hf,peft=`: an adapter in bf16 agrees up to its rounding."""
    assert (
        call("--method", "svd", "--zoo", zoo.root, "--out", tmp_path / "out", "--dtype", dtype).exit_code == 0
    )
    stock = HFLM(
        pretrained=str(zoo.base_folder()),
        peft=str(tmp_path / "out"),
        tokenizer=byte_tokenizer(),
        device="cpu",
    )
    fused = LorafuseLM("svd", zoo=zoo.root, device="cpu")
    got, expected = (
        [score for score, _ in lm.loglikelihood(instances("loglikelihood"), disable_tqdm=True)]
        for lm in (stock, fused)
    )
    assert got == pytest.approx(expected, rel=1e-4 if dtype == "float32" else 2e-2)


def test_an_export_goes_to_the_hub_after_a_dry_run(zoo: Zoo, hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out"
    dry = call("--method", "svd", "--zoo", zoo.root, "--out", out, "--push", "me/svd", "--whole")
    assert dry.exit_code == 0, dry.output
    assert "dry run:" in dry.stdout and "model.safetensors" in dry.stdout and hub.asked == []
    assert f"Next: lorafuse export --out {out} --push me/svd --yes" in dry.stdout
    done = call("--out", out, "--push", "me/svd", "--yes", "--json")
    assert json.loads(done.stdout)["published"], done.output
    assert hub.repos["me/svd"]["model.safetensors"] == (out / "model.safetensors").read_bytes()
    assert {"README.md", "config.json", "lorafuse_export.json"} <= set(hub.repos["me/svd"])


def test_an_adapter_whose_base_nobody_else_has_is_not_pushed(zoo: Zoo, hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    done = call("--method", "svd", "--zoo", zoo.root, "--out", tmp_path / "out", "--push", "me/svd", "--yes")
    assert done.exit_code == 2 and "where others cannot load it" in done.stderr
    (tmp_path / "empty").mkdir()
    done = call("--out", tmp_path / "empty", "--push", "me/svd")
    assert done.exit_code == 2 and "is not an export" in done.stderr
    assert hub.repos == {}
    config = tmp_path / "out" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "who/base"}))
    assert call("--out", tmp_path / "out", "--push", "me/svd", "--yes").exit_code == 0
