"""Decompositions of a base are computed once, and shared by all adapters on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapters import method_of
from tiny import tiny_model

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
