"""`lorafuse run`: cells, resuming, provenance, and agreement with stock lm-eval."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from stock import stock
from tiny import TASKS, add_router, tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench import runner
from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.leaderboards.results import cell_files, layout, made_of
from lorafuse_bench.leaderboards.results.lm_eval_results import read_lm_eval
from lorafuse_bench.leaderboards.results.samples import read_samples
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.progress import Watcher
from lorafuse_bench.runner import plan as plans
from lorafuse_bench.runner.evaluation import Evaluation
from lorafuse_bench.tasks.rows import load_task
from lorafuse_bench.tasks.suites import suite
from lorafuse_bench.zoo.manifest import EMBEDDED, Zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory, handmade_data: Path) -> Zoo:
    made = add_router(tiny_zoo(tmp_path_factory.mktemp("zoo"), experts=7))
    saved = Zoo(made.root, made.manifest.model_copy(update={"data": str(handmade_data)}))
    saved.save()
    return saved


def plan(zoo: Zoo, out: Path, methods: str = "oracle", **changes: Any) -> runner.Plan:
    chosen = [registry.parse(spec) for spec in methods.split(",")]
    made = runner.Plan(methods=chosen, suites=["mtl5"], out=out, zoo=zoo.root, batch_size=8, device="cpu")
    return replace(made, **changes)


@pytest.fixture(scope="module")
def finished(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    runner.run(plan(zoo, out, "oracle,concat:scaling=false"))
    return out


def test_a_cell_records_what_it_was_made_of(zoo: Zoo, finished: Path) -> None:
    path = layout.cell_path(finished, "mtl5", "tiny", 0, "concat:scaling=false")
    result, items = cell_files.read_cell(path)
    assert result.method.options == {"scaling": False}
    assert [e.name for e in result.experts] == [task for task in TASKS if task in suite("mtl5").tasks]
    assert result.zoo.sha256 == zoo.sha256()
    assert result.data.splits["squad"] == {"validation": "validation.parquet"}
    assert "/" not in result.data.source
    assert set(result.tasks) == set(suite("mtl5").tasks)
    assert set(result.tasks["sst2"].metrics) == {"acc", "acc_options"}
    assert set(result.tasks["cnn_dailymail"].metrics) == {"rouge1", "rouge2", "rougeL"}
    assert len(items.root["squad"].metrics["f1"]) == result.tasks["squad"].n
    assert len(items.root["wmt14_en_de"].metrics["bleu"][0]) == 10  # type: ignore[arg-type]
    assert result.cost.extra_parameters > 0
    assert result.environment.versions["lm_eval"]
    assert result.cost.tokens_per_second > 0  # type: ignore[operator]
    assert result.cost.peak_bytes > 10_000_000  # type: ignore[operator]
    assert result.seeds == made_of.Seeds(python=0, numpy=1234, torch=1234, fewshot=1234)
    assert result.tasks["squad"].few_shot == 0
    assert result.tasks["wmt14_en_de"].metrics["bleu"].stderr_method == "bootstrap"
    assert result.artefacts == ()


def test_a_routed_cell_names_its_router(zoo: Zoo, tmp_path: Path) -> None:
    (path,) = runner.run(plan(zoo, tmp_path, "moa", limit=1))
    result = cell_files.read_result(path)
    assert [(r.name, r.sha256) for r in result.artefacts] == [
        (entry.name, entry.sha256) for entry in zoo.manifest.artefacts
    ]


def test_no_file_of_a_cell_holds_a_path(zoo: Zoo, finished: Path, handmade_data: Path) -> None:
    for path in finished.rglob("*.json"):
        content = path.read_text()
        assert str(zoo.root) not in content
        assert str(handmade_data) not in content


def test_the_texts_stand_beside_the_scores(finished: Path) -> None:
    path = layout.cell_path(finished, "mtl5", "tiny", 0, "oracle")
    result, items = cell_files.read_cell(path)
    rows = [row for row in read_samples(path) if row.task == "sst2"]
    assert [row.doc_hash for row in rows] == list(items.root["sst2"].doc_hashes)
    assert [row.score for row in rows] == items.root["sst2"].metrics["acc"]
    assert all(row.prompt.endswith("Sentiment:") for row in rows)
    assert all(row.output is not None for row in rows)
    assert {row.task for row in read_samples(path)} == set(result.tasks)


def test_stock_results_make_the_same_cell(zoo: Zoo, finished: Path, tmp_path: Path) -> None:
    """What the lm_eval command leaves behind reads as the runner's own result, scores and documents alike."""
    experts = "/".join(task for task in TASKS if task in suite("mtl5").tasks)
    path = stock(
        tmp_path, ["mtl5"], method="oracle", zoo=zoo.root, data=zoo.data_source, experts=experts, batch_size=8
    )
    result, items = read_lm_eval(path)
    mine, my_items = cell_files.read_cell(layout.cell_path(finished, "mtl5", "tiny", 0, "oracle"))
    assert items == my_items
    assert result.tasks == mine.tasks
    for field in ("suite", "method", "zoo", "base", "experts", "seeds", "limit", "max_length", "truncation"):
        assert getattr(result, field) == getattr(mine, field)
    assert result.data.source == mine.data.source
    assert result.run_id == mine.run_id


