"""Decompositions of a base are computed once, and shared by all adapters on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapters import method_of
from tiny import tiny_model

from lorafuse_bench.fusion.adapters.moore import decomposed
from lorafuse_bench.fusion.adapters.trained import derived_of
from lorafuse_bench.training import decompositions
from lorafuse_bench.training.adapter_training import AdapterTraining
from lorafuse_bench.training.decompositions import cache_file, cached, keep


def training(file: Path, spec: str, seed: int) -> AdapterTraining:
    known = cached(file)
    made = AdapterTraining(tiny_model(layers=2), method_of(spec), 2, seed, known)
    keep(file, derived_of(made.updates), known)
    return made


def test_a_second_adapter_computes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFUSE_CACHE", str(tmp_path))
    monkeypatch.setattr(decompositions, "SLOW_OPERATIONS", 1)
    file = cache_file("a" * 64, "moore", torch.float32)
    first = derived_of(training(file, "moore:targets=q_proj+d_t=4", 0).updates)
    whole = derived_of(training(file, "moore:d_t=4", 1).updates)  # more maps: only these are computed
    monkeypatch.setattr(torch.linalg, "svd", None)
    again = derived_of(training(file, "moore:d_t=2+reflections=2", 2).updates)
    assert first.keys() < whole.keys() == again.keys()
    for key, value in again.items():
        assert torch.equal(value, whole[key])
        assert torch.equal(value, first.get(key, value))
    assert file != cache_file("b" * 64, "moore", torch.float32)


def test_what_was_saved_in_a_wider_type_serves_a_base_in_a_narrower_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not the vectors of the rounded weight, which are others; a narrower one is not enough."""
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    U, sigma, Vh = decomposed(weight, {})
    saved = {"U": U, "sigma": sigma, "Vh": Vh}
    monkeypatch.setattr(torch.linalg, "svd", None)
    narrow = decomposed(weight.bfloat16(), saved)
    assert torch.equal(narrow[0], U.bfloat16()) and torch.equal(narrow[2], Vh.bfloat16())
    assert narrow[1].dtype == torch.float32 and torch.equal(narrow[1], sigma)
    with pytest.raises(TypeError):  # the svd that is not there
        decomposed(weight.double(), saved)


def test_a_damaged_cache_is_made_again_and_what_is_quick_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAFUSE_CACHE", str(tmp_path))
    file = cache_file("a" * 64, "moore", torch.float32)
    training(file, "moore:d_t=4", 0)
    assert not file.exists()
    monkeypatch.setattr(decompositions, "SLOW_OPERATIONS", 1)
    file.parent.mkdir()
    file.write_bytes(b"damaged")
    kept = derived_of(training(file, "moore:d_t=4", 0).updates)
    assert cached(file).keys() == kept.keys()
