"""The one loader: no stranger's code runs unasked, and what is not a base is refused in one line."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import byte_tokenizer, tiny_model
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.loading import check_base, load_config, load_model, load_tokenizer, skeleton
from lorafuse_bench.remote_code import TRUST, trust, trusted
from lorafuse_bench.zoo.hashes import weights_sha256

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path(__file__).with_name("ran").touch()
Path({mark!r}).touch()


class StrangeConfig(LlamaConfig):
    model_type = "strange"


class StrangeModel(LlamaForCausalLM):
    config_class = StrangeConfig
"""


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base of an architecture that only its own module knows; the module leaves a mark where it runs."""
    monkeypatch.delenv(TRUST, raising=False)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\ny\n"))
    folder = tmp_path / "base"
    tiny_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "strange.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "strange.StrangeConfig", "AutoModelForCausalLM": "strange.StrangeModel"}
    config |= {"model_type": "strange", "architectures": ["StrangeModel"], "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("load", [load_config, load_model, load_tokenizer, skeleton, check_base])
def test_a_bases_own_code_does_not_run_unasked(strange: Path, load: object) -> None:
    """Not even where standard input would answer yes."""
    with pytest.raises(
        LorafuseError, match=r"needs code of its own .*auto_map.*--trust-remote-code"
    ) as error:
        load(strange)  # type: ignore[operator]
    assert "\n" not in str(error.value)
    assert not (strange.parent / "ran").exists()


def test_a_bases_own_code_runs_where_the_user_says_so(strange: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST, "0")
    trust(False)
    assert not trusted()
    trust(True)
    assert trusted() and os.environ[TRUST] == "1"
    assert type(load_model(strange)).__name__ == "StrangeModel"
    assert (strange.parent / "ran").exists()


def test_code_beside_an_architecture_that_transformers_knows_is_not_needed(
    strange: Path,
) -> None:
    config = json.loads((strange / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    assert type(load_model(strange)).__name__ == "LlamaForCausalLM"
    assert not (strange.parent / "ran").exists()


@pytest.mark.parametrize(
    "content", [b"[]", b"\xff", b"{" * 100_000, b'{"model_type": 5}', b'{"model_type": "no_such"}', b"{}"]
)
def test_what_is_no_configuration_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(LorafuseError) as error:
        load_model(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_base_of_pickles_says_how_to_convert(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(LorafuseError, match=r"no \*\.safetensors; pickles .* convert it: .*save_pretrained"):
        weights_sha256(tmp_path)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path)
    return tmp_path


def described(base: Path, **changes: object) -> Path:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | changes))
    return base


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 0},
        {"hidden_size": 0},
        {"num_hidden_layers": -1},
        {"vocab_size": "many"},
        {"eos_token_id": "x"},
        {"model_type": ["llama"]},
        {"quantization_config": [1]},
        {"hidden_act": {}},
    ],
)
@pytest.mark.parametrize("load", [load_model, skeleton])
def test_whatever_a_configuration_says_it_is_one_line(
    base: Path, load: Callable[[Path], object], changes: dict[str, object]
) -> None:
    with suppress(LorafuseError):  # what does not matter to shapes or to weights may load
        load(described(base, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation": "somebody/kernel"},
        {"attn_implementation": {"": "somebody/kernel@main:f"}},
        {"text_config": {"_attn_implementation": "somebody/kernel"}},
    ],
)
def test_kernels_of_the_hub_are_a_strangers_code(
    base: Path, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRUST, raising=False)
    with pytest.raises(LorafuseError, match=r"_implementation=.*somebody/kernel.* --trust-remote-code"):
        check_base(described(base, **changes))
    monkeypatch.setenv(TRUST, "1")
    check_base(base)
    monkeypatch.delenv(TRUST)
    check_base(described(base, **dict.fromkeys(changes, "sdpa")))


@pytest.mark.parametrize(
    "changes",
    [{"num_hidden_layers": 10**9}, {"text_config": {"num_local_experts": 10**400}}, {"n_layers": 5000}],
)
def test_parts_without_end_are_refused_before_they_are_made(base: Path, changes: dict[str, object]) -> None:
    with pytest.raises(LorafuseError, match=r"config\.json: \w+ is \d+, and no model has more than 4096"):
        load_config(described(base, **changes))


def without_one(weights: dict[str, Tensor]) -> None:
    del weights["model.layers.0.mlp.up_proj.weight"]


def narrower(weights: dict[str, Tensor]) -> None:
    weights["model.norm.weight"] = torch.ones(3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_one, r"lacks weights .* such as model\.layers\.0\.mlp\.up_proj\.weight\."),
        (narrower, r"other shapes than its config\.json says, such as model\.norm\.weight\."),
    ],
)
def test_weights_that_do_not_fill_the_model_are_refused(
    base: Path, change: Callable[[dict[str, Tensor]], None], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """transformers draws what is missing at random, and says so in a table."""
    weights = load_file(base / "model.safetensors")
    change(weights)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LorafuseError, match=says):
        load_model(base)
    assert "LOAD REPORT" not in capfd.readouterr().err
