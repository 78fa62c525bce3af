"""What `lorafuse fit` learns on toy experts: starts, gradients, resumption, staleness."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from handmade import write_split
from safetensors.torch import load_file
from tiny import TASKS, tiny_zoo, write_adapter
from typer.testing import CliRunner

from lorafuse_bench import artefacts
from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.files import sha256_file
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.controls import controlled
from lorafuse_bench.fusion.fitted import Fitted
from lorafuse_bench.fusion.merging.merge_sgd import MergeSgd
from lorafuse_bench.fusion.routing.clusters import clusters_of
from lorafuse_bench.loading import load_model
from lorafuse_bench.tasks.rows import Row
from lorafuse_bench.training import descent, fit_run, fitting
from lorafuse_bench.training import fit_rows as fit_rows_module
from lorafuse_bench.training.fit_rows import FitRows
from lorafuse_bench.training.fitting import FitSettings, fit
from lorafuse_bench.training.loss_matrix import Losses, read_losses
from lorafuse_bench.zoo.entries import Clusters
from lorafuse_bench.zoo.manifest import ArtefactEntry, Manifest, Zoo

TWO = "sst2/mnli"
FAST = FitSettings(steps=4, batch_size=2, rates=(0.1,), rows=4, dev=2)


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return tiny_zoo(tmp_path / "zoo", experts=2)


def fitted(zoo: Zoo, spec: str, settings: FitSettings = FAST) -> ArtefactEntry:
    method = registry.parse(spec)
    assert isinstance(method, Fitted)
    return fit(method, TWO, Zoo.open(zoo.root), "mini", settings, report=lambda line: None)


def model_of(zoo: Zoo) -> FusedModel:
    return FusedModel(load_model(zoo.base_folder()), zoo, ExpertPool.from_zoo(zoo))


def test_the_newest_of_fits_alike_serves(zoo: Zoo) -> None:
    """Fits of another version may have other names, and be of rows that have changed since."""
    entry = fitted(zoo, "merge_sgd")
    pool = ExpertPool.from_zoo(zoo)
    for newest in (entry.model_copy(update={"name": "merge_sgd/other"}), entry):
        there = fitting.enter(zoo, newest)
        assert artefacts.entry_of(there, MergeSgd(), pool).name == newest.name


def test_a_fit_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    straight = tiny_zoo(tmp_path / "straight", experts=2)
    entry = fitted(straight, "merge_sgd")
    killed = tiny_zoo(tmp_path / "killed", experts=2)

    def kill(line: str) -> None:
        if "step 3/4" in line:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        torch.set_num_threads(1)  # a process that was forked has no other threads
        try:
            fit(MergeSgd(), TWO, killed, "mini", FAST, report=kill)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert list((killed.root / ".training").rglob("checkpoint-*.pt"))
    assert fitted(killed, "merge_sgd").sha256 == entry.sha256
    assert not list((killed.root / ".training").iterdir())
    lines: list[str] = []
    again = fit(MergeSgd(), TWO, Zoo.open(killed.root), "mini", FAST, report=lines.append)
    assert lines == [f"fit {again.name}: already there, kept"]


LEARNED = sorted(name for name, cls in registry.methods().items() if issubclass(cls, Fitted))


@pytest.mark.parametrize("spec", LEARNED)
def test_factors_in_fp32_are_fitted_on_a_base_in_bf16(zoo: Zoo, spec: str) -> None:
    method = registry.parse({"ensemble": "ensemble:weights=sgd"}.get(spec, spec))
    assert isinstance(method, Fitted)
    entry = fit(method, TWO, zoo, "mini", FAST, report=lambda line: None, device="cpu", dtype="bfloat16")
    learned = load_file(zoo.root / entry.path / entry.file)
    assert all(torch.isfinite(tensor).all() for tensor in learned.values())


def test_a_loss_that_is_no_number_stops_the_fit_and_keeps_the_last_good_checkpoint(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = descent.completion_loss, iter(range(9))

    def breaks(*given: Any, **batch: Any) -> Any:
        loss, count = whole(*given, **batch)
        return (loss * float("nan") if next(calls) == 2 else loss), count

    monkeypatch.setattr(descent, "completion_loss", breaks)
    with pytest.raises(LorafuseError, match=r"fit merge_sgd/.* at rate 0\.1: the loss is nan by step 3\."):
        fitted(zoo, "merge_sgd")
    assert not Zoo.open(zoo.root).manifest.artefacts
    names = sorted(path.name for path in (zoo.root / ".training").rglob("checkpoint-*.pt"))
    assert names == ["checkpoint-1.pt", "checkpoint-2.pt"]


def test_parameters_that_are_no_numbers_are_never_kept(zoo: Zoo) -> None:
    far = FitSettings(steps=4, batch_size=2, rates=(3e38,), rows=4, dev=2)
    with pytest.raises(LorafuseError, match=r"trained weights are NaN or infinite by step 1\. Lower"):
        fitted(zoo, "merge_sgd", far)
    assert not list((zoo.root / ".training").rglob("checkpoint-*.pt"))


def test_what_is_learned_is_used_and_exported_and_differs_from_its_start(zoo: Zoo) -> None:
    entry = fitted(zoo, "merge_sgd:scope=layer")
    opened = Zoo.open(zoo.root)
    tensors = load_file(zoo.root / entry.path / entry.file)
    assert tensors["logits"].shape == (3, 2)
    assert tensors["logits"].abs().max() > 0
    fused = model_of(opened)
    fused.use(registry.parse("merge_sgd:scope=layer"))
    assert [one.name for one in fused.in_use] == [entry.name]
    out = zoo.root.parent / "out"
    done = CliRunner().invoke(
        app, ["export", "--method", "merge_sgd:scope=layer", "--zoo", str(zoo.root), "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert (out / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("scope", ["global", "layer", "module"])
def test_a_merge_starts_as_the_uniform_one(zoo: Zoo, scope: str) -> None:
    pool = ExpertPool.from_zoo(zoo)
    method = registry.parse(f"merge_sgd:scope={scope}")
    assert isinstance(method, MergeSgd)
    uniform = registry.parse("merge_uniform").fuse(pool)  # type: ignore[attr-defined]
    start = method.merged(pool, method.start(model_of(zoo)))
    for module, (a, b) in uniform.factors.items():
        torch.testing.assert_close(start.factors[module], (a, b))


def test_a_method_that_was_not_fitted_names_the_command(zoo: Zoo) -> None:
    pool = ExpertPool.from_zoo(zoo, ["mnli"])
    with pytest.raises(
        LorafuseError, match=r"no fit of method 'merge_sgd' .*: lorafuse fit merge_sgd --suite"
    ):
        artefacts.entry_of(zoo, MergeSgd(), ExpertPool.from_zoo(zoo))
    with pytest.raises(LorafuseError, match=r"--experts mnli"):
        artefacts.entry_of(zoo, MergeSgd(), pool)


def test_a_fit_of_other_experts_base_or_rows_is_stale(zoo: Zoo) -> None:
    entry = fitted(zoo, "ensemble:weights=sgd")
    opened = Zoo.open(zoo.root)
    method = registry.parse("ensemble:weights=sgd")
    assert artefacts.entry_of(opened, method, ExpertPool.from_zoo(opened)) == entry
    with pytest.raises(
        LorafuseError, match=r"of the experts sst2, mnli, in use are mnli, sst2\. Fit again: lorafuse"
    ):
        artefacts.entry_of(opened, method, ExpertPool.from_zoo(opened, ["mnli", "sst2"]))
    fit_rows_module.check_rows(opened, entry, "mini")
    changed = entry.model_copy(
        update={"fitted_on": entry.fitted_on.model_copy(update={"rows_sha256": "0" * 64})}  # type: ignore[union-attr]
    )
    with pytest.raises(LorafuseError, match="the rows of its suite in mini changed"):
        fit_rows_module.check_rows(opened, changed, "mini")
    write_adapter(zoo.root / "experts" / "mnli", model_of(opened).model, ("q_proj",), seed=9)
    digest = sha256_file(zoo.root / "experts" / "mnli" / "adapter_model.safetensors")
    first, second = opened.manifest.experts
    experts = (first, second.model_copy(update={"sha256": digest}))
    other = Zoo(zoo.root, opened.manifest.model_copy(update={"experts": experts}))
    with pytest.raises(LorafuseError, match="expert 'mnli' changed"):
        artefacts.entry_of(other, method, ExpertPool.from_zoo(other))


def test_a_fit_is_kept_for_its_very_documents_and_an_older_one_without(
    zoo: Zoo, tmp_path: Path, handmade_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row that is edited is none of those that the hash of rows reads."""
    monkeypatch.setattr(fit_rows_module, "HASHED", 1)
    data = tmp_path / "data"
    shutil.copytree(handmade_data, data)
    reviews = [{"sentence": f"review {i}", "label": i % 2} for i in range(10)]
    settings, both = replace(FAST, steps=1), ["sst2", "mnli"]

    def again() -> tuple[str, str]:
        said: list[str] = []
        write_split(data / "nyu-mll__glue/sst2", "train", [{**row, "idx": 0} for row in reviews])
        entry = fit(MergeSgd(), "sst2", Zoo.open(zoo.root), str(data), settings, both, report=said.append)
        assert entry.fitted_on is not None
        return entry.fitted_on.rows_sha256, said[-1].rpartition(" ")[2]

    hashed, _ = again()
    assert again() == (hashed, "kept")
    reviews[2]["sentence"] = "another"
    assert again()[1] != "kept"
    there = Zoo.open(zoo.root)
    old = there.manifest.model_dump(mode="json", by_alias=True)
    (entry,) = old["artefacts"]
    for said in (entry["fitted_on"], entry["settings"]["identity"]["fitted_on"]):
        del said["documents_sha256"]
    Zoo(zoo.root, Manifest.model_validate(old)).save()
    assert again() == (hashed, "kept")


