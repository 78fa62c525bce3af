"""The page as text: what it embeds, that strings of results stay strings, that it asks for nothing."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evil import EVIL
from toy_cells import write

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards import text
from lorafuse_bench.leaderboards.boards.board import Score, to_json
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.boards.collect import collect
from lorafuse_bench.leaderboards.boards.evidence import DOCUMENTS, LETTERS, Evidence, evidence_of
from lorafuse_bench.leaderboards.pages import site
from lorafuse_bench.leaderboards.pages.page import SCRIPTS, render, write_page
from lorafuse_bench.leaderboards.results.samples import Sample, write_samples

GOOD, HALF, BAD = [1.0] * 8, [1.0, 0.0] * 4, [0.0] * 8
SECRET = "a document of somebody else"


class Tags(HTMLParser):
    """Tags and attributes of a page, and its text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is not None:
            self.raw[self.cdata_elem].append(data)
        else:
            self.text += data


def fill(out: Path, label: str = "concat", samples: bool = False, **changes: object) -> None:
    """Four cells of two tasks; `svd` lacks one."""
    for name, scores in (
        ("base", {"one": BAD, "two": HALF}),
        ("oracle", {"one": GOOD, "two": HALF}),
        (label, {"one": HALF, "two": GOOD}),
        ("svd", {"one": HALF}),
    ):
        path = write(out, name, scores, **changes)
        if samples:
            held = {"task": "one", "doc_hash": "h", "prompt": SECRET, "target": "x" * 2000}
            answers = [
                held | {"doc_id": i, "output": name, "score": s} for i, s in enumerate(scores["one"] * 3)
            ]
            write_samples(path, [Sample.model_validate(answer) for answer in answers])


def page_of(out: Path, **changes: object) -> str:
    """The page of such cells, with all evidence."""
    fill(out, **changes)
    board = build([out])
    return render(board, evidence_of(collect([out]), board))


def data_of(page: str) -> dict:
    return json.loads(Tags(page).raw["script"][0])


def test_words_that_need_no_script(tmp_path: Path) -> None:
    content = Tags(page_of(tmp_path))
    for expected in ("toy on mini", "±", "two is shown raw and does not count", "torch 2.13.0"):
        assert expected in content.text


def test_the_page_embeds_the_leaderboard(tmp_path: Path) -> None:
    data = data_of(page_of(tmp_path))
    assert data["leaderboard"] == json.loads(to_json(build([tmp_path])))


def test_gaps_and_pairs_are_embedded(tmp_path: Path) -> None:
    (extra,) = data_of(page_of(tmp_path))["extras"]
    assert extra["gaps"]["concat"]["one"]["value"] == 0.5
    assert extra["gap_means"]["oracle"]["value"] == 1.0
    assert "two" not in extra["gaps"]["concat"]  # it does not count
    one = extra["pairs"]["tasks"]["one"]
    assert one["labels"] == ["base", "concat", "oracle", "svd"]
    assert one["better"][one["labels"].index("concat")] == [4, 0, 0, 0]
    assert one["se"][1] == [pytest.approx(0.189, abs=5e-4), 0.0]
    assert extra["pairs"]["tasks"]["two"]["labels"] == ["base", "concat", "oracle"]
    assert extra["pairs"]["ability"]["labels"] == ["base", "concat", "oracle"]


def test_without_evidence_there_is_only_the_board(tmp_path: Path) -> None:
    fill(tmp_path)
    assert data_of(render(build([tmp_path])))["extras"] == []


def test_evidence_must_be_of_these_boards(tmp_path: Path) -> None:
    fill(tmp_path)
    board = build([tmp_path])
    some = evidence_of(collect([tmp_path]), board)
    with pytest.raises(LorafuseError, match="1 boards but evidence of 2"):
        render(board, some * 2)


def test_samples_of_our_own_texts_are_embedded_and_cut(tmp_path: Path) -> None:
    (extra,) = data_of(page_of(tmp_path, samples=True))["extras"]
    one = extra["samples"]["tasks"]["one"]
    assert (one["total"], len(one["items"])) == (24, DOCUMENTS)
    assert one["items"][0]["prompt"] == SECRET
    assert one["items"][0]["target"] == "x" * LETTERS + "…"


@pytest.mark.parametrize("source", ["hub", "data", "mini2"])
def test_samples_of_other_data_are_never_embedded(tmp_path: Path, source: str) -> None:
    page = page_of(tmp_path, samples=True, data={"source": source})
    assert SECRET not in page
    assert data_of(page)["extras"][0]["samples"] is None


def test_samples_of_other_data_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "own", samples=True)
    fill(tmp_path / "other", samples=True, data={"source": "hub"})
    own, other = build([tmp_path / "own"]), build([tmp_path / "other"])
    samples = evidence_of(collect([tmp_path / "own"]), own)[0].samples
    assert samples is not None
    smuggled: list[Evidence] = [
        replace(e, samples=samples) for e in evidence_of(collect([tmp_path / "other"]), other)
    ]
    with pytest.raises(LorafuseError, match="samples of data 'hub' must not be published"):
        render(other, smuggled)
    with pytest.raises(LorafuseError, match="must not be published"):
        write_page(tmp_path / "site", other, smuggled)
    assert not (tmp_path / "site").exists()


def test_untrusted_strings_are_escaped_everywhere(tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        label=EVIL,
        suite=EVIL,
        zoo={"name": EVIL},
        base={"repo": EVIL},
        data={"source": EVIL},
        environment={"hardware": EVIL, "versions": {EVIL: EVIL}},
    )
    content = Tags(page)
    tags = [tag for tag, _ in content.tags]
    assert set(tags).isdisjoint({"img", "iframe", "link", "object", "base", "form"})
    assert tags.count("script") == 2
    assert content.text.count("<script>window.bad") >= 6
    assert not any(name.startswith("on") for _, attributes in content.tags for name in attributes)
    assert EVIL in json.dumps(data_of(page), ensure_ascii=False).replace('\\"', '"')


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    content = Tags(page)
    links = [a[k] or "" for _, a in content.tags for k in ("href", "src", "action") if k in a]
    assert links and all(link.startswith("#") for link in links)
    policy = next(a["content"] or "" for _, a in content.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_the_scripts_write_no_markup() -> None:
    folder = Path(__file__).parents[2] / "leaderboards" / "pages" / "templates"
    assert {path.stem for path in folder.glob("*.js")} == {*SCRIPTS, *site.SCRIPTS}
    for path in folder.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(|XMLHttp|http:",
            re.sub(r'"http://www.w3.org/2000/svg"', "", path.read_text()),
        ), path


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    board = build([tmp_path])
    assert page == render(board, evidence_of(collect([tmp_path]), board))
    assert str(tmp_path) not in page


def test_the_page_is_written_as_index(tmp_path: Path) -> None:
    fill(tmp_path / "results")
    board = build([tmp_path / "results"])
    path = write_page(tmp_path / "site", board)
    assert path == tmp_path / "site" / "index.html"
    assert path.read_text() == render(board)


def test_several_boards_are_linked(tmp_path: Path) -> None:
    fill(tmp_path)
    content = Tags(page_of(tmp_path, suite="other"))
    assert [a["href"] for _, a in content.tags if "data-open" in a] == [
        "#board=other%20on%20mini",
        "#board=toy%20on%20mini",
    ]
    assert [a["data-board"] for _, a in content.tags if "data-board" in a] == ["0", "1"] * 3


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


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert text.printable("a\x1b[2J\tä\nb\u202e\x9b") == "a?[2J\tä\nb??"
