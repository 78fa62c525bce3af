"""`lorafuse bench serve` at a tiny size: same work for every backend, kept measurements, cost entered."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lorafuse_bench import cli
from lorafuse_bench.bench import serve
from lorafuse_bench.bench.backends import Request, Run
from lorafuse_bench.bench.plot import plot_serve
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.results import formats, run_ids

LOAD = serve.Load(requests=6, new_tokens=3, rounds=1)
FIELDS = {
    *("backend", "method", "mix", "concurrency", "how", "tokens_per_second", "tokens_per_second_low"),
    *("tokens_per_second_high", "requests_per_second", "route_seconds", "first_token_seconds"),
    *("between_tokens_seconds", "adapters_resident", "peak_bytes", "start_seconds", "load_average"),
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve") / "serve.json"


@pytest.fixture(scope="module")
def result(out: Path) -> dict[str, Any]:
    """Both backends that need no vLLM, on the embedded zoo."""
    return serve.run(LOAD, ("hf", "peft"), ("base", "oracle"), ("uniform",), (2, 4), out, lambda text: None)


def test_every_field_is_reported(result: dict[str, Any], out: Path) -> None:
    assert json.loads(out.read_text())["points"] == result["points"]
    pairs = Counter((point["backend"], point["method"]) for point in result["points"])
    assert pairs == {("hf", "base"): 2, ("hf", "oracle"): 2, ("peft", "oracle"): 2}
    for point in result["points"]:
        assert set(point) == FIELDS
        assert point["tokens_per_second"] == pytest.approx(3 * point["requests_per_second"])
        assert 0 < point["first_token_seconds"]["p50"] <= point["first_token_seconds"]["p99"]
    assert {point["adapters_resident"] for point in result["points"]} == {0, 7}
    assert [line["what"] for line in result["targets"]] == [
        f"oracle: ours / PEFT's mixed batch, uniform, {n} at a time" for n in (2, 4)
    ]


def test_what_was_measured_is_not_measured_again(
    result: dict[str, Any], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("started again")

    monkeypatch.setattr(serve, "start", refuse)
    again = serve.run(LOAD, ("hf", "peft"), ("base", "oracle"), ("uniform",), (2, 4), out, lambda text: None)
    assert again["points"] == result["points"]
    other = serve.Load(requests=7, new_tokens=3, rounds=1)
    with pytest.raises(LorafuseError, match="measured under another load"):
        serve.run(other, ("hf",), ("base",), out=out)


def test_what_was_finished_before_a_failure_is_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying:
        """Answers at one concurrency, then dies."""

        how, adapters, start_seconds = "base", 0, 0.1

        def answer(self, requests: list[Request], n: int, tokens: int) -> Run:
            if n == 4:
                raise LorafuseError("vLLM's engine died.")
            return Run(0.0, 1.0, tuple(tuple(float(i) for i in range(tokens)) for _ in requests))

        def peak_bytes(self) -> None:
            return None

        def close(self) -> None:
            pass

    monkeypatch.setattr(serve, "start", lambda *arguments: Dying())
    out = tmp_path / "serve.json"
    with pytest.raises(LorafuseError, match="engine died"):
        serve.run(LOAD, ("hf",), ("base",), ("uniform",), (2, 4), out, lambda text: None)
    (point,) = json.loads(out.read_text())["points"]
    assert point["concurrency"] == 2
    assert point["tokens_per_second"] == 18
    assert point["between_tokens_seconds"]["p95"] == 1


@pytest.mark.parametrize(("mix", "first"), [("uniform", 0.1), ("zipf", 0.3), ("single", 1.0)])
def test_mixes_draw_tasks_as_they_say(mix: str, first: float) -> None:
    requests = serve._requests(serve.Load(requests=300), mix)
    share = Counter(request.task for request in requests)["cnn_dailymail"] / 300
    assert share == pytest.approx({"uniform": 1 / 7, "zipf": 0.386, "single": 1.0}[mix], abs=0.08)
    assert share >= first
    assert all(request.prompt for request in requests)


def test_cost_is_entered_into_the_results_it_belongs_to(tmp_path: Path) -> None:
    arguments = [
        "run",
        "--methods",
        "base",
        "--suites",
        "mtl5",
        "--limit",
        "1",
        "--out",
        str(tmp_path / "results"),
    ]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    points = [
        {"backend": "vllm", "method": method, "mix": "uniform", "concurrency": n, "tokens_per_second": rate}
        for method, n, rate in [("base", 1, 100.0), ("base", 8, 500.0), ("oracle", 8, 300.0)]
    ]
    measured = {"load": {"zoo": "mini"}, "points": points}
    (changed,) = serve.enter(measured, tmp_path / "results")
    assert serve.cell_files.read_cell(changed)[0].cost.served_seconds_per_1000_tokens == 2.0
    now = json.loads(changed.read_text())
    older = formats.as_written({**now, "schema": "lorafuse.result/2"})
    changed.write_text(json.dumps({**older, "run_id": run_ids.run_id(older)}))
    (same,) = serve.enter(measured, tmp_path / "results")
    assert (json.loads(same.read_text())["routers"], serve.cell_files.read_result(same).artefacts) == ([], ())
    with pytest.raises(LorafuseError, match="no result of this zoo and these methods"):
        serve.enter({**measured, "points": points[2:]}, tmp_path / "results")


def test_plot(result: dict[str, Any], tmp_path: Path) -> None:
    plot_serve(result, tmp_path / "serve.png")
    assert (tmp_path / "serve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backends", "hff"], "Did you mean 'hf'"),
        (["--mix", "zip"], "Did you mean 'zipf'"),
        (["--backends", "hf", "--methods", "arrow"], "cannot be served by vLLM"),
        (["--suite", "mtl6"], "unknown suite 'mtl6'"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    arguments = ["bench", "serve", "--backends", "hf", "--methods", "base", *arguments]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 2
    assert message in done.stderr
