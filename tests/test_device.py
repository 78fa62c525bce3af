"""Device and type: one rule for all commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorafuse_bench import device
from lorafuse_bench.device import Compute, device_of, dtype_of, stored_dtype
from lorafuse_bench.errors import LorafuseError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("asked", "where", "stored", "bf16_cpu", "expected"),
    [
        ("auto", CPU, torch.bfloat16, False, torch.float32),
        ("auto", CPU, torch.bfloat16, True, torch.bfloat16),
        ("auto", CPU, torch.float16, True, torch.float32),
        ("auto", CPU, torch.float32, True, torch.float32),
        ("auto", GPU, torch.bfloat16, False, torch.bfloat16),
        ("auto", GPU, torch.float16, False, torch.float16),
        ("auto", GPU, torch.float64, False, torch.float32),
        ("bfloat16", CPU, torch.float32, False, torch.bfloat16),
        ("float32", GPU, torch.bfloat16, False, torch.float32),
    ],
)
def test_the_type_is_the_checkpoints_where_it_is_fast(
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    where: torch.device,
    stored: torch.dtype,
    bf16_cpu: bool,
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr(device, "cpu_has_bfloat16", lambda: bf16_cpu)
    assert dtype_of(asked, where, stored) is expected


def test_auto_is_the_accelerator_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of() == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of() == GPU


@pytest.mark.parametrize("name", ["foo", "", "cpu:x", "meta", "cuda:99", "xla"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(LorafuseError, match=f"device '{name}' "):
        device_of(name)


@pytest.mark.parametrize("name", ["foo", "int8", "float64", "bf16"])
def test_an_unknown_type_is_refused(name: str) -> None:
    with pytest.raises(LorafuseError, match=f"unknown dtype '{name}'"):
        dtype_of(name, CPU, torch.float32)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_stored_type_is_the_configs_else_the_tensors(tmp_path: Path, key: str) -> None:
    save_file(
        {"a": torch.zeros(2, dtype=torch.int64), "b": torch.zeros(2, dtype=torch.bfloat16)},
        tmp_path / "m.safetensors",
    )
    assert stored_dtype(tmp_path) is torch.bfloat16
    (tmp_path / "config.json").write_text(json.dumps({key: "float16"}))
    assert stored_dtype(tmp_path) is torch.float16
    assert Compute.of("cpu", "float32", tmp_path).record() == {"device": "cpu", "dtype": "float32"}
