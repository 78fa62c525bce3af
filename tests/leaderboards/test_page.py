"""The page: what it says, that strings of results stay strings, that it asks the network for nothing."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from toy_cells import write

from lorafuse_bench.leaderboards import text
from lorafuse_bench.leaderboards.board import Score
from lorafuse_bench.leaderboards.builder import build
from lorafuse_bench.leaderboards.page import render, write_page

GOOD, HALF, BAD = [1.0] * 8, [1.0, 0.0] * 4, [0.0] * 8
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Tags(HTMLParser):
    """Tags and attributes of a page, and the text in its cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(out: Path, label: str = "concat", **changes: object) -> str:
    write(out, "base", {"one": BAD, "two": HALF}, **changes)
    write(out, "oracle", {"one": GOOD, "two": HALF}, **changes)
    write(out, label, {"one": HALF, "two": GOOD}, **changes)
    write(out, "svd", {"one": HALF}, **changes)
    return render(build([out]))


def test_scores_errors_marks_and_reasons_are_shown(tmp_path: Path) -> None:
    content = Tags(page_of(tmp_path))
    for expected in ("concat", "0.500", "±0.189", "floor", "reference", "incomplete 1/2", "two is shown raw"):
        assert expected in content.text
    titles = [attributes.get("title") or "" for _, attributes in content.tags]
    assert any("over the oracle 0.5; standard error over items 0.19\nacc 0.5" in title for title in titles)


def test_heat_follows_the_score_and_only_the_colour_is_limited(tmp_path: Path) -> None:
    write(tmp_path, "base", {"one": [-1.0] * 8})
    write(tmp_path, "oracle", {"one": GOOD})
    write(tmp_path, "concat", {"one": [1.5] * 8})
    page = render(build([tmp_path]))
    assert set(re.findall(r"--v: ([\d.]+)", page)) == {"0.0", "1.0"}
    assert "1.500" in page
    assert "-1.000" in page


def test_untrusted_strings_are_escaped_everywhere(tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        label=EVIL,
        suite=EVIL,
        zoo={"name": EVIL},
        base={"repo": EVIL},
        data={"source": EVIL},
        method={"family": EVIL},
        environment={"hardware": EVIL, "versions": {EVIL: EVIL}},
        experts=[{"name": EVIL, "sha256": "c", "rank": 8, "alpha": 1.0, "targets": []}],
    )
    content = Tags(page)
    assert {tag for tag, _ in content.tags}.isdisjoint({"script", "img", "iframe", "link", "object"})
    assert content.text.count("<script>alert(1)</script>") >= 6
    assert not any(name.startswith("on") for _, attributes in content.tags for name in attributes)


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    content = Tags(page_of(tmp_path))
    links = [a[k] or "" for _, a in content.tags for k in ("href", "src", "action") if k in a]
    assert all(link.startswith("#") for link in links)
    policy = next(a["content"] or "" for _, a in content.tags if a.get("http-equiv"))
    assert "default-src 'none'" in policy


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert page == render(build([tmp_path]))
    assert str(tmp_path) not in page


def test_the_page_is_written_as_index(tmp_path: Path) -> None:
    page = page_of(tmp_path / "results")
    path = write_page(tmp_path / "site", build([tmp_path / "results"]))
    assert path == tmp_path / "site" / "index.html"
    assert path.read_text() == page


def test_several_boards_are_linked(tmp_path: Path) -> None:
    page_of(tmp_path)
    content = Tags(page_of(tmp_path, suite="other"))
    links = {a["href"] for tag, a in content.tags if tag == "a"}
    assert links == {"#" + (a["id"] or "") for tag, a in content.tags if tag == "section"}
    assert len(links) == 2


def test_a_browser_shows_the_table(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the PATH")
    page_of(tmp_path / "results", label=EVIL)
    path = write_page(tmp_path, build([tmp_path / "results"]))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run(
        [browser, *flags, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    content = Tags(shown.stdout)
    assert sum(tag == "table" for tag, _ in content.tags) == 2
    assert "<script>alert(1)</script>" in content.text
    assert "img" not in {tag for tag, _ in content.tags}


@pytest.mark.parametrize(
    ("value", "expected"), [(0.12345, "0.123"), (-0.0001, "0.000"), (-0.5, "-0.500"), (1.0, "1.000")]
)
def test_numbers(value: float, expected: str) -> None:
    assert text.number(value) == expected


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0"), (950, "950"), (12345, "12.3K"), (4_560_000, "4.56M"), (1.2e9, "1.2B")]
)
def test_amounts(count: float, expected: str) -> None:
    assert text.amount(count) == expected


def test_uncertainty_is_over_seeds_where_there_are_several() -> None:
    assert text.uncertainty(Score(value=1.0, se=0.1, sd=None, by_seed={1: 1.0})) == "±0.100"
    assert text.uncertainty(Score(value=1.0, se=0.1, sd=0.2, by_seed={1: 0.8, 2: 1.2})) == "±0.200"
    assert text.uncertainty(Score(value=1.0, se=None, sd=None, by_seed={})) == ""
