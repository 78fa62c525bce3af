"""Every initialisation and setting of PEFT's LoRA: fused as trained, or refused by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners import lora
from peft_made import IDS, fused_logits, logits, trained, zoo_of
from tiny import tiny_model, write_adapter

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import LoraExpert
from lorafuse_bench.peft_settings import _ALLOWED, _LABELS, _OFF, _READ, PeftSettings

FIELDS = {field.name for field in dataclasses.fields(LoraConfig)}
HAS_NEWEST = "lora_ga_config" in FIELDS
NEWEST = "this release of peft is older than the initialisation"
TARGETS = ["q_proj", "v_proj", "down_proj"]


def config(**changes: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": TARGETS} | changes)


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal", "mica", "eva"])
def test_initialisations_that_leave_the_base_alone_fuse_as_trained(tmp_path: Path, init: Any) -> None:
    """EVA, whose A comes from the data, starts as PEFT leaves it before its data pass: B is zero either way."""
    if init == "mica" and not HAS_NEWEST:
        pytest.skip(NEWEST)
    peft = trained(tiny_model(), config(init_lora_weights=init))
    zoo = zoo_of(tmp_path, peft.save_pretrained)
    assert (logits(peft) - logits(tiny_model())).abs().max() > 1e-2
    torch.testing.assert_close(fused_logits(zoo, tiny_model()), logits(peft), rtol=1e-5, atol=1e-5)


REWRITING = ("pissa", "pissa_niter_4", "olora", "lora_ga")


def rewriting(init: str) -> tuple[Any, LoraConfig]:
    """A model and the settings of an initialisation that rewrites its weights."""
    model, settings = tiny_model(), config(init_lora_weights=init)
    if init == "lora_ga":
        loraga = pytest.importorskip("peft.tuners.lora.loraga", reason=NEWEST)
        settings.lora_ga_config = lora.LoraGAConfig()
        loraga.preprocess_loraga(model, settings, lambda: model(input_ids=IDS, labels=IDS).loss.backward())
    return model, settings


@pytest.mark.parametrize("init", REWRITING)
def test_initialisations_that_rewrite_the_base_are_refused(tmp_path: Path, init: str) -> None:
    model, settings = rewriting(init)
    peft = trained(model, settings)
    with pytest.raises(
        LorafuseError, match=f"adapter 'a' uses init_lora_weights='{init}'.*weight_conversion"
    ):
        zoo_of(tmp_path, peft.save_pretrained)


@pytest.mark.parametrize("init", REWRITING)
def test_what_peft_converts_on_saving_fuses_as_trained(tmp_path: Path, init: str) -> None:
    """PEFT's conversion doubles rank and alpha, and the adapter fits the base as it was."""
    from peft import get_peft_model

    model, settings = rewriting(init)
    torch.manual_seed(0)
    peft = get_peft_model(model, settings)
    peft.peft_config["default"].init_lora_weights = True  # as PEFT's documentation says to save the start
    peft.save_pretrained(tmp_path / "start")
    peft.peft_config["default"].init_lora_weights = init
    steps = torch.optim.SGD([p for p in peft.parameters() if p.requires_grad], lr=0.3)
    peft(input_ids=IDS, labels=IDS).loss.backward()
    steps.step()
    peft.eval()

    def save(folder: Path) -> None:
        peft.save_pretrained(folder, path_initial_model_for_weight_conversion=str(tmp_path / "start"))

    expected = logits(peft)
    zoo = zoo_of(tmp_path, save)
    assert LoraExpert.load(zoo.root / "experts" / "a", "a", "a").rank == 8
    torch.testing.assert_close(fused_logits(zoo, tiny_model()), expected, rtol=1e-4, atol=1e-4)


def test_replicated_layers_are_refused(tmp_path: Path) -> None:
    peft = trained(tiny_model("llama"), config(layer_replication=[[0, 2], [1, 3]]))
    with pytest.raises(LorafuseError, match="uses layer_replication="):
        zoo_of(tmp_path, peft.save_pretrained, tiny_model("llama"))


def test_patterns_and_rslora_scale_as_in_peft(tmp_path: Path) -> None:
    """The first pattern that matches holds, as a whole name or its end after a dot."""
    settings = config(
        use_rslora=True,
        rank_pattern={r"layers\.[01]\..*q_proj": 6, "q_proj": 2},
        alpha_pattern={"^model.layers.0.self_attn.v_proj": 3, "v_proj": 11, "proj": 99},
    )
    peft = trained(tiny_model(), settings)
    zoo = zoo_of(tmp_path, peft.save_pretrained)
    torch.testing.assert_close(fused_logits(zoo, tiny_model()), logits(peft), rtol=1e-5, atol=1e-5)


