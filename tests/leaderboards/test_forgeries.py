"""Results whose hashes all agree and which still cannot be: each is refused, naming the file and the field.

What nobody can tell from a result alone, items rewritten within their range, is said in docs/submit.md.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_cells import FIELDS, REQUEST, forge, hash_of, rewrite, with_samples, write

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.publishing.verify import verify
from lorafuse_bench.leaderboards.results.layout import items_path
from lorafuse_bench.leaderboards.results.samples import read_samples, write_samples

N = 20
GOOD, HALF, BAD = [1.0] * N, [1.0, 0.0] * (N // 2), [0.0] * N
WHOLE, NONE = [[6, 6, 6, 5, 4, 3, 6, 5, 4, 3]] * N, [[6, 6, 0, 0, 0, 0, 6, 5, 4, 3]] * N
SHA = "9" * 64


def grid(out: Path) -> None:
    write(out, "base", {"one": BAD, "two": NONE})
    write(out, "oracle", {"one": GOOD, "two": WHOLE})
    write(out, "concat", {"one": HALF, "two": WHOLE})


def bleu(**counts: int) -> list[list[float]]:
    """One sentence's counts with some of them replaced: `sys`, `ref`, `c1`..`c4`, `t1`..`t4`."""
    names = ["sys", "ref", *(f"c{k}" for k in range(1, 5)), *(f"t{k}" for k in range(1, 5))]
    row = dict(zip(names, WHOLE[0], strict=True)) | counts
    return [list(map(float, row.values()))] + [list(map(float, r)) for r in WHOLE[1:]]


