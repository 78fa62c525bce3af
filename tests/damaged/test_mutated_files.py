"""Any change of a valid file or command line is taken, or refused in words of ours: never another exception."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from damage import Work
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lm_eval.utils import simple_parse_args_string

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.results import cell_files
from lorafuse_bench.model_wrappers.options import hf_options, split_options
from lorafuse_bench.tasks import suites
from lorafuse_bench.zoo.manifest import Zoo

VALUES = st.recursive(
    st.sampled_from([None, True, 0, -1, 1, 10**400, 0.5, "", "x", "..", "/", "é\u2028\ud83d", "a" * 5000])
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=3,
)
few = settings(
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
WHAT_TO_DO = re.compile(
    r"(Correct|List|Name|Rebuild|Remove|Run|See|see docs/|it needs|Did you mean|Known:) ?\S+.*\.$"
)
Place = tuple[str | int, ...]
SUITES = ("groups/mtl5.yaml", "groups/mini_text.yaml")


def places(value: Any, above: Place = ()) -> Iterator[Place]:
    """Where the parts of a JSON value are."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*above, key)
        yield from places(part, (*above, key))


def mutated(data: st.DataObject, whole: Any) -> Any:
    """A copy with one part replaced, removed or moved under another name."""
    changed = copy.deepcopy(whole)
    *way, last = data.draw(st.sampled_from(list(places(whole))), "place")
    holder = changed
    for key in way:
        holder = holder[key]
    if data.draw(st.booleans(), "replaced"):
        holder[last] = data.draw(VALUES, "value")
    else:
        part = holder.pop(last)
        if isinstance(holder, dict) and data.draw(st.booleans(), "renamed"):
            holder[data.draw(st.text(max_size=8), "name")] = part
    return changed


def taken_or_refused(work: Callable[[], object], where: object) -> None:
    """Refused is in one line that a terminal shows as it is, with what is at fault and what to do about it."""
    try:
        work()
    except LorafuseError as error:
        said = str(error)
        assert said.isprintable() and str(where) in said and WHAT_TO_DO.search(said), said


def test_what_is_mutated_is_valid(whole: Work, tmp_path: Path) -> None:
    Zoo.open(whole.zoo).check_whole()
    cell_files.read_cell(whole.results / "toy" / "mini-1" / "svd.json")
    for kind in SUITES:
        shutil.copy(Path(suites.__file__).parent / kind, tmp_path / "suite.yaml")
        suites.forget()
        assert suites.suite(str(tmp_path / "suite.yaml")).tasks


@given(data=st.data())
@few
def test_manifests(whole: Work, tmp_path: Path, data: st.DataObject) -> None:
    for entry in whole.zoo.iterdir():
        if entry.name != "manifest.json" and not (tmp_path / entry.name).exists():
            (tmp_path / entry.name).symlink_to(entry)
    manifest = mutated(data, json.loads(whole.manifest.read_text()))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    taken_or_refused(lambda: Zoo.open(tmp_path).check_whole(), tmp_path)


@given(data=st.data())
@few
def test_results(whole: Work, tmp_path: Path, data: st.DataObject) -> None:
    original = whole.results / "toy" / "mini-1" / "svd.json"
    folder = tmp_path / "toy" / "mini-1"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "svd.items.json.gz").exists():
        (folder / "svd.items.json.gz").symlink_to(original.with_name("svd.items.json.gz"))
    (folder / "svd.json").write_text(json.dumps(mutated(data, json.loads(original.read_text()))))
    taken_or_refused(lambda: cell_files.read_cell(folder / "svd.json"), folder)


@pytest.mark.parametrize("kind", SUITES)
@given(data=st.data())
@few
def test_suites(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    path = Path(suites.__file__).parent / kind
    config = mutated(data, yaml.safe_load(path.read_text().replace("!function", "")))
    file = tmp_path / "suite.yaml"
    file.write_text(yaml.safe_dump(config))
    taken_or_refused(lambda: suites.suite(str(file)), file)


@pytest.mark.parametrize(
    "valid", ["method=moa:pooling=mean,experts=sst2/mnli,max_length=64", "method=svd,rank=4"]
)
@given(data=st.data())
@few
def test_model_args(valid: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(valid)), "from")
    end = data.draw(st.integers(start, min(len(valid), start + 4)), "to")
    text = (
        valid[:start] + data.draw(st.text(max_size=4) | st.sampled_from(["=", ",", ":", "+"])) + valid[end:]
    )
    found = simple_parse_args_string(text)
    method = found.pop("method", None)
    found.pop("experts", None)  # the model's own
    if isinstance(method, str):  # lm_eval makes numbers and truths of values that look like them
        taken_or_refused(
            lambda: split_options(method, found, {"max_length"}, hf_options(), "the model"), "method"
        )