def test_every_field_of_peft_is_considered() -> None:
    """A field of this PEFT is read, a label, limited to values, or must be off; its default is never refused."""
    if HAS_NEWEST:
        assert _LABELS | _READ | _ALLOWED.keys() <= FIELDS
    for name in FIELDS - _LABELS - _READ:
        default = getattr(LoraConfig(), name)
        assert default in _ALLOWED.get(name, _OFF), name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("layer_replication", [[0, 2]]),
        ("kasa_config", {"beta": 1e-4}),
        ("use_bdlora", {"nblocks": 2}),
        ("alora_invocation_tokens", [1]),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "next_years"),
        ("init_lora_weights", 1),
        ("peft_type", "LOHA"),
        ("bias", "lora_only"),
        ("a_field_of_next_year", 3),
        ("a_field_of_next_year", 0),
    ],
)
def test_all_else_is_refused_by_name(tmp_path: Path, key: str, value: object) -> None:
    write_adapter(tmp_path / "a", tiny_model(), ("q_proj",), **{key: value})
    with pytest.raises(LorafuseError, match=f"adapter 'a' uses {key}=") as error:
        PeftSettings.load(tmp_path / "a", "a")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [None, False, [], {}])
def test_fields_of_other_versions_that_are_off_are_no_obstacle(tmp_path: Path, value: object) -> None:
    write_adapter(tmp_path / "a", tiny_model(), ("q_proj",), merge_weights=value)
    assert PeftSettings.load(tmp_path / "a", "a").rank == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 16}, r"q_proj has rank 4 in its file, 16 in adapter_config.json"),
        ({"rank_pattern": {"q_proj": 8}}, "has rank 4 in its file, 8 in"),
        ({"r": True}, "r must be a positive integer"),
        ({"r": 4.0}, "r must be a positive integer"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a positive number"),
        ({"lora_alpha": float("inf")}, "lora_alpha must be a positive number"),
        ({"lora_alpha": -8}, "lora_alpha must be a positive number"),
        ({"lora_alpha": 10**400}, "lora_alpha is too large"),
        ({"lora_alpha": 1e300}, "scaling of .* is 2.5e\\+299, which fp32 cannot hold"),
        ({"lora_alpha": 1e-300}, "which fp32 cannot hold"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern of q_proj must be a positive number"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern must be an object"),
        ({"alpha_pattern": {"q_proj(": 2}}, "alpha_pattern: 'q_proj\\(' is not an expression"),
        ({"rank_pattern": {"q_proj": 4.5}}, "rank_pattern of q_proj must be a positive integer"),
        ({"use_rslora": "yes"}, "use_rslora must be true or false"),
    ],
)
def test_values_that_cannot_be_are_refused_in_one_line(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    write_adapter(tmp_path / "a", tiny_model(), ("q_proj",), **changes)
    with pytest.raises(LorafuseError, match=message) as error:
        LoraExpert.load(tmp_path / "a", "a", "a")
    assert "adapter 'a'" in str(error.value)
    assert "\n" not in str(error.value)


def test_expressions_without_number_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorafuse_bench.peft_settings._PATTERN_SECONDS", 0.1)
    patterns = {f"[a-z]+{i}": 2 for i in range(20_000)}
    write_adapter(tmp_path / "a", tiny_model(), ("q_proj",), alpha_pattern=patterns)
    with pytest.raises(LorafuseError, match="too many expressions"):
        LoraExpert.load(tmp_path / "a", "a", "a")


@pytest.mark.parametrize("pattern", ["(([a-z_.0-9]|[a-z_.0-9])+)+l\\.l", "((.|.)+)+l\\.l"])
@pytest.mark.timeout(60)
def test_expressions_that_backtrack_without_end_are_refused(
    tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorafuse_bench.peft_settings._PATTERN_SECONDS", 0.3)
    write_adapter(tmp_path / "a", tiny_model(), ("q_proj",), alpha_pattern={pattern: 2})
    with pytest.raises(LorafuseError, match="takes too long to match"):
        LoraExpert.load(tmp_path / "a", "a", "a")


@pytest.mark.parametrize(
    "content",
    [
        b"[1, 2]",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"",
        b"null",
        b'{"r": 1' + b"0" * 5000 + b"}",
    ],
    ids=["list", "not UTF-8", "nested list", "nested object", "empty", "null", "long number"],
)
def test_configurations_that_are_no_object_are_refused(tmp_path: Path, content: bytes) -> None:
    write_adapter(tmp_path / "a", tiny_model(), ("q_proj",))
    (tmp_path / "a" / "adapter_config.json").write_bytes(content)
    with pytest.raises(LorafuseError, match="is not JSON|a JSON object|cannot be read") as error:
        LoraExpert.load(tmp_path / "a", "a", "a")
    assert "\n" not in str(error.value)


def test_an_overlong_path_and_a_folder_in_place_of_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LorafuseError, match="adapter 'a'"):
        LoraExpert.load(tmp_path / ("x" * 300), "a", "a")
    (tmp_path / "b" / "adapter_config.json").mkdir(parents=True)
    with pytest.raises(LorafuseError, match="adapter 'b'"):
        LoraExpert.load(tmp_path / "b", "b", "b")


def test_an_adapter_written_by_peft_names_its_base(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", tiny_model(), ("q_proj",), base_model_name_or_path="user/base")
    assert LoraExpert.load(tmp_path / "a", "a", "a").base == "user/base"
    write_adapter(tmp_path / "b", tiny_model(), ("q_proj",), base_model_name_or_path=5)
    assert json.loads((tmp_path / "b" / "adapter_config.json").read_text())["base_model_name_or_path"] == 5
    assert LoraExpert.load(tmp_path / "b", "b", "b").base is None