# A cell `svd` beside the sound three: its items of task one and two, and the fields that are changed.
CELLS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # what a metric cannot be
    "an accuracy of 100": ({"one": [100.0] * N}, {}, r"one\.metrics\.acc: 100 is no fraction"),
    "an accuracy of -5": ({"one": [-5.0, *GOOD[1:]]}, {}, r"one\.metrics\.acc: -5 is no fraction"),
    "one item above 1": ({"one": [1.01, *BAD[1:]]}, {}, r"one\.metrics\.acc: 1\.01 is no fraction"),
    "a mean within its range of items without": ({"one": [2.0, -1.0] * 10}, {}, r"one\.metrics\.acc: -1 is no"),
    "a negative loss": ({"one": [-0.5] * N}, {"loss": ["one"]}, r"one\.metrics\.nll: -0\.5 is no nats/token"),
    "a loss of negative tokens": (
        {"one": [[1.0, -1.0], *[[1.0, 2.0]] * (N - 1)]},
        {"loss": ["one"]},
        r"one\.metrics\.nll: a denominator that is not positive",
    ),
    "more followed than asked": (
        {"one": [[3.0, 2.0], *[[1.0, 2.0]] * (N - 1)]},
        {"metric": {"unit": "fraction"}},
        r"one\.metrics\.\w+: a part larger than its whole",
    ),
    "a measure of another width": ({}, {"metric": {"measure": "ratio"}}, r"metrics\.\w+: items of shape .* are not of"),
    "a measure that nobody knows": ({}, {"metric": {"measure": "best"}}, r"metrics\.\w+: unknown measure 'best'"),
    "matches over totals": ({"two": bleu(c1=7)}, {}, r"two\.metrics\.bleu: more matches than"),
    "more 4-grams than 3-grams": ({"two": bleu(c3=2, c4=3)}, {}, r"two\.metrics\.bleu: more matches than"),
    "half a match": ({"two": bleu(c4=2.5)}, {}, r"two\.metrics\.bleu: a count that is no whole"),  # type: ignore[arg-type]
    "negative matches": ({"two": bleu(c4=-1)}, {}, r"two\.metrics\.bleu: a count that is no whole"),
    "too few n-grams for the length": ({"two": bleu(c4=1, t4=1)}, {}, r"two\.metrics\.bleu: n-grams that"),
    "a short text with many n-grams": ({"two": bleu(sys=3)}, {}, r"two\.metrics\.bleu: n-grams that"),
    "an item right and wrong at once": (
        {"one": [[1, 0, 0, 0, 1, 0], *[[1, 0, 0, 0, 0, 0]] * (N - 1)]},
        {},
        r"one\.metrics\.\w+: a row that is not one 1",
    ),
    "an answer counted ten times": (
        {"one": [[10, 0, 0, 0, 0, 0], *[[0, 0, 0, 0, 1, 0]] * (N - 1)]},
        {},
        r"one\.metrics\.\w+: a row that is not one 1",
    ),
    # what a method says it is
    "another method under its label": ({}, {"method": {"name": "concat"}}, r"method\.label: 'svd' is not"),
    "an option that it has not": ({}, {"method": {"label": "svd:rank=4"}}, r"method\.label: 'svd:rank=4'"),
    "an option of another value": (
        {},
        {"method": {"label": "svd:rank=9", "options": {"rank": 8}}},
        r"method\.label: 'svd:rank=9'",
    ),
    "an option twice": ({}, {"method": {"label": "svd:rank=8+rank=8"}}, r"method\.label"),
    "a colon without options": ({}, {"method": {"label": "svd:"}}, r"method\.label"),
    "a label with a tail": ({}, {"method": {"label": "svd:rank=8+"}}, r"method\.label"),
    "a label of another case": ({}, {"method": {"label": "SVD"}}, r"method\.label"),
    "a label with a hidden letter": ({}, {"method": {"label": "svd\u200b"}}, r"method\.label"),
    "an option whose default is another": (
        {},
        {"method": {"name": "concat", "label": "concat:scaling=false", "options": {"rank": 4, "scaling": "false"}}},
        r"method\.options\.rank: 4, but 8 in another cell of concat",
    ),
    # what it was run with
    "another pool": ({}, {"experts": [FIELDS["experts"][0] | {"name": "other"}]}, r"experts\.other: .*has nothing"),
    "a larger pool": ({}, {"experts": [*FIELDS["experts"], FIELDS["experts"][0] | {"name": "b"}]}, r"experts\.b"),
    "an expert twice": ({}, {"experts": FIELDS["experts"] * 2}, r"experts: a name stands twice"),
    "other weights of an expert": ({}, {"experts": [FIELDS["experts"][0] | {"sha256": SHA}]}, r"experts\.one\.sha256"),
    "another rank": ({}, {"experts": [FIELDS["experts"][0] | {"rank": 64}]}, r"experts\.one\.rank: 64"),
    "another alpha": ({}, {"experts": [FIELDS["experts"][0] | {"alpha": 99.0}]}, r"experts\.one\.alpha: 99"),
    "other targets": ({}, {"experts": [FIELDS["experts"][0] | {"targets": ["v"]}]}, r"experts\.one\.targets\.0"),
    "another base": ({}, {"base": {"sha256": SHA}}, r"base\.sha256"),
    "another base's name": ({}, {"base": {"repo": "larger"}}, r"base\.repo: 'larger'"),
    "another revision of the base": ({}, {"base": {"revision": "v2"}}, r"base\.revision: 'v2'"),
    "another tokenizer": ({}, {"base": {"tokenizer_sha256": SHA}}, r"base\.tokenizer_sha256"),
    "another type": ({}, {"base": {"dtype": "float16"}}, r"base\.dtype"),
    "another zoo": ({}, {"zoo": {"sha256": SHA}}, r"zoo\.sha256"),
    "another initialisation": ({}, {"zoo": {"init": "independent"}}, r"zoo\.init"),
    "other seeds": ({}, {"seeds": {"torch": 7}}, r"seeds\.torch: 7, but"),
    "other examples": ({}, {"seeds": {"fewshot": 7}}, r"seeds\.fewshot"),
    "another length": ({}, {"max_length": 64}, r"max_length: 64"),
    # what it was scored on
    "one document many times": ({}, {"documents": "the same"}, r"doc_hashes: only 1 different documents of 20"),
    "documents of another task": (
        {},
        {"documents": "of another task"},
        r"tasks\.two\.docs_sha256: the documents of one",
    ),
    "two documents ten times": ({}, {"documents": "two"}, r"doc_hashes: only 2 different"),
    "more items than the split": ({}, {"task": {"n_original": 5}}, r"tasks\.one\.n: 20 items of a split of 5"),
    "fewer items than the split": ({}, {"task": {"n_original": 90}}, r"tasks\.one\.n: 20 of 90 items"),
    "more items than the limit": ({}, {"limit": 5}, r"tasks\.one\.n: 20 items, but limit 5 gives 5"),
    "another split": ({}, {"task": {"dataset": {"hub": "somebody/one", "name": None, "split": "train"}}}, "dataset"),
    "another data set": ({}, {"task": {"dataset": {"hub": "easy/one", "name": None, "split": "test"}}}, "dataset"),
    "files of another task": ({}, {"data": {"splits": {"three": {}}}}, r"data\.splits\.three: no such task"),
    "other files": ({}, {"data": {"splits": {"one": {"test": "easy.parquet"}}}}, r"data\.splits\.one\.test"),
    # what a task of the board is
    "another task version": ({}, {"task": {"version": "2"}}, r"tasks\.one\.version"),
    "sampling": (
        {},
        {"task": {"requests": {"one": REQUEST | {"generation": {"temperature": 5.0}}}}},
        r"tasks\.one\.requests\.one\.generation\.\w+",
    ),
    "other prompts": (
        {},
        {"task": {"requests": {"one": REQUEST | {"prompts_sha256": SHA}}}},
        r"tasks\.one\.requests\.one\.prompts_sha256: '999",
    ),
    "prompts that are not said": ({}, {"task": {"requests": None}}, r"tasks\.one\.requests: None, but"),
    "examples in the prompt": ({}, {"task": {"few_shot": 5}}, r"tasks\.one\.few_shot"),
    "another direction": ({}, {"metric": {"direction": "down"}}, r"direction"),
    "another unit": ({}, {"metric": {"unit": "points"}}, r"unit"),
}  # fmt: skip


