"""Samples: the sidecar, its rows from lm-eval, and the answers side by side."""

import gzip
from pathlib import Path

import pytest
from toy_cells import write
from typer.testing import CliRunner

from lorafuse_bench import cli
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.results.samples import (
    Sample,
    item_scores,
    of_lm_eval,
    read_samples,
    samples_in,
    samples_path,
    side_by_side,
    write_samples,
)


def sample(doc_id: int, output: str | None, score: float, **changes: object) -> Sample:
    fields = {
        "task": "one",
        "doc_id": doc_id,
        "doc_hash": f"hash {doc_id}",
        "prompt": f"prompt {doc_id}",
        "target": "yes",
        "output": output,
        "score": score,
    }
    return Sample.model_validate(fields | changes)


def cell_with_samples(out: Path, label: str, outputs: list[str], **changes: object) -> Path:
    scores = [float(output == "yes") for output in outputs]
    path = write(out, label, {"one": scores}, **changes)
    write_samples(path, [sample(i, *pair) for i, pair in enumerate(zip(outputs, scores, strict=True))])
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    cell_with_samples(tmp_path, "base", ["no", "no", "no"])
    cell_with_samples(tmp_path, "oracle", ["yes", "no", "yes"])
    cell_with_samples(tmp_path, "[red]svd[/red]", ["yes", "\x1b[2Jno", "no"])
    return tmp_path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [sample(0, "line\u2028 separators\n and \x85 others", 0.5), sample(1, None, 2.0)]
    path = write_samples(tmp_path / "moa.json", rows)
    assert path == tmp_path / "moa.samples.jsonl.gz"
    assert read_samples(tmp_path / "moa.json") == rows
    before = path.read_bytes()
    assert write_samples(tmp_path / "moa.json", rows).read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"no gzip", gzip.compress(b'{"task": "one"}\n', mtime=0), gzip.compress(b"\xff\n", mtime=0)]
)
def test_damaged_samples_name_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "moa.samples.jsonl.gz").write_bytes(content)
    with pytest.raises(LorafuseError, match=r"moa\.samples\.jsonl\.gz"):
        read_samples(tmp_path / "moa.json")


def test_rows_from_lm_eval_are_sorted_and_likelihoods_are_no_text() -> None:
    logged = {"doc_hash": "h", "target": "yes", "arguments": [("prompt", {"until": ["\n"]})]}
    rows = of_lm_eval(
        "one",
        [
            logged | {"doc_id": 1, "filtered_resps": [-3.5]},
            logged | {"doc_id": 0, "filtered_resps": ["yes"]},
        ],
        [1.0, 1.5],
    )
    assert [(row.doc_id, row.output, row.score) for row in rows] == [(0, "yes", 1.0), (1, None, 1.5)]
    assert (rows[0].prompt, rows[0].target, rows[0].doc_hash) == ("prompt", "yes", "h")


def test_an_items_score() -> None:
    assert item_scores([0.25, 1]).tolist() == [0.25, 1.0]
    assert item_scores([[6.0, 4.0], [0.0, 0.0]]).tolist() == [1.5, 0.0]
    assert item_scores([[4, 4, 4, 3, 2, 1, 4, 3, 2, 1]]) == pytest.approx([1.0])
    with pytest.raises(LorafuseError, match=r"shape \(1, 3\) are no known kind"):
        item_scores([[1.0, 2.0, 3.0]])


def test_disagreements_come_first_and_equal_answers_are_one() -> None:
    cells = {
        "a": [sample(0, "no", 0.0), sample(1, "no", 0.0), sample(2, "yes", 1.0)],
        "b": [sample(0, "no", 0.0), sample(1, "never", 0.0), sample(2, "no", 0.0)],
        "c": [sample(0, "no", 0.0), sample(1, "no", 0.0), sample(2, "yes", 1.0), sample(3, "no", 0.0)],
    }
    items = side_by_side(cells, "one")
    assert [item.doc_id for item in items] == [2, 1, 0]
    assert [(answer.output, answer.labels) for answer in items[0].answers] == [
        ("yes", ("a", "c")),
        ("no", ("b",)),
    ]
    assert items[2].answers[0].labels == ("a", "b", "c")
    assert side_by_side(cells, "other") == []


def test_documents_with_one_hash_stay_apart() -> None:
    cells = {"a": [sample(0, "no", 0.0, doc_hash="same"), sample(1, "yes", 1.0, doc_hash="same")]}
    assert len(side_by_side(cells, "one")) == 2


def test_the_command_prints_disagreements_first_and_no_control_characters(results: Path) -> None:
    done = CliRunner().invoke(cli.app, ["samples", str(results), "--task", "one", "--limit", "2"])
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert "one 0" in lines[0]
    assert any("[red]svd[/red], oracle" in line and "1.000" in line and "yes" in line for line in lines)
    assert "\x1b" not in done.output
    assert lines[-1] == "2 of 3 documents of one; the 3 methods differ on 3."


def test_the_command_takes_methods(results: Path) -> None:
    done = CliRunner().invoke(
        cli.app, ["samples", str(results), "--task", "one", "--methods", "base,oracle", "--limit", "9"]
    )
    assert "svd" not in done.output
    assert done.output.splitlines()[-1] == "3 of 3 documents of one; the 2 methods differ on 2."


def test_what_is_not_there_is_named(results: Path, tmp_path: Path) -> None:
    with pytest.raises(LorafuseError, match="Did you mean 'one'"):
        samples_in(results, "ones")
    with pytest.raises(LorafuseError, match="Did you mean 'oracle'"):
        samples_in(results, "one", ["orcle"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(LorafuseError, match="no samples here"):
        samples_in(tmp_path / "empty", "one")
    cell_with_samples(results, "base", ["no"], zoo={"seed": 2})
    with pytest.raises(LorafuseError, match="mini-1, .*mini-2"):
        samples_in(results, "one")


def test_the_samples_lie_beside_the_result(results: Path) -> None:
    path = next(results.rglob("oracle.json"))
    assert samples_path(path).is_file()
