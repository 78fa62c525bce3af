"""The table of scores in a browser: views, sorting, filters, ranks, downloads."""

import csv
import io
import json
from pathlib import Path

from browser import Browser
from selenium.webdriver.common.keys import Keys
from toy_cells import write

from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.boards.collect import collect
from lorafuse_bench.leaderboards.boards.evidence import evidence_of
from lorafuse_bench.leaderboards.pages.page import write_page

BEST_FIRST = ["oracle", "moa", "concat:rank=8", "svd", "=HYPERLINK(1)", "base"]


def test_it_loads_best_first(browser: Browser) -> None:
    assert browser.methods() == BEST_FIRST
    assert browser.cell("moa", 0) == "0.875"
    assert browser.cell("moa", 1) == "0.750"
    assert browser.order("ability") == "descending"
    assert "toy on mini" in browser.texts("h2")
    assert len(browser.texts("#forest .mark")) == 6


def test_heat_follows_the_score(browser: Browser) -> None:
    heats = browser.script(
        "return [...document.querySelectorAll('#scores tr.measured td:nth-child(3)')]"
        ".map(td => Number(td.style.getPropertyValue('--heat')))"
    )
    assert heats == [1, 0.75, 0.6, 0.5, 0.3, 0.2]
    cell = "document.querySelectorAll('#scores tr.measured td:nth-child(3)')[arguments[0]]"
    colours = [browser.script(f"return getComputedStyle({cell}).backgroundColor", row) for row in (0, 5)]
    assert colours[0] != colours[1]


def test_views(browser: Browser) -> None:
    browser.press("Raw")
    assert browser.cell("moa", 2) == "0.800"
    browser.press("Recovered gap")
    assert browser.cell("svd", 1) == "0.375"
    assert browser.cell("moa", 0) == "0.844"
    assert "view=gap" in browser.driver.current_url
    shown = [text for text in browser.texts("[data-view]") if text]
    assert shown == ["Over the oracle", "Raw", "Recovered gap"]


def test_sorting_by_any_column(browser: Browser) -> None:
    browser.header("task:two").click()
    assert browser.methods() == ["oracle", "moa", "concat:rank=8", "svd", "=HYPERLINK(1)", "base"]
    browser.header("task:two").click()
    assert browser.order("task:two") == "ascending"
    assert browser.methods()[:2] == ["base", "=HYPERLINK(1)"]
    browser.header("method").click()
    assert browser.methods() == sorted(BEST_FIRST, key=lambda label: label.lower())
    browser.header("extra_parameters").click()
    assert browser.methods()[:3] == ["base", "=HYPERLINK(1)", "svd"]


def test_sorting_by_keyboard_keeps_the_focus(browser: Browser) -> None:
    browser.header("ability").send_keys(Keys.ENTER)
    assert browser.methods() == BEST_FIRST[::-1]
    assert browser.order("ability") == "ascending"
    focused = browser.driver.switch_to.active_element
    assert focused.get_attribute("data-key") == "sort ability"
    focused.send_keys(Keys.SPACE)
    assert browser.methods() == BEST_FIRST
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.script(outline) == "solid"


def test_the_first_tab_skips_to_the_table(browser: Browser) -> None:
    browser.find("body").send_keys(Keys.TAB)
    skip = browser.driver.switch_to.active_element
    assert skip.text == "Skip to the table"
    skip.send_keys(Keys.ENTER)
    assert browser.methods() == BEST_FIRST
    assert browser.driver.switch_to.active_element.get_attribute("data-key") == "sort method"


def test_filter_and_search(browser: Browser) -> None:
    browser.choose("family", "routing")
    assert browser.methods() == ["moa"]
    assert browser.texts("#count") == ["1 of 6 rows"]
    browser.choose("family", "all families")
    browser.find("#search").send_keys("RANK=")
    assert browser.methods() == ["concat:rank=8"]
    browser.find("#search").send_keys("zzz")
    assert browser.methods() == []
    assert browser.texts("#forest") == ["No row has this score."]


def test_ranks_show_the_places_that_cannot_be_ruled_out(browser: Browser) -> None:
    data = json.loads(browser.script("return document.getElementById('data').textContent"))
    board = data["leaderboard"]["boards"][2]
    rows = [row for row in board["rows"] if row["origin"] == "measured"]
    ranges = ["" if row["rank"] is None else f"{row['rank_low']}–{row['rank_high']}" for row in rows]
    assert any(ranges)
    expected = ["" if low == high else text for text in ranges for low, _, high in [text.partition("–")]]
    ranks = "[...document.querySelectorAll('#scores tr.measured .rank')]"
    shown = f"return {ranks}.map(rank => rank.querySelector('small')?.textContent ?? '')"
    assert browser.script(shown) == expected


def test_csv_holds_what_is_shown(browser: Browser) -> None:
    browser.choose("family", "merging")
    browser.press("Raw")
    browser.press("CSV")
    rows = list(csv.DictReader(io.StringIO(browser.downloaded("toy-mini.csv"))))
    assert [row["method"] for row in rows] == ["concat:rank=8", "svd", "'=HYPERLINK(1)"]
    assert [float(row["one"]) for row in rows] == [0.6, 0.5, 0.3]
    assert rows[0]["rank"] == "2" and rows[0]["extra_parameters"] == "4000"


def test_json_is_the_leaderboard(browser: Browser, page: Path) -> None:
    browser.press("JSON")
    content = json.loads(browser.downloaded("leaderboard.json"))
    assert content["schema"] == "lorafuse.leaderboard/1"
    assert [board["zoo"] for board in content["boards"]] == ["mini"] * 3


def test_controls_follow_their_method_in_every_order(browser: Browser, tmp_path: Path) -> None:
    for label, right in {"base": 0, "oracle": 16, "mu": 8, "mu:control=random": 12, "svd": 10}.items():
        write(tmp_path, label, {"one": [float(i < right) for i in range(20)]})
    leaderboard = build([tmp_path])
    browser.open(write_page(tmp_path, leaderboard, evidence_of(collect([tmp_path]), leaderboard)), "")
    first = ["oracle", "svd", "mu", "mu:control=random", "base"]
    assert browser.methods() == first
    browser.header("ability").click()
    assert browser.methods() == ["base", "mu", "mu:control=random", "svd", "oracle"]
    row = next(text for text in browser.texts("tr.control th") if text)
    assert "method − control −0.250, 95% −0.468 to −0.032" in row
    assert len(browser.texts("#pareto .mark")) == 4
