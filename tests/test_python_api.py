"""`import lorafuse_bench`: the lines of docs/python.md, the public names, what a notebook shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import add_router, tiny_zoo
from toy_cells import write

import lorafuse_bench as lf
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.tables import Table

PAGE = (Path(__file__).parent.parent / "docs" / "python.md").read_text()


def test_the_lines_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (lines,) = re.findall(r"^```python run\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) == 10
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(lines, names)
    printed = capsys.readouterr().out
    assert "zoo mini" in printed and "spectr" in printed and re.search("mnli.* on mini", printed)
    assert "<table>" in names["board"]._repr_html_()  # type: ignore[attr-defined]


def test_importing_brings_nothing_heavy_and_the_page_lists_every_name() -> None:
    code = "import sys, lorafuse_bench as lf; dir(lf); print(sorted({'torch', 'pydantic', 'rich'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    assert set(lf.__all__) <= set(dir(lf))
    for name in lf.__all__:
        assert f"`{name}" in PAGE
        assert getattr(lf, name).__doc__


def test_an_unknown_name_is_met_with_the_one_meant() -> None:
    with pytest.raises(AttributeError, match="no 'evalute'. Did you mean 'evaluate'"):
        lf.evalute  # noqa: B018
    with pytest.raises(lf.LorafuseError, match="unknown option 'limits' of evaluate. Did you mean 'limit'"):
        lf.evaluate("base", limits=3)
    with pytest.raises(lf.LorafuseError, match="unknown method 'svdd'. Did you mean 'svd'"):
        lf.fuse("mini", "svdd")


def test_experts_are_named_as_on_the_command_line(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path)
    assert repr(lf.fuse(zoo, "svd", "sst2, mnli", device="cpu")).startswith("tiny with sst2, mnli, fused")
    with pytest.raises(lf.LorafuseError, match="method 'svd' needs experts, and there are none. Name some"):
        lf.fuse(zoo, "svd", [], device="cpu")
    with pytest.raises(lf.LorafuseError, match="unknown expert 'sst3' .* Did you mean 'sst2'"):
        lf.evaluate("svd", "sst2", zoo, tmp_path / "out", experts="sst3,mnli")


def test_a_task_that_was_edited_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, task = (
        tmp_path / "mine.yaml",
        "task: mine\noutput_type: generate_until\nmetric_list: [{metric: bleu}]\n",
    )
    file.write_text(task)
    monkeypatch.setenv("LORAFUSE_TASKS", str(tmp_path))
    zoo = tiny_zoo(tmp_path / "zoo")
    with pytest.raises(lf.LorafuseError, match="unknown expert 'nobody'"):
        lf.evaluate("base", "mine", zoo, tmp_path / "out", experts="nobody")
    file.write_text(task + "metadata: {lorafuse: {metric: f2}}\n")
    with pytest.raises(lf.LorafuseError, match="has no metric 'f2'"):
        lf.evaluate("base", "mine", zoo, tmp_path / "out", experts="nobody")


def test_generate_routes_each_prompt_as_lm_evals_model_does(tmp_path: Path) -> None:
    zoo = add_router(tiny_zoo(tmp_path))
    fused = lf.fuse(zoo, "moa", device="cpu")
    prompts = ["one", "another one", "third"]
    got = fused.generate(prompts, max_new_tokens=6, task="sst2")
    assert got == [fused.generate(prompt, 6, "sst2")[0] for prompt in prompts]
    assert got != fused.use("base").generate(prompts, max_new_tokens=6)
    assert repr(fused) == "tiny with sst2, mnli, squad, fused by base"
    with pytest.raises(lf.LorafuseError, match="no expert for task 'boolq'"):
        fused.use("oracle").generate("one", task="boolq")
    assert isinstance(fused._lm, LorafuseLM)


def test_tables_show_hostile_text_as_text() -> None:
    table = Table(("a", "b"), [("<script>", "[red]x[/red]\x1b[2J")], title="<b>", notes=["<i>"])
    assert "<script>" not in table._repr_html_() and "&lt;i&gt;" in table._repr_html_()
    assert "[red]x[/red]?[2J" in str(table)


def test_a_board_shows_the_same_in_a_notebook_as_on_a_terminal(tmp_path: Path) -> None:
    for label, scores in (("base", [0.0] * 8), ("oracle", [1.0] * 8), ("concat", [1.0, 0.0] * 4)):
        write(tmp_path, label, {"one": scores})
    board = lf.board(tmp_path)
    (row,) = re.findall(r"<tr>(?:(?!</tr>).)*concat.*?</tr>", board._repr_html_())
    cells = re.findall(r">([^<>]+)</td>", row)
    (line,) = (line for line in str(board).splitlines() if "concat" in line)
    assert line.split() == cells
