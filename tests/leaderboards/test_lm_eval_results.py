"""Boards from the files of the stock lm_eval command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_cells import cell

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.publishing.verify import verify
from lorafuse_bench.leaderboards.results.lm_eval_results import read_lm_eval
from lorafuse_bench.leaderboards.statistics import stats

DATE = "2026-01-02T03-04-05.678901"
METRICS = {
    "lorafuse_cnn_dailymail": ("rouge1", "rouge2", "rougeL"),
    "lorafuse_wmt14_en_de": ("bleu",),
    "lorafuse_squad": ("em", "f1"),
    "lorafuse_sst2": ("acc",),
    "lorafuse_sst2_options": ("acc_options",),
    "lorafuse_mnli": ("acc",),
    "lorafuse_mnli_options": ("acc_options",),
}
WHOLE, NONE = [6, 6, 6, 5, 4, 3, 6, 5, 4, 3], [6, 6, 0, 0, 0, 0, 6, 5, 4, 3]


def document(key: str, i: int) -> str:
    return hashlib.sha256(f"{key} {i}".encode()).hexdigest()


def score(metric: str, good: bool) -> Any:
    return (WHOLE if good else NONE) if metric == "bleu" else float(good)


def write_lm_eval(folder: Path, label: str, good: int, n: int = 12) -> Path:
    """What `lm_eval --output_path FOLDER --log_samples` leaves behind: `good` of n items are right."""
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for leaf, metrics in METRICS.items():
        key = leaf.removesuffix("_options")
        rows = [
            {
                "doc_id": i,
                "doc_hash": document(key, i),
                "prompt_hash": document(leaf, i),
                "filter": "none",
                "metrics": [*metrics, "score"],
                "resps": [["line one\u2028line two"]],
                **{metric: score(metric, i < good) for metric in (*metrics, "score")},
            }
            for i in range(n)
        ]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in reversed(rows))
        (folder / f"samples_{leaf}_{DATE}.jsonl").write_text(lines)
        found = {m: stats.statistic([row[m] for row in rows]) for m in (*metrics, "score")}  # type: ignore[misc]
        results[leaf] = {f"{m},none": s.value for m, s in found.items()} | {"alias": leaf}
    path = folder / f"results_{DATE}.json"
    path.write_text(json.dumps(_file(label, results, n)))
    return path


def _file(label: str, results: dict[str, Any], n: int) -> dict[str, Any]:
    made, _ = cell(label, {"one": [1.0]})
    info = made.model_dump(
        mode="json", include={"method", "zoo", "base", "experts", "artefacts", "environment"}
    )
    info["data"] = {"source": "mini"}
    info["cost"] = {"fuse_seconds": 0.5, "extra_parameters": 0 if label == "base" else 10, "peak_bytes": 1000}
    seeds = {"random_seed": 0, "numpy_seed": 1234, "torch_seed": 1234, "fewshot_seed": 1234}
    return {
        "results": results | {"mtl5": {"score,none": 0.5}},
        "groups": {"mtl5": {}},
        "configs": {
            leaf: {
                "dataset_path": f"somebody/{leaf}",
                "dataset_name": None,
                "test_split": "test",
                "output_type": "generate_until",
                "generation_kwargs": {"until": ["\n"], "do_sample": False},
            }
            for leaf in METRICS
        },
        "config": {"lorafuse": info, "limit": None, "batch_size": "8", **seeds},
        "versions": dict.fromkeys(METRICS, 1),
        "n-shot": dict.fromkeys(METRICS, 0),
        "n-samples": {leaf: {"original": n, "effective": n} for leaf in METRICS},
        "higher_is_better": {leaf: dict.fromkeys((*METRICS[leaf], "score"), True) for leaf in METRICS},
        "total_evaluation_time_seconds": "12.5",
    }


def grid(out: Path) -> Path:
    write_lm_eval(out / "base", "base", 0)
    write_lm_eval(out / "oracle", "oracle", 12)
    return write_lm_eval(out / "moa", "moa", 9)


def test_a_board_is_built_of_stock_results(tmp_path: Path) -> None:
    grid(tmp_path)
    assert verify(tmp_path).problems == ()
    (board,) = build([tmp_path]).boards
    moa = next(row for row in board.rows if row.label == "moa")
    assert moa.ability
    assert moa.ability.value == pytest.approx(0.75)
    assert (board.suite, board.zoo) == ("mtl5", "mini")
    assert set(moa.tasks["sst2"].metrics) == {"acc", "acc_options"}
    assert moa.cost
    assert (moa.cost.eval_seconds, moa.cost.tokens_per_second, moa.cost.peak_bytes) == (12.5, None, 1000)


def test_what_is_read_is_a_result(tmp_path: Path) -> None:
    result, items = read_lm_eval(grid(tmp_path))
    assert items.root["squad"].doc_hashes == tuple(document("lorafuse_squad", i) for i in range(12))
    assert result.tasks["wmt14_en_de"].metrics["bleu"].stderr_method == "bootstrap"
    assert result.method.label == "moa"
    assert result.run_id == read_lm_eval(tmp_path / "moa" / f"results_{DATE}.json")[0].run_id


Edit = Callable[[dict[str, Any]], Any]
DAMAGES: dict[str, tuple[Edit, str]] = {
    "another model": (lambda f: f["config"].pop("lorafuse"), "config.lorafuse: missing"),
    "a limited run": (lambda f: f["config"].update(limit=5.0), "limit 5 gives 5"),
    "no samples count": (lambda f: f.pop("n-samples"), "n-samples: missing"),
    "a part of the rows": (
        lambda f: f["n-samples"]["lorafuse_squad"].update(original=50),
        r"tasks\.squad\.n",
    ),
    "a better value": (
        lambda f: f["results"]["lorafuse_sst2"].update({"acc,none": 0.99}),
        r"lorafuse_sst2\.acc",
    ),
    "a better BLEU": (
        lambda f: f["results"]["lorafuse_wmt14_en_de"].update({"bleu,none": 0.99}),
        r"lorafuse_wmt14_en_de\.bleu",
    ),
    "no zoo": (lambda f: f["config"]["lorafuse"].pop("zoo"), "zoo: missing"),
    "a wrong seed": (lambda f: f["config"]["lorafuse"]["zoo"].update(seed="x"), r"zoo\.seed"),
    "a task of nobody": (lambda f: f["configs"].update(nowhere={}), "unknown task 'nowhere'"),
    "no main metric": (
        lambda f: f["config"]["lorafuse"].update(unscored="task 'x': no metric is a mean."),
        "task 'x': no metric is a mean",
    ),
    "NaN": (
        lambda f: f["results"]["lorafuse_sst2"].update({"acc,none": float("nan")}),
        r"lorafuse_sst2\.acc",
    ),
    "text": (lambda f: f["results"]["lorafuse_sst2"].update({"acc,none": "good"}), "not lm-eval's results"),
    "another source": (lambda f: f["config"]["lorafuse"]["data"].update(source="hub"), r"data\.source"),
    "other experts": (lambda f: f["config"]["lorafuse"].update(experts=[]), "experts"),
    "examples in the prompt": (lambda f: f["n-shot"].update(lorafuse_squad=3), r"tasks\.squad\.few_shot"),
    "shorter prompts": (lambda f: f["config"]["lorafuse"].update(max_length=64), "max_length"),
    "sampling": (
        lambda f: f["configs"]["lorafuse_squad"]["generation_kwargs"].update(do_sample=True, temperature=5.0),
        r"tasks\.squad\.requests\.lorafuse_squad\.generation\.do_sample: True, but",
    ),
    "fewer tokens": (
        lambda f: f["configs"]["lorafuse_squad"]["generation_kwargs"].update(max_gen_toks=2),
        r"generation\.max_gen_toks: 2, but .* has nothing",
    ),
    "other stops": (
        lambda f: f["configs"]["lorafuse_squad"]["generation_kwargs"].update(until=["."]),
        r"generation\.until\.0: '\.', but",
    ),
    "another filter": (
        lambda f: f["configs"]["lorafuse_sst2"].update(filter_list=[{"name": "take_first"}]),
        r"tasks\.sst2\.requests\.lorafuse_sst2\.filters",
    ),
    "the best of many": (lambda f: f["configs"]["lorafuse_sst2"].update(repeats=8), r"repeats: 8, but"),
    "another task version": (lambda f: f["versions"].update(lorafuse_squad=2), r"tasks\.squad\.version"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_stock_results_are_refused(tmp_path: Path, damage: str) -> None:
    path = grid(tmp_path)
    edit, field = DAMAGES[damage]
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(LorafuseError, match=field) as caught:
        build([tmp_path])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert any(str(path) in problem for problem in verify(tmp_path).problems)


def test_other_prompts_are_refused(tmp_path: Path) -> None:
    """A system instruction, a chat template, other examples: whatever it was, the prompts are others."""
    samples = grid(tmp_path).with_name(f"samples_lorafuse_sst2_{DATE}.jsonl")
    prompt = document("lorafuse_sst2", 3)
    rows = [json.loads(line) for line in samples.read_text().split("\n") if line]
    for row in rows:
        row["prompt_hash"] = row["prompt_hash"].replace(prompt, "0" * 64)
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(LorafuseError, match=r"requests\.lorafuse_sst2\.prompts_sha256: '\w+\.*, but"):
        build([tmp_path])


def test_missing_or_altered_samples_are_refused(tmp_path: Path) -> None:
    samples = grid(tmp_path).with_name(f"samples_lorafuse_sst2_{DATE}.jsonl")
    lines = samples.read_text().split("\n")
    samples.write_text("\n".join([lines[0], *lines]))
    with pytest.raises(LorafuseError, match=r"results_.*'lorafuse_sst2': its samples have a doc_id twice"):
        build([tmp_path])
    samples.write_text("\n".join(lines[1:]))
    with pytest.raises(LorafuseError, match="results_"):
        build([tmp_path])
    samples.write_text("\n".join(lines).replace(document("lorafuse_sst2", 3), document("another", 3)))
    with pytest.raises(LorafuseError, match="other documents"):
        build([tmp_path])
    samples.unlink()
    with pytest.raises(LorafuseError, match=r"samples_lorafuse_sst2_.*jsonl: cannot be read"):
        build([tmp_path])


def test_a_suite_that_holds_another_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mtl7 is asked for, and mtl5 is a group of its own within."""
    more = {"lorafuse_paws": ("bleu",), "lorafuse_piqa": ("acc",), "lorafuse_piqa_options": ("acc_options",)}
    monkeypatch.setitem(globals(), "METRICS", METRICS | more)
    path = write_lm_eval(tmp_path, "base", good=3)
    output = json.loads(path.read_text())
    output["groups"] = {"mtl7": {}, "mtl5": {}}
    path.write_text(json.dumps(output))
    assert read_lm_eval(path)[0].suite == "mtl7"
