"""The page in a browser. After every test the fixture sees to it that nothing went wrong or out."""

import csv
import io
import json
from pathlib import Path

import pytest
from browser import Browser
from evil import EVIL
from selenium.webdriver.common.keys import Keys
from toy_cells import write, write_losses

from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.boards.collect import collect
from lorafuse_bench.leaderboards.boards.evidence import evidence_of
from lorafuse_bench.leaderboards.pages.page import write_page

pytestmark = pytest.mark.xdist_group("browser")

BEST_FIRST = ["oracle", "moa", "concat:rank=8", "svd", "=HYPERLINK(1)", "base"]


def press(browser: Browser, text: str) -> None:
    """Click the button that says so."""
    next(b for b in browser.driver.find_elements("tag name", "button") if b.text == text).click()


def header(browser: Browser, column: str) -> object:
    return browser.find(f'[data-key="sort {column}"]')


def order(browser: Browser, column: str) -> str:
    return browser.script(
        "return arguments[0].closest('th').getAttribute('aria-sort')", header(browser, column)
    )


def test_it_loads_best_first(browser: Browser) -> None:
    assert browser.methods() == BEST_FIRST
    assert browser.cell("moa", 0) == "0.875"
    assert browser.cell("moa", 1) == "0.750"
    assert order(browser, "ability") == "descending"
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
    press(browser, "Raw")
    assert browser.cell("moa", 2) == "0.800"
    press(browser, "Recovered gap")
    assert browser.cell("svd", 1) == "0.375"
    assert browser.cell("moa", 0) == "0.844"
    assert "view=gap" in browser.driver.current_url
    shown = [text for text in browser.texts("[data-view]") if text]
    assert shown == ["Over the oracle", "Raw", "Recovered gap"]


def test_sorting_by_any_column(browser: Browser) -> None:
    header(browser, "task:two").click()
    assert browser.methods() == ["oracle", "moa", "concat:rank=8", "svd", "=HYPERLINK(1)", "base"]
    header(browser, "task:two").click()
    assert order(browser, "task:two") == "ascending"
    assert browser.methods()[:2] == ["base", "=HYPERLINK(1)"]
    header(browser, "method").click()
    assert browser.methods() == sorted(BEST_FIRST, key=lambda label: label.lower())
    header(browser, "extra_parameters").click()
    assert browser.methods()[:3] == ["base", "=HYPERLINK(1)", "svd"]


def test_sorting_by_keyboard_keeps_the_focus(browser: Browser) -> None:
    header(browser, "ability").send_keys(Keys.ENTER)
    assert browser.methods() == BEST_FIRST[::-1]
    assert order(browser, "ability") == "ascending"
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
    press(browser, "Swap")
    assert "-0.250" in browser.find("#comparison").text.replace("−", "-")
    assert "a=svd" in browser.driver.current_url


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


def test_csv_holds_what_is_shown(browser: Browser) -> None:
    browser.choose("family", "merging")
    press(browser, "Raw")
    press(browser, "CSV")
    rows = list(csv.DictReader(io.StringIO(browser.downloaded("toy-mini.csv"))))
    assert [row["method"] for row in rows] == ["concat:rank=8", "svd", "'=HYPERLINK(1)"]
    assert [float(row["one"]) for row in rows] == [0.6, 0.5, 0.3]
    assert rows[0]["rank"] == "2" and rows[0]["extra_parameters"] == "4000"


def test_json_is_the_leaderboard(browser: Browser, page: Path) -> None:
    press(browser, "JSON")
    content = json.loads(browser.downloaded("leaderboard.json"))
    assert content["schema"] == "lorafuse.leaderboard/1"
    assert [board["zoo"] for board in content["boards"]] == ["mini"] * 3


def test_the_address_restores_the_view(browser: Browser, page: Path) -> None:
    press(browser, "Raw")
    header(browser, "task:one").click()
    browser.find("#search").send_keys("a")
    browser.choose("plot", "one")
    browser.choose("cost", "evaluation, seconds")
    browser.choose("a", "svd")
    browser.choose("task", "two")
    address = browser.driver.current_url
    before = browser.find("main").text, browser.find("#search").get_attribute("value")
    browser.driver.get("about:blank")
    browser.driver.get(address)
    assert (browser.find("main").text, browser.find("#search").get_attribute("value")) == before
    assert browser.driver.current_url == address
    browser.script("location.hash = 'board=1'")
    browser.driver.execute_async_script("setTimeout(arguments[0], 50)")
    assert "or_mtl on mini" in browser.texts("h2")


@pytest.mark.parametrize(
    "state",
    [
        "board=99",
        "board=-1",
        "board=x",
        "view=constructor",
        "sort=__proto__&a=b",
        "%",
        "task=zz&plot=zz&cost=zz&family=zz",
    ],
)
def test_a_bad_address_is_no_error(browser: Browser, page: Path, state: str) -> None:
    browser.open(page, f"#{state}")
    assert browser.find("#scores thead").text


def test_dark_mode(browser: Browser) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    light = browser.script(background)
    press(browser, "Dark mode")
    dark = browser.script(background)
    assert light == "rgb(251, 251, 250)" and dark == "rgb(20, 22, 26)"
    browser.driver.refresh()
    assert browser.script(background) == dark
    press(browser, "Light mode")
    assert browser.script(background) == light