# Hashes of documents that are none, or not many.
DOCUMENTS: dict[str, Callable[[str, int], str]] = {
    "the same": lambda key, i: hash_of(key, 0),
    "two": lambda key, i: hash_of(key, i % 2),
    "of another task": lambda key, i: hash_of("one", i),
}


@pytest.mark.parametrize("forgery", CELLS)
def test_a_forged_cell_is_refused(tmp_path: Path, forgery: str) -> None:
    grid(tmp_path)
    scores, changes, field = CELLS[forgery]
    changes = {**changes, "hashed": DOCUMENTS.get(changes.get("documents", "")), "documents": ""}
    forge(tmp_path, "svd", {"one": HALF, "two": WHOLE} | scores, **changes)
    refused(tmp_path, field)


def refused(out: Path, field: str) -> None:
    """`verify` and `build` say the same, in one line."""
    problems = verify(out).problems
    assert len(problems) == 1, problems
    assert re.search(field, problems[0]), problems[0]
    assert "\n" not in problems[0]
    with pytest.raises(LorafuseError) as caught:
        build([out])
    assert str(caught.value) == problems[0]


# Values that no result has, written into the file with a run id that agrees: (field, value, what is named).
VALUES: dict[str, tuple[str, Any, str]] = {
    "a name with a hidden letter": ("method.name", "svd\u200b", r"method\.name"),
    "a name of foreign letters": ("method.name", "\u043eracle", r"method\.name"),
    "an unknown family": ("method.family", "best", r"method\.family"),
    "a hash that is none": ("method.source_sha256", "mine", r"method\.source_sha256"),
    "a rank of nothing": ("experts.0.rank", 0, r"experts\.0\.rank"),
    "a negative alpha": ("experts.0.alpha", -1.0, r"experts\.0\.alpha"),
    "yes for a number": ("experts.0.rank", True, r"experts\.0\.rank"),
    "text for a number": ("experts.0.rank", "8", r"experts\.0\.rank"),
    "text for a value": ("tasks.one.metrics.acc.value", "0.5", r"tasks\.one\.metrics\.acc\.value"),
    "more items than anybody scores": ("tasks.one.n", 10**12, r"tasks\.one\.n"),
    "a number beyond all": ("zoo.seed", 10**400, r"zoo\.seed"),
}


@pytest.mark.parametrize("forgery", VALUES)
def test_a_value_that_no_result_has_is_refused(tmp_path: Path, forgery: str) -> None:
    grid(tmp_path)
    field, value, named = VALUES[forgery]
    rewrite(write(tmp_path, "svd", {"one": HALF, "two": WHOLE}), field, value)
    refused(tmp_path, named)


def test_documents_in_the_clear_are_no_hashes(tmp_path: Path) -> None:
    grid(tmp_path)
    path = items_path(write(tmp_path, "svd", {"one": HALF, "two": WHOLE}))
    content = json.loads(gzip.decompress(path.read_bytes()))
    content["one"]["doc_hashes"][0] = "the text of a document"
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    refused(tmp_path, r"one\.doc_hashes\.0")


@pytest.mark.parametrize(
    ("method", "field"),
    [
        ({"name": "svd"}, r"method\.label: 'oracle' is not 'svd'"),
        ({"family": "merging"}, r"method\.family: 'merging', but oracle is a reference"),
        (
            {"options": {"wrong": True}},
            r"method\.options\.wrong: 'oracle:wrong=true' names true, which another",
        ),
    ],
)
def test_a_merge_cannot_be_labelled_oracle(tmp_path: Path, method: dict[str, Any], field: str) -> None:
    """The oracle is what scores are divided by: a weaker one raises every ratio."""
    write(tmp_path, "base", {"one": BAD})
    write(tmp_path, "oracle:wrong=true", {"one": BAD}, method={"options": {"wrong": True}})
    forge(tmp_path, "oracle", {"one": HALF}, method={"options": {"wrong": False}} | method)
    refused(tmp_path, field)


