"""The site of all published boards: its pages, its links, and what it does in a browser."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import Browser
from evil import EVIL
from toy_cells import write, write_losses
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.pages.site import slug, write_site
from lorafuse_bench.leaderboards.publishing.publish import pack

N = 40


def publish(folder: Path, right: dict[str, int], **changes: object) -> None:
    """A published board: each method with the share of its 40 items that it gets right."""
    for label, hits in right.items():
        write(
            folder.parent / "raw" / folder.name,
            label,
            {"one": [float(i < hits) for i in range(N)]},
            **changes,
        )
    pack([folder.parent / "raw" / folder.name], folder, "Toys.")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two boards with the same name in folders of their own, a board of losses, and one of payloads."""
    folder = tmp_path_factory.mktemp("published")
    publish(folder / "first", {"base": 4, "oracle": 40, "svd": 20, "concat": 30, "concat:rank=4": 10})
    publish(folder / "second", {"base": 4, "oracle": 40, "svd": 30, "concat": 10})
    for label, loss in (("base", 3.0), ("oracle", 1.0), ("svd", 1.5)):
        write_losses(folder / "raw" / "losses", label, loss)
    pack([folder / "raw" / "losses"], folder / "losses", "Losses.")
    publish(
        folder / "payload",
        {"base": 4, "oracle": 40, EVIL: 20},
        suite=EVIL,
        zoo={"name": EVIL},
        base={"repo": EVIL},
        data={"source": EVIL},
    )
    out = folder / "site"
    for each in ("first", "second", "losses", "payload"):
        (folder / "boards").mkdir(exist_ok=True)
        (folder / each).rename(folder / "boards" / each)
    write_site(folder / "boards", out)
    return out


class Links(HTMLParser):
    """A page's tags and the addresses that it leads to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name.startswith("on") or name == "style" for name, _ in attrs)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def test_every_link_leads_to_a_page_of_the_site(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) == 1 + 4 + 5  # the index, boards, and base, oracle, svd, concat and the payload
    for page in pages:
        found = Links(page.read_text())
        assert found.tags.isdisjoint({"img", "iframe", "link", "object", "base", "form"})
        for link in found.links:
            address = urlsplit(link)
            assert not address.scheme and not address.netloc
            assert not address.path or (page.parent / unquote(address.path)).resolve() in pages, link


def test_links_hang_on_names(site: Path) -> None:
    names = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert {"boards/first/index.html", "boards/second/index.html", "methods/concat.html"} <= names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("moa", r"moa"),
        ("smol-mtl7", r"smol-mtl7"),
        ("MoA", r"moa-[0-9a-f]{8}"),
        ("../../etc", r"etc-[0-9a-f]{8}"),
        ("..", r"[0-9a-f]{8}"),
        ("a" * 300, r"a{60}-[0-9a-f]{8}"),
        ("index", r"index-[0-9a-f]{8}"),
    ],
)
def test_names_of_files_are_plain_and_differ_where_names_do(name: str, expected: str) -> None:
    assert re.fullmatch(expected, slug(name))


def test_the_same_boards_give_the_same_site(site: Path, tmp_path: Path) -> None:
    again = write_site(site.parent / "boards", tmp_path)
    assert len(again) == 10
    for page in again:
        assert page.read_bytes() == (site / page.relative_to(tmp_path)).read_bytes()


def test_a_board_that_is_not_what_its_results_make_is_refused(site: Path, tmp_path: Path) -> None:
    publish(tmp_path / "boards" / "mine", {"base": 4, "oracle": 40, "svd": 20})
    board = tmp_path / "boards" / "mine" / "leaderboard.json"
    board.write_text(board.read_text().replace('"rank": 1', '"rank": 2'))
    with pytest.raises(LorafuseError, match=r"leaderboard.json: .*its results make"):
        write_site(tmp_path / "boards", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_folder_without_boards_is_one_line(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["leaderboard", "site", str(tmp_path), "--out", str(tmp_path / "site")])
    assert told.exit_code == 2
    assert "no leaderboard.json below it" in told.output


class TestInABrowser:
    """Each test ends with a look at what went wrong or out: `browser` is the fixture of the page's tests."""

    def open(self, browser: Browser, site: Path, shown: str) -> None:
        browser.open(site / shown)

    def rows(self, browser: Browser) -> list[str]:
        return [" ".join(text.split()) for text in browser.texts("tbody tr") if text]

    def test_a_method_stands_on_every_board_with_its_interval(self, browser: Browser, site: Path) -> None:
        self.open(browser, site, "methods/concat.html")
        first, variant, second = self.rows(browser)
        half = 1.96 * (0.75 * 0.25 / 39) ** 0.5
        assert first.startswith("concat toy on mini, first, base base")
        assert f"0.750 {0.75 - half:.3f} to {0.75 + half:.3f}" in first
        assert variant.startswith("concat:rank=4 toy on mini, first")
        assert second.startswith("concat toy on mini, second") and "0.250" in second
        assert len(browser.texts("svg .interval")) == 3

    def test_losses_have_a_table_of_their_own(self, browser: Browser, site: Path) -> None:
        self.open(browser, site, "methods/svd.html")
        assert [text.lower() for text in browser.texts("h2")] == ["ability", "loss above the oracle's"]
        assert "+0.500" in self.rows(browser)[-1]

    def test_the_search_keeps_what_holds_every_word_and_is_in_the_address(
        self, browser: Browser, site: Path
    ) -> None:
        self.open(browser, site, "index.html")
        browser.find("#search").send_keys("MINI second")
        assert all("second" in row for row in self.rows(browser)) and self.rows(browser)
        address = browser.driver.current_url
        shown = self.rows(browser)
        browser.driver.get("about:blank")
        browser.driver.get(address)
        assert self.rows(browser) == shown
        assert browser.texts("#count") == [f"{len(shown)} of 9 rows"]

    def test_from_the_index_to_a_board_to_a_method_and_back(self, browser: Browser, site: Path) -> None:
        self.open(browser, site, "index.html")
        browser.find('a[href^="boards/second/"]').click()
        assert browser.methods  # the board's page
        browser.find('#scores a[href$="methods/svd.html"]').click()
        assert browser.texts("h1") == ["svd on every board"]
        browser.find("header a").click()
        assert browser.texts("h1") == ["LoRA-Fuse Bench: all boards"]

    @pytest.mark.parametrize("shown", ["index.html", "methods/concat.html", f"methods/{slug(EVIL)}.html"])
    def test_a_phone_scrolls_only_tables_sideways(self, browser: Browser, site: Path, shown: str) -> None:
        browser.width(375)
        try:
            self.open(browser, site, shown)
            sizes = "return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
            assert max(browser.script(sizes)) == 375
        finally:
            browser.width(0)

    @pytest.mark.parametrize("shown", ["index.html", f"methods/{slug(EVIL)}.html"])
    def test_payloads_are_text(self, browser: Browser, site: Path, shown: str) -> None:
        self.open(browser, site, shown)
        assert EVIL in browser.find("main").text
        browser.find("#search").send_keys(EVIL)
        assert browser.script("return document.querySelectorAll('img, iframe, main script').length") == 0
        assert self.rows(browser)