def test_dark_mode_is_the_systems_until_chosen(browser: Browser) -> None:
    asked = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", asked)
    try:
        browser.driver.refresh()
        assert browser.script("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
        assert browser.texts("#theme") == ["Light mode"]
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("board", ["0", "1", "2"])
def test_a_phone_scrolls_only_tables_sideways(browser: Browser, page: Path, board: str) -> None:
    browser.width(375)
    try:
        browser.open(page, f"#board={board}")
        browser.script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        sizes = "return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
        assert max(browser.script(sizes)) == 375
    finally:
        browser.width(0)


def test_samples_show_disagreements_first(browser: Browser) -> None:
    browser.choose("task", "one")
    assert browser.texts("#samples-note") == ["12 of 20 documents of one, seed 1; long texts are cut."]
    first = browser.find(".sample").text
    assert "prompt 0" in first and "yes prompt" in first and "no prompt" in first
    assert "svd" in first.split("no prompt")[0].split("1.000")[1]


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
    press(browser, "Raw")
    assert browser.cell("moa", 0) == "0.800"


def test_oblivion_is_compared_overall_too(browser: Browser, page: Path) -> None:
    browser.open(page, "#board=1&a=moa&b=svd")
    overall, first = browser.texts("#comparison tbody tr")[:2]
    # moa right on 4-19, svd on 0-7: differences -1 on 4 items, +1 on 12, 0 on 4; seven tasks alike
    se = ((16 - 20 * 0.4**2) / 19 / 20) ** 0.5
    ends = [f"{sign * 1.96 * s + 0.4:+.3f}".replace("-", "−") for s in (se / 7**0.5, se) for sign in (-1, 1)]
    assert f"{ends[0]} to {ends[1]}" in overall and overall.startswith("overall")
    assert f"{ends[2]} to {ends[3]}" in first


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
    press(browser, "CSV")
    (row,) = csv.DictReader(io.StringIO(browser.downloaded("or_mtl-mini.csv")))
    found = [
        float(row[f"{name} {part}"]) for name in ("overall", "mmlu") for part in ("before", "after", "change")
    ]
    assert found == pytest.approx([0.1, 0.8, 0.7] * 2)
    assert float(row["mmlu se"]) > 0


def test_payloads_are_text(browser: Browser, page: Path) -> None:
    browser.open(page, "#board=0")
    assert EVIL in browser.methods()
    for view in ("Raw", "Recovered gap", "Over the oracle"):
        press(browser, view)
    for name in ("a", "plot", "task"):
        browser.choose(name, EVIL)
    header(browser, "method").click()
    assert EVIL in browser.find("#samples").text
    assert EVIL in browser.find("h2").text
    assert browser.script("return document.querySelectorAll('img, iframe, main script').length") == 0
    press(browser, "CSV")
    browser.script("location.hash += '&search=' + encodeURIComponent(arguments[0])", EVIL)
    (left,) = browser.driver.execute_async_script(
        "setTimeout(() => arguments[0]([document.getElementById('search').value]), 50)"
    )
    assert left == EVIL


def test_policy_blocks_what_is_not_ours(browser: Browser) -> None:
    browser.script(
        "const s = document.createElement('script'); s.text = 'window.bad = 3'; document.body.append(s)"
    )
    browser.script(
        "document.body.insertAdjacentHTML('beforeend', '<p onclick=\"window.bad = 4\" id=late>x</p>')"
    )
    browser.find("#late").click()
    assert browser.script("return window.bad ?? null") is None
    assert all("Content Security Policy" in complaint for complaint in browser.complaints())


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
    press(browser, "Recovered gap")
    assert browser.methods() == ["oracle", "near", "far", "base", "dear"]
    assert browser.cell("near", 0) == "0.750"
    press(browser, "Raw")
    assert browser.methods()[0] == "oracle" and browser.cell("near", 0) == "1.500"


def test_losses_are_compared_by_their_mean(browser: Browser, losses: Path) -> None:
    browser.open(losses, "#a=near&b=far")
    mean = " ".join(browser.find("#comparison tbody tr").text.split())
    assert mean.startswith("loss mean of the tasks 1.500 2.500 −1.000")
    assert "A is better" in mean and "after Holm" in mean
    browser.choose("b", "base")
    assert "A is better" in browser.find("#comparison tbody tr").text


def test_controls_follow_their_method_in_every_order(browser: Browser, tmp_path: Path) -> None:
    for label, right in {"base": 0, "oracle": 16, "mu": 8, "mu:control=random": 12, "svd": 10}.items():
        write(tmp_path, label, {"one": [float(i < right) for i in range(20)]})
    leaderboard = build([tmp_path])
    browser.open(write_page(tmp_path, leaderboard, evidence_of(collect([tmp_path]), leaderboard)), "")
    first = ["oracle", "svd", "mu", "mu:control=random", "base"]
    assert browser.methods() == first
    header(browser, "ability").click()
    assert browser.methods() == ["base", "mu", "mu:control=random", "svd", "oracle"]
    row = next(text for text in browser.texts("tr.control th") if text)
    assert "method − control −0.250, 95% −0.468 to −0.032" in row
    assert len(browser.texts("#pareto .mark")) == 4
