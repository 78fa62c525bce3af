"""Losses in nats per token: what is scored, what items hold, and the suites that are made of them."""

from __future__ import annotations

import math
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from lm_eval.api.instance import Instance
from real_samples import shared_data
from tiny import tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.results.cell_files import read_cell
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.tasks import catalogue
from lorafuse_bench.tasks.docs import END
from lorafuse_bench.tasks.loading import load_tasks
from lorafuse_bench.tasks.metrics.nll import Likelihood, per_token, process_target
from lorafuse_bench.tasks.rows import training_rows
from lorafuse_bench.tasks.suites import suite
from lorafuse_bench.zoo.manifest import Zoo

SUITES = [("flan", 256), ("flan_mbc10", 10), ("flan_small", 30), ("ni42", 42), ("mini32", 32)]
TWO = """
include: {include}
group: two
test_split: validation
doc_to_text: "{{{{text}}}}\\n{{{{instruction}}}}:"
task:
  - {{task: place, dataset_kwargs: {{dataset: {{hub: mini/families, name: extract_place_en}}}}}}
  - {{task: shorter, dataset_kwargs: {{dataset: {{hub: mini/families, name: drop_verb}}}}}}
metadata: {{version: 1, lorafuse: {{kind: loss, each: {{metric: nll, unit: nats/token}}}}}}
"""


def test_a_target_is_worth_its_nats_and_its_tokens() -> None:
    items = [
        process_target({}, [Likelihood.of(-3.0, True, 4)]),
        process_target({}, [Likelihood.of(-1.0, False, 1)]),
    ]
    assert items[0] == {"nll": [3.0, 4], "nll_mean": 0.75, "exact_match": 1.0}
    assert per_token([item["nll"] for item in items]) == 4.0 / 5  # type: ignore[misc]
    with pytest.raises(LorafuseError, match="Use --model lorafuse"):
        process_target({}, [(-3.0, True)])


def test_the_end_of_text_is_scored_and_counted(tmp_path: Path) -> None:
    """Against the model's own logits; one token a byte."""
    lm = LorafuseLM("base", zoo=tiny_zoo(tmp_path, experts=1).root, device="cpu")
    requests = [
        Instance("loglikelihood", {}, ("ab", f" c{end}"), 0, metadata=("sst2", 0, 1)) for end in ("", END)
    ]
    plain, ended = lm.loglikelihood(requests)
    ids = torch.tensor([lm.tok_encode("ab c")])
    logits = (
        lm.model(torch.cat([torch.tensor([lm.tok_encode("ab c")]), ids[:, :0]], 1)).logits[0].log_softmax(-1)
    )
    target = [*lm.tok_encode(" c"), lm.eot_token_id]
    each = [logits[1 + i, token].item() for i, token in enumerate(target)]
    assert [found.tokens for found in (plain, ended)] == [2, 3]  # type: ignore[attr-defined]
    assert plain[0] == pytest.approx(sum(each[:2]), rel=1e-4)
    assert ended[0] == pytest.approx(sum(each), rel=1e-4)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(catalogue.VARIABLE, "")
    path = tmp_path / "two.yaml"
    path.write_text(TWO.format(include=files("lorafuse_bench.tasks") / "groups" / "_losses.yml"))
    return path


def test_a_suite_of_losses_becomes_a_ranked_board(two: Path, tmp_path: Path) -> None:
    made, out = tiny_zoo(tmp_path / "zoo", experts=2), tmp_path / "out"
    experts = [
        entry.model_copy(update={"tasks": (task,)})
        for entry, task in zip(made.manifest.experts, ("place", "shorter"), strict=True)
    ]
    Zoo(made.root, made.manifest.model_copy(update={"experts": tuple(experts)})).save()
    arguments = [
        "--zoo",
        str(made.root),
        "--data",
        "mini",
        "--suites",
        str(two),
        "--methods",
        "base,oracle,mu,svd",
    ]
    done = CliRunner().invoke(app, ["run", *arguments, "--limit", "3", "--out", str(out), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    result, items = read_cell(next(out.rglob("mu.json")))
    nll = result.tasks["place"].metrics["nll"]
    assert (nll.measure, nll.unit, nll.direction) == ("loss", "nats/token", "down")
    rows = items.root["place"].metrics["nll"]
    nats, tokens = (math.fsum(column) for column in zip(*rows, strict=True))  # type: ignore[arg-type]
    assert nll.value == pytest.approx(nats / tokens)
    text = load_tasks(suite(str(two)), "mini")["two::place"].eval_docs[0]["target"]
    assert rows[0][1] == len(f" {text}".encode()) + 1  # type: ignore[index]
    (board,) = build([out], allow_limit=True).boards
    assert board.losses and "lower is better" in board.caption
    assert {row.label for row in board.rows if row.rank} == {"mu", "svd"}
    assert all(row.losses for row in board.rows)


def test_flan_is_read_from_the_hubs_layout(tmp_path: Path) -> None:
    """One file for all tasks and splits, as on the hub."""
    names = list(suite("flan_small").tasks)
    folder = tmp_path / "sordonia__flan-10k-flat" / "default"
    folder.mkdir(parents=True)
    rows = [
        {"source": f"{split} {name}?", "target": "yes", "task_name": name, "split": split}
        for name in suite("flan").tasks
        for split in ("train", "validation", "test")
    ]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    loaded = load_tasks(suite("flan_small"), str(tmp_path))
    assert [task.eval_docs[0]["source"] for task in loaded.values()] == [f"test {name}?" for name in names]
    assert {len(task.eval_docs) for task in loaded.values()} == {1}
    clusters = load_tasks(suite("flan_mbc10"), str(tmp_path))
    assert sum(len(task.eval_docs) for task in clusters.values()) == 256
    (row,) = training_rows(names[0], str(tmp_path))
    assert (row.prompt, row.target) == (f"train {names[0]}?", " yes")


def test_losses_by_name_are_a_suite_of_losses() -> None:
    assert suite("cot_gsm8k/true_case").kind == "loss"
    assert suite("cot_gsm8k/sst2").kind == "scored"


@pytest.mark.parametrize(("name", "tasks"), SUITES)
def test_the_suites_of_losses(name: str, tasks: int) -> None:
    found = suite(name)
    assert (found.kind, len(found.tasks)) == ("loss", tasks)
    assert {(task.metric, task.unit, task.direction) for task in found.tasks.values()} == {
        ("nll", "nats/token", "down")
    }
    assert all("exact_match" in task.metrics for task in found.tasks.values())


def test_the_mini_worlds_32_tasks_have_rows() -> None:
    loaded = load_tasks(suite("mini32"), "mini")
    assert {len(task.eval_docs) for task in loaded.values()} == {200}


def test_natural_instructions_are_42_tasks_of_real_rows() -> None:
    loaded = load_tasks(suite("ni42"), str(shared_data()))
    assert sum(len(task.eval_docs) for task in loaded.values()) == 834
    assert all(task.doc_to_target(task.eval_docs[0]).endswith(END) for task in loaded.values())
