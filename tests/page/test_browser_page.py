"""The page itself in a browser: addresses, dark mode, phones, hostile strings."""

from pathlib import Path

import pytest
from browser import Browser
from evil import EVIL


def test_the_address_restores_the_view(browser: Browser, page: Path) -> None:
    browser.press("Raw")
    browser.header("task:one").click()
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
    browser.press("Dark mode")
    dark = browser.script(background)
    assert light == "rgb(251, 251, 250)" and dark == "rgb(20, 22, 26)"
    browser.driver.refresh()
    assert browser.script(background) == dark
    browser.press("Light mode")
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


def test_payloads_are_text(browser: Browser, page: Path) -> None:
    browser.open(page, "#board=0")
    assert EVIL in browser.methods()
    for view in ("Raw", "Recovered gap", "Over the oracle"):
        browser.press(view)
    for name in ("a", "plot", "task"):
        browser.choose(name, EVIL)
    browser.header("method").click()
    assert EVIL in browser.find("#samples").text
    assert EVIL in browser.find("h2").text
    assert browser.script("return document.querySelectorAll('img, iframe, main script').length") == 0
    browser.press("CSV")
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