def test_other_code_of_one_version_keeps_the_cell(
    zoo: Zoo, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorafuse_bench import identity

    monkeypatch.setattr(identity, "source_sha256", lambda cls: "0" * 64)
    said: list[str] = []
    runner.run(plan(zoo, finished, "oracle"), Watcher(said.append))
    assert any("kept" in line for line in said)


def test_values_are_those_of_stock_lm_eval(zoo: Zoo, finished: Path) -> None:
    """The runner's numbers and those of `simple_evaluate` on the same model agree."""
    lm = LorafuseLM(
        "concat",
        zoo=zoo.root,
        batch_size=1,
        device="cpu",
        scaling=False,
        experts="/".join(suite("mtl5").tasks),
    )
    task = load_task("lorafuse_squad", zoo.data_source)
    output = simple_evaluate(model=lm, tasks=[task], bootstrap_iters=0)
    result = cell_files.read_result(layout.cell_path(finished, "mtl5", "tiny", 0, "concat:scaling=false"))
    metrics = output["results"]["lorafuse_squad"]
    for name in ("f1", "em"):
        assert result.tasks["squad"].metrics[name].value == pytest.approx(metrics[f"{name},none"])


def test_finished_cells_are_kept_and_the_rest_is_run(
    zoo: Zoo, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    original = Evaluation.run
    monkeypatch.setattr(
        Evaluation, "run", lambda *args: ran.append(args[1].method.label()) or original(*args)
    )
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("oracle*")}
    said: list[str] = []
    runner.run(plan(zoo, finished, "oracle,svd"), Watcher(said.append))
    assert ran == ["svd"]
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("oracle*")} == before
    assert any("kept" in line for line in said)


