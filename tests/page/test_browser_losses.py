"""A board of losses in a browser, where less is better."""

from pathlib import Path

import pytest
from browser import Browser
from toy_cells import write_losses

from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.boards.collect import collect
from lorafuse_bench.leaderboards.boards.evidence import evidence_of
from lorafuse_bench.leaderboards.pages.page import write_page


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of losses: the nearer to the oracle's the better, and `dear` costs more and is worse."""
    folder = tmp_path_factory.mktemp("losses")
    held = {
        "base": (3.0, 0),
        "oracle": (1.0, 900),
        "near": (1.5, 800),
        "far": (2.5, 500),
        "dear": (3.5, 9000),
    }
    for label, (loss, cost) in held.items():
        costs = {"extra_parameters": cost, "eval_seconds": 1.0}
        write_losses(folder / "results", label, loss, loss, cost=costs)
    board = build([folder / "results"])
    return write_page(folder, board, evidence_of(collect([folder / "results"]), board))


def test_of_losses_the_least_is_best_in_every_part(browser: Browser, losses: Path) -> None:
    browser.open(losses)
    assert browser.methods() == ["oracle", "near", "far", "base", "dear"]
    assert "lower is better" in browser.find("#meaning").text
    heat = (
        "return [...document.querySelectorAll('#scores td.ability')].map(td =>"
        " (td.classList.contains('cold') ? -1 : 1) * td.style.getPropertyValue('--heat'))"
    )
    assert browser.script(heat) == [1, 0.75, 0.25, 0, -0.25]
    titles = "return [...document.querySelectorAll(arguments[0])].map(t => t.textContent.split(':')[0])"
    assert browser.script(titles, "#forest .mark title") == ["oracle", "near", "far", "base", "dear"]
    assert browser.script(titles, "#pareto .on-front title") == ["base", "far", "near", "oracle"]
    browser.press("Recovered gap")
    assert browser.methods() == ["oracle", "near", "far", "base", "dear"]
    assert browser.cell("near", 0) == "0.750"
    browser.press("Raw")
    assert browser.methods()[0] == "oracle" and browser.cell("near", 0) == "1.500"


def test_losses_are_compared_by_their_mean(browser: Browser, losses: Path) -> None:
    browser.open(losses, "#a=near&b=far")
    mean = " ".join(browser.find("#comparison tbody tr").text.split())
    assert mean.startswith("loss mean of the tasks 1.500 2.500 −1.000")
    assert "A is better" in mean and "after Holm" in mean
    browser.choose("b", "base")
    assert "A is better" in browser.find("#comparison tbody tr").text
