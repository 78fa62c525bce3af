"""The board of oblivion in a browser: before and after."""

import csv
import io
from pathlib import Path

import pytest
from browser import Browser


def test_the_oblivion_board_opens_on_before_and_after(browser: Browser, page: Path) -> None:
    browser.open(page, "#board=1")
    assert "or_mtl on mini" in browser.texts("h2")
    assert [text for text in browser.texts("[data-view]") if text] == ["Before and after", "Raw"]
    assert browser.methods() == ["moa", "concat:rank=8", "svd", "=HYPERLINK(1)", "base"]
    assert browser.texts("#scores thead th")[1].split("\n")[0] == "overall"
    assert browser.cell("moa", 0) == browser.cell("moa", 1) == "+0.700"
    assert browser.cell("base", 1) == "0.100"
    assert "0.100 → 0.800" in browser.find("#scores").text
    assert "does not count" not in browser.find("main").text
    assert "base" in browser.texts("#forest .mark text")
    assert not browser.find("#samples-section").is_displayed()
    browser.press("Raw")
    assert browser.cell("moa", 0) == "0.800"


def test_oblivion_is_compared_overall_too(browser: Browser, page: Path) -> None:
    browser.open(page, "#board=1&a=moa&b=svd")
    overall, first = browser.texts("#comparison tbody tr")[:2]
    # moa right on 4-19, svd on 0-7: differences -1 on 4 items, +1 on 12, 0 on 4; seven tasks alike
    se = ((16 - 20 * 0.4**2) / 19 / 20) ** 0.5
    ends = [f"{sign * 1.96 * s + 0.4:+.3f}".replace("-", "−") for s in (se / 7**0.5, se) for sign in (-1, 1)]
    assert f"{ends[0]} to {ends[1]}" in overall and overall.startswith("overall")
    assert f"{ends[2]} to {ends[3]}" in first


def test_the_papers_oblivion_stands_beside(browser: Browser, page: Path) -> None:
    browser.open(page, "#board=1")
    browser.find("#search").send_keys("table 12")
    assert browser.methods() == []
    deltas = browser.script(
        "return [...document.querySelectorAll('#scores tr.reported')].map(tr => [...tr.cells].slice(0, 2)"
        ".map(cell => cell.firstChild.data ?? cell.childNodes[1].data))"
    )
    assert ["moore", "−0.013"] in deltas
    assert ["lora", "−0.471"] in deltas


def test_csv_of_oblivion_has_before_after_and_change(browser: Browser, page: Path) -> None:
    browser.open(page, "#board=1&search=moa")
    browser.press("CSV")
    (row,) = csv.DictReader(io.StringIO(browser.downloaded("or_mtl-mini.csv")))
    found = [
        float(row[f"{name} {part}"]) for name in ("overall", "mmlu") for part in ("before", "after", "change")
    ]
    assert found == pytest.approx([0.1, 0.8, 0.7] * 2)
    assert float(row["mmlu se"]) > 0
