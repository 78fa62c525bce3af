"""One browser and one small site for all tests of the page."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from site_of_toys import TOY, write_site


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of three small boards."""
    return write_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def one_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(one_browser: Browser, page: Path) -> Iterator[Browser]:
    """The page, open at the toy board; afterwards nothing was complained of, asked for, or run from a result."""
    one_browser.open(page, TOY)
    yield one_browser
    assert one_browser.script("return window.bad ?? null") is None
    assert one_browser.complaints() == []
    assert {address.partition(":")[0] for address in one_browser.requests()} <= {
        "file",
        "blob",
        "about",
        "data",
    }
    one_browser.script("localStorage.clear()")