def test_an_interruption_loses_nothing_finished(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Evaluation.run

    def interrupted(*args: Any) -> Path:
        if args[1].method.name == "concat":
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(Evaluation, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.run(plan(zoo, tmp_path, "svd,concat"))
    monkeypatch.undo()
    names = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
    assert names == ["svd.items.json.gz", "svd.json", "svd.samples.jsonl.gz"]
    runner.run(plan(zoo, tmp_path, "svd,concat"))
    assert layout.cell_path(tmp_path, "mtl5", "tiny", 0, "concat").is_file()


@pytest.mark.parametrize(
    ("change", "field"), [({"limit": 1}, "limit"), ({"experts": TASKS[::-1]}, "experts")]
)
def test_a_cell_of_other_inputs_is_refused_before_anything_runs(
    zoo: Zoo, finished: Path, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(LorafuseError, match=f"made with another {field} .*another --out"):
        runner.run(plan(zoo, finished, "oracle,svd", **change))


def test_all_methods_leaves_out_what_the_zoo_cannot_do(zoo: Zoo) -> None:
    names = [method.name for method in runner.all_methods(zoo)]
    assert {"base", "oracle", "moa", "concat", "weight_sum", "svd"} <= set(names)
    bare = Zoo(zoo.root, zoo.manifest.model_copy(update={"artefacts": ()}))
    assert "moa" not in [method.name for method in runner.all_methods(bare)]


def test_all_leaves_out_with_a_word_what_does_not_fit_the_experts(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting = [registry.parse(spec) for spec in ("base", "arrow:k=2", "arrow:k=99")]
    monkeypatch.setattr(plans, "all_methods", lambda zoo: fitting)
    said: list[str] = []
    paths = runner.run(replace(plan(zoo, tmp_path, "base"), methods=None), Watcher(said.append))
    assert [path.name for path in paths] == ["base.json", "arrow@k=2.json"]
    assert any("arrow:k=99: left out, method 'arrow': k=99 must be between" in line for line in said)


def test_options_that_do_not_fit_are_all_named_before_anything_runs(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(LorafuseError) as caught:
        runner.run(plan(zoo, tmp_path, "base,spectr:k=99,weight_sum:weights=1/2"))
    spectr, weight_sum = str(caught.value).splitlines()
    assert "'spectr': k=99" in spectr
    assert "'weight_sum': weights='1/2'" in weight_sum
    assert not list(tmp_path.iterdir())


def test_a_suite_without_experts_is_refused(tmp_path: Path, handmade_data: Path) -> None:
    zoo = tiny_zoo(tmp_path / "zoo", experts=1)
    with pytest.raises(LorafuseError, match="no expert for task"):
        runner.run(plan(zoo, tmp_path / "out", "oracle", data=str(handmade_data)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "mao"], "unknown method 'mao'. Did you mean 'moa'?"),
        (["--methods", "svd:rnak=2"], "unknown option 'rnak' of method 'svd'. Did you mean 'rank'?"),
        (["--methods", "svd:rank=2000"], "rank=2000 exceeds"),
        (["--suites", "mtl6"], "unknown suite 'mtl6'. Did you mean 'mtl7'?"),
        (["--zoo", "nowhere"], "zoo 'nowhere' not found"),
        (["--experts", "sst3"], "Did you mean 'sst2'?"),
        (["--experts", ""], "unknown expert ''"),
        (["--data", ""], "data source '' is not a directory"),
        (["--data", "nowhere"], "data source 'nowhere' is not a directory"),
        (["--methods", "moa:pool=mean"], "no fit of method 'moa:pooling=mean'"),
        (["--out", "/proc/nowhere"], "cannot write"),
        (["--suites", "sst2/humaneval"], "humaneval: code that the model writes would run on this machine"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    zoo: Zoo, tmp_path: Path, arguments: list[str], message: str
) -> None:
    defaults = {
        "--methods": "base",
        "--suites": "mtl5",
        "--zoo": str(zoo.root),
        "--out": str(tmp_path / "out"),
    }
    given = defaults | dict(zip(arguments[::2], arguments[1::2], strict=True))
    command = ["run", *(word for pair in given.items() for word in pair), "--device", "cpu", "--limit", "1"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2, done.output
    errors = [line for line in done.stderr.splitlines() if message in line]
    assert len(errors) == 1
    assert not list(tmp_path.rglob("*.json"))


def test_the_command_writes_cells(zoo: Zoo, tmp_path: Path) -> None:
    command = ["run", "--methods", "base,weight_sum:average", "--suites", "mtl5", "--limit", "1"]
    done = CliRunner().invoke(
        app, [*command, "--zoo", str(zoo.root), "--out", str(tmp_path), "--device", "cpu"]
    )
    assert done.exit_code == 0, done.output
    assert "2 cells in" in done.stdout
    written = json.loads(layout.cell_path(tmp_path, "mtl5", "tiny", 0, "weight_sum:average=true").read_text())
    assert written["limit"] == 1


def test_a_suite_of_oblivion_takes_all_experts_and_runs_code_by_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    mini = Zoo.open(EMBEDDED)
    asked = plan(mini, tmp_path, "concat", suites=["or_mtl"], limit=1, run_code=True)
    (path,) = runner.run(asked)
    result, items = cell_files.read_cell(path)
    assert {e.name for e in result.experts} == {e.name for e in mini.manifest.experts}
    assert {key: task.representative for key, task in result.tasks.items()} == {
        "mmlu": "acc",
        "ifeval": "inst_level_strict_acc",
        "bbh": "exact_match",
        "gpqa": "acc",
        "humaneval": "pass@1",
        "mbpp": "pass@1",
        "gsm8k_cot": "exact_match",
    }
    assert [task.few_shot for task in result.tasks.values()] == [0, 0, 8, 0, 0, 3, 5]
    assert result.tasks["mmlu"].n_original == 285
    assert result.tasks["mmlu"].dataset.hub == "cais/mmlu"
    followed, of = items.root["ifeval"].metrics["inst_level_strict_acc"][0]  # type: ignore[misc]
    assert 0 <= followed <= of
    assert {row.task for row in read_samples(path)} == set(suite("or_mtl").tasks)
