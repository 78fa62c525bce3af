"""Two methods, the figures and the samples in a browser."""

import json
from pathlib import Path

from browser import Browser
from toy_cells import write

from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.pages.page import write_page


def test_compare_two_methods(browser: Browser) -> None:
    browser.choose("a", "moa")
    browser.choose("b", "svd")
    rows = browser.script(
        "return [...document.querySelectorAll('#comparison tbody tr')]"
        ".map(tr => [...tr.cells].map(cell => cell.firstChild?.data ?? ''))"
    )
    by_task = {row[0]: row[1:] for row in rows}
    # one: moa right on 0-14, svd on 4-13; two: moa on 4-19, svd on 0-7.
    assert by_task["one"] == ["0.750", "0.500", "+0.250", "5", "0", "15", "A is better"]
    assert by_task["two"] == ["0.800", "0.400", "+0.400", "12", "4", "4", "A is better"]
    assert by_task["ability"] == [
        "0.875",
        "0.500",
        "+0.375",
        "–",
        "–",
        "–",
        "A is better, p = 0.027 after Holm",
    ]
    low = 0.25 - 1.96 * (0.25 * 0.75 / 19) ** 0.5
    assert f"+{low:.3f} to +{0.5 - low:.3f}" in browser.find("#comparison").text
    browser.press("Swap")
    assert "-0.250" in browser.find("#comparison").text.replace("−", "-")
    assert "a=svd" in browser.driver.current_url


def test_comparing_ranked_methods_uses_the_boards_correction(browser: Browser) -> None:
    data = json.loads(browser.script("return document.getElementById('data').textContent"))
    pairs = data["leaderboard"]["boards"][2]["ranking"]["pairs"]
    pair = next(pair for pair in pairs if {pair["a"], pair["b"]} == {"concat:rank=8", "svd"})
    browser.choose("a", "concat:rank=8")
    browser.choose("b", "svd")
    verdict = browser.find("#comparison tbody tr").text
    words = "A is better" if pair["p"] <= 0.05 else "no clear difference"
    assert words in verdict and f"p = {pair['p']:.3f} after Holm" in verdict
    browser.choose("b", "base")
    assert "Holm" not in browser.find("#comparison tbody tr").text


def test_figures_follow_the_choices(browser: Browser) -> None:
    browser.choose("plot", "two")
    titles = browser.script(
        "return [...document.querySelectorAll('#forest .mark title')].map(t => t.textContent)"
    )
    assert any(t.startswith("svd: normalised 0.5;") and "95% interval" in t for t in titles)
    front = "return [...document.querySelectorAll('#pareto .on-front title')].map(t => t.textContent.split(':')[0])"
    assert browser.script(front) == ["base", "=HYPERLINK(1)", "svd", "oracle"]
    browser.choose("cost", "evaluation, seconds")
    assert browser.script(front) == ["oracle"]


def test_names_in_the_cost_figure_do_not_cover_each_other(browser: Browser, tmp_path: Path) -> None:
    right = {"base": (0, 0), "near-the-other": (20, 1000), "near-the-one": (21, 1010), "oracle": (40, 9000)}
    for label, (hits, cost) in right.items():
        scores = [float(i < hits) for i in range(40)]
        costs = {"extra_parameters": cost, "eval_seconds": 1.0}
        write(tmp_path, label, {"one": scores}, cost=costs)
    browser.open(write_page(tmp_path, build([tmp_path])))
    assert sorted(browser.texts("#pareto .mark text")) == sorted(right)
    boxes = browser.script(
        "return [...document.querySelectorAll('#pareto .mark text')].map(t => t.getBoundingClientRect().toJSON())"
    )
    for place, one in enumerate(boxes):
        for other in boxes[:place]:
            apart = one["right"] <= other["left"] or other["right"] <= one["left"]
            assert apart or abs(one["top"] - other["top"]) > 10


def test_samples_show_disagreements_first(browser: Browser) -> None:
    browser.choose("task", "one")
    assert browser.texts("#samples-note") == ["12 of 20 documents of one, seed 1; long texts are cut."]
    first = browser.find(".sample").text
    assert "prompt 0" in first and "yes prompt" in first and "no prompt" in first
    assert "svd" in first.split("no prompt")[0].split("1.000")[1]