def test_a_base_with_parameters_of_its_own_is_none(tmp_path: Path) -> None:
    forge(tmp_path, "base", {"one": BAD}, cost={"extra_parameters": 10})
    assert "base.json: cost.extra_parameters: 10" in verify(tmp_path).problems[0]


@pytest.mark.parametrize("name", ["toy/mini-1/oracle.json", "toy/mini-2/svd.json", "other/mini-1/svd.json"])
def test_a_cell_under_anothers_name_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, "base", {"one": BAD})
    path = write(tmp_path, "svd", {"one": HALF})
    new = tmp_path / name
    new.parent.mkdir(parents=True, exist_ok=True)
    path.with_name("svd.items.json.gz").rename(new.with_name(new.stem + ".items.json.gz"))
    path.rename(new)
    problem = next(p for p in verify(tmp_path).problems if str(new) in p)
    assert (
        f"{new}: method.label: 'svd' of suite toy, zoo mini, seed 1 belongs in toy/mini-1/svd.json" in problem
    )


# Of a suite of ours, what is known here: (scores, changes of every task or metric, field).
SUITE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another metric": ({}, {"task": {"representative": "acc"}}, r"tasks\.\w+\.representative"),
    "another direction": ({}, {"metric": {"direction": "down"}}, r"\.direction: 'down, fraction'"),
    "another unit": ({}, {"metric": {"unit": "points"}}, r"\.direction: 'up, points'"),
    "a task of another suite": ({"piqa": GOOD}, {}, r"tasks\.piqa: no task of suite mtl5"),
}


@pytest.mark.parametrize("forgery", SUITE)
def test_a_suite_of_ours_is_ours(tmp_path: Path, forgery: str) -> None:
    scores, changes, field = SUITE[forgery]
    for label, made in (("base", BAD), ("oracle", GOOD)):
        forge(tmp_path, label, {"squad": made, "sst2": made} | scores, suite="mtl5", **changes)
    assert re.search(field, verify(tmp_path).problems[0]), verify(tmp_path).problems
    with pytest.raises(LorafuseError, match=field):
        build([tmp_path])


@pytest.mark.parametrize(
    "change", [{"zoo": {"init": "independent"}}, {"base": {"repo": "b"}}, {"experts": []}]
)
def test_replicates_are_alike(tmp_path: Path, change: dict[str, Any]) -> None:
    for seed in (1, 2):
        zoo = {"zoo": {"seed": seed} | (change.get("zoo", {}) if seed == 2 else {})}
        other = {key: value for key, value in change.items() if key != "zoo"} if seed == 2 else {}
        for label, made in (("base", BAD), ("oracle", GOOD)):
            write(tmp_path, label, {"one": made}, **zoo, **other)
    with pytest.raises(LorafuseError, match=r"Zoos that share a name differ in seed alone"):
        build([tmp_path])


PATHS = [
    "/home/me/rows",
    "~/rows",
    "C:\\rows",
    "\\\\host\\rows",
    "file:///rows",
    "x=/home/me",
    " /home/me",
    "../rows",
]


@pytest.mark.parametrize("path", PATHS)
def test_paths_of_a_machine_are_refused_wherever_they_stand(tmp_path: Path, path: str) -> None:
    held = {"one": HALF}
    for name, change in {
        "value": {"data": {"source": path}},
        "field": {"environment": {"versions": {path: "1"}}},
        "option": {"method": {"options": {"rank": 8, "from": path}}},
        "split": {"data": {"splits": {"one": {"test": path}}}},
    }.items():
        cell = write(tmp_path / name, "svd", held, **change)
        (problem,) = verify(cell).problems
        assert "is a path of one machine" in problem


def test_samples_are_of_the_cell_that_they_lie_beside(tmp_path: Path) -> None:
    base, oracle = (with_samples(tmp_path, *each) for each in (("base", BAD), ("oracle", GOOD)))
    assert verify(tmp_path).problems == ()
    rows = read_samples(oracle)
    write_samples(base, rows)
    refused_samples(tmp_path, "base.samples.jsonl.gz: one: other scores")
    write_samples(base, [row.model_copy(update={"score": 0.0, "doc_hash": SHA}) for row in rows])
    refused_samples(tmp_path, "base.samples.jsonl.gz: one: other documents")
    write_samples(base, [row.model_copy(update={"score": 0.0}) for row in rows[:-1]])
    refused_samples(tmp_path, "base.samples.jsonl.gz: one: other documents")


def refused_samples(out: Path, said: str) -> None:
    (problem,) = verify(out).problems
    assert said in problem and "\n" not in problem