def test_a_hash_of_rows_reads_few_and_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more rows than HASHED evenly spaced ones count, and how many there are."""
    monkeypatch.setattr(fit_rows_module, "HASHED", 3)

    def hashed(*prompts: str) -> str:
        rows = [Row(prompt, " yes", i) for i, prompt in enumerate(prompts)]
        return fit_rows_module.rows_sha256([FitRows("sst2", rows, rows[:1], 1)])

    assert hashed(*"abcdef") == hashed(*"abcdef") != hashed(*"abcdefg")
    assert hashed(*"abcdef") == hashed(*"aXcYeZ")  # the first, third and fifth are read
    assert hashed(*"abcdef") != hashed(*"abXdef")
    assert hashed(*"abc") != hashed(*"abX")


def test_a_fit_on_many_experts_has_a_short_name(zoo: Zoo) -> None:
    first, second = zoo.manifest.experts
    many = tuple(first.model_copy(update={"name": f"expert-{i}", "bank": "mbc"}) for i in range(64))
    library = Zoo(zoo.root, zoo.manifest.model_copy(update={"experts": (first, second, *many)}))
    names = tuple(entry.name for entry in many)
    assert fitting._experts(library, TASKS[:2], (first.name, second.name)) == ""
    assert fitting._experts(library, TASKS[:2], names) == "@mbc"
    assert fitting._experts(library, TASKS[:2], names[:2]) == "expert-0+expert-1"
    some, others = (fitting._experts(library, TASKS[:2], part) for part in (names[1:], names[:-1]))
    assert some.startswith("63+experts+") and some != others and len(some) < 30
    assert fitting._name(MergeSgd(), "/".join(names), some).startswith("merge_sgd/64+tasks+")


def test_fits_leave_the_zoo_what_it_was(zoo: Zoo) -> None:
    before = zoo.sha256()
    fit(Losses(), TWO, zoo, "mini", FAST, report=lambda line: None)
    opened = Zoo.open(zoo.root)
    assert opened.manifest.artefacts
    assert opened.sha256() == before
    matrix = read_losses(opened, ExpertPool.from_zoo(opened))
    assert matrix.losses.shape == (2, 2)
    assert set(matrix.tasks) == {"sst2", "mnli"}
    assert (matrix.standard_errors > 0).all()


def test_clusters_of_the_zoo_are_taken_where_they_are_of_these_experts(tmp_path: Path) -> None:
    """Clusters that KMeans would not find; of other experts, or as many others, they are not taken."""
    zoo = tiny_zoo(tmp_path / "zoo", experts=3)
    names, hashes = zip(*((e.name, e.sha256) for e in zoo.manifest.experts), strict=True)
    found = clusters_of(ExpertPool.from_zoo(zoo), 2).tolist()
    odd = next(each for each in ([0, 0, 1], [0, 1, 0]) if each != found)
    kept = Clusters(
        members=tuple(tuple(n for n, c in zip(names, odd, strict=True) if c == i) for i in range(2)),
        experts=dict(zip(names, hashes, strict=True)),
        seed=0,
    )

    def learned(clusters: Clusters | None, count: int) -> tuple[list[int], str]:
        changed = Zoo(zoo.root, zoo.manifest.model_copy(update={"clusters": clusters, "artefacts": ()}))
        changed.save()
        method = registry.parse(f"hc:clusters={count}")
        assert isinstance(method, Fitted)
        short = FitSettings(steps=1, batch_size=2, rates=(1e-3,), rows=4, dev=2)
        entry = fit(method, "/".join(names), changed, "mini", short, report=lambda line: None)
        tensors = load_file(zoo.root / entry.path / entry.file)
        return tensors["clusters"].tolist(), entry.settings["clusters"]

    assert learned(kept, 2) == (odd, "of the zoo")
    assert learned(None, 2) == (found, "of the fit")
    assert learned(kept, 3) == ([0, 1, 2], "of the fit")
    changed = kept.model_copy(update={"experts": {**kept.experts, names[0]: "0" * 64}})
    assert learned(changed, 2) == (found, "of the fit")


def test_a_fit_takes_over_what_another_one_computed(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss matrix and the teacher's weights, to the same bytes; of other rows, or by a control, nothing is."""
    pairs = {"ensemble:weights=lp": "losses", "distill": "ensemble:weights=sgd"}
    alone = {spec: fitted(zoo, spec) for spec in pairs}
    for spec, before in pairs.items():
        zoo.save()  # without what was fitted
        if before == "losses":
            fit(Losses(), TWO, Zoo.open(zoo.root), "mini", FAST, report=lambda line: None)
        else:
            fitted(zoo, before)
        with monkeypatch.context() as patched:
            patched.setattr(fit_run, "score_experts", forbidden)
            after = fitted(zoo, spec)
            with pytest.raises(AssertionError):
                fitted(zoo, spec, replace(FAST, rows=3))
            control = cast(Fitted, controlled(registry.parse(spec), "random"))
            with pytest.raises(AssertionError):
                fit(control, TWO, Zoo.open(zoo.root), "mini", FAST, report=lambda line: None)
        (taken,) = (entry for entry in Zoo.open(zoo.root).manifest.artefacts if entry.name != after.name)
        assert after.settings[before] == {"fit": taken.name, "sha256": taken.sha256}
        assert after.sha256 == alone[spec].sha256


def forbidden(*given: Any) -> Any:
    raise AssertionError("experts were run again")


def test_dev_rows_that_experts_saw_are_refused(zoo: Zoo) -> None:
    def learnt(rows: int) -> Zoo:
        first, *others = zoo.manifest.experts
        experts = (first.model_copy(update={"rows": {"sst2": rows}}), *others)
        changed = Zoo(zoo.root, zoo.manifest.model_copy(update={"experts": experts}))
        changed.save()
        return changed

    seen = learnt(2999)
    with pytest.raises(LorafuseError, match=r"sst2 were trained on the rows .* say --seen-dev"):
        fitted(seen, "merge_sgd")
    assert fitted(learnt(2998), "ensemble:weights=lp").settings["dev_seen_by"] == []
