"""Zoos with something wrong in them: manifests, adapters, routers, the base. One line each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from damage import Row, Work, check, in_type
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorafuse_bench.files import sha256_file

RUN = "run --zoo {zoo} --suites sst2 --methods concat --limit 1 --out {root}/out"
MOA = "run --zoo {zoo} --suites sst2/mnli --methods moa --limit 1 --out {root}/out"
EXPORT = "export --zoo {zoo} --all --out {root}/a/b/out"
PUSH = "zoo push {zoo} --repo a/b"
ADD = "zoo add {root}/new {expert} --task sst2 --base {zoo}/base"
DEEP = b"[" * 100_000
LATIN = '{"name": "zoo für alle"}'.encode("latin-1")
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
Tensors = dict[str, Tensor]


def config(name: str, message: str, **changes: object) -> Row:
    """A row that changes fields of an expert's configuration."""
    return Row(f"config {name}", RUN, message, lambda work: work.json(work.expert / CONFIG, **changes))


def bytes_of(name: str, message: str, file: str, content: bytes, command: str = RUN) -> Row:
    """A row that replaces a file's content."""
    return Row(name, command, message, lambda work: (work.zoo / file).write_bytes(content))


def gone(name: str, message: str, file: str, command: str = RUN) -> Row:
    return Row(name, command, message, lambda work: (work.zoo / file).unlink())


def fifo(work: Work, file: str) -> None:
    (work.zoo / file).unlink()
    os.mkfifo(work.zoo / file)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def tensors(name: str, message: str, change: object) -> Row:
    return Row(f"weights {name}", RUN, message, lambda work: work.tensors(change))  # type: ignore[arg-type]


def first(tensors: Tensors) -> str:
    return next(iter(tensors))


def flat(tensors: Tensors) -> None:
    tensors[first(tensors)] = tensors[first(tensors)].flatten()


def scalar(tensors: Tensors) -> None:
    tensors[first(tensors)] = torch.tensor(1.0)


def empty(tensors: Tensors) -> None:
    tensors[first(tensors)] = torch.zeros(0)


def nan(tensors: Tensors) -> None:
    tensors[first(tensors)].view(-1)[0] = torch.nan


def unpaired(tensors: Tensors) -> None:
    del tensors[first(tensors)]


def stranger(tensors: Tensors) -> None:
    tensors["something.else"] = torch.ones(2)


def narrower(tensors: Tensors) -> None:
    key = next(key for key in tensors if "lora_A" in key)
    tensors[key] = tensors[key][:, :-1].contiguous()


def twice(path: Path) -> None:
    path.write_text(path.read_text().replace("{", '{"schema": "another", ', 1))


def router(name: str, message: str, change: object) -> Row:
    """A row that changes the router's tensors, and the manifest's hash with them."""

    def harm(work: Work) -> None:
        path = work.zoo / ROUTER
        tensors = load_file(path)
        change(tensors)  # type: ignore[operator]
        save_file(tensors, path)
        work.entry("artefacts", sha256=sha256_file(path))

    return Row(f"router {name}", MOA, message, harm)


def narrow(tensors: Tensors) -> None:
    for key in tensors:
        tensors[key] = tensors[key][..., :1].contiguous()


def all_nan(tensors: Tensors) -> None:
    for key in tensors:
        tensors[key] = torch.full_like(tensors[key], torch.nan)


def cut_and_described(work: Work) -> None:
    half(work.zoo / ROUTER)
    work.entry("artefacts", sha256=sha256_file(work.zoo / ROUTER))


def link(work: Work, inside: str) -> None:
    (work.root / "secret.txt").write_text("a key")
    (work.root / inside / "notes.txt").symlink_to(work.root / "secret.txt")


def portable_but_for_a_link(work: Work) -> None:
    work.json(work.manifest, data="hub")
    link(work, "zoo")


ROUTER = "routers/moa-last/router.safetensors"
MANIFEST = "manifest.json"
EXPERT = "experts/sst2"
ROWS = (
    gone("no manifest", "not found: no {zoo}/manifest.json", MANIFEST),
    bytes_of("manifest empty", "manifest.json", MANIFEST, b""),
    bytes_of("manifest cut", "manifest.json", MANIFEST, b'{"name": "tiny"'),
    bytes_of("manifest a list", "manifest.json", MANIFEST, b"[1]"),
    bytes_of("manifest deep", "manifest.json", MANIFEST, DEEP),
    bytes_of("manifest not UTF-8", "manifest.json", MANIFEST, LATIN),
    bytes_of("manifest zeros", "manifest.json", MANIFEST, bytes(1000)),
    Row("manifest of two names", RUN, "'schema' stands twice", lambda w: twice(w.manifest)),
    Row("manifest NaN", RUN, "manifest.json", lambda w: w.json(w.manifest, training={"x": float("nan")})),
    Row("manifest a fifo", RUN, "manifest.json", lambda work: fifo(work, MANIFEST)),
    Row("manifest unknown field", RUN, "colour", lambda work: work.json(work.manifest, colour="red")),
    Row("manifest of a later schema", RUN, "schema", lambda w: w.json(w.manifest, schema="lorafuse.zoo/9")),
    Row("manifest seed a word", RUN, "seed", lambda work: work.json(work.manifest, seed="one")),
    Row("manifest seed negative", RUN, "seed", lambda work: work.json(work.manifest, seed=-1)),
    Row("manifest init unknown", RUN, "init", lambda work: work.json(work.manifest, init="other")),
    Row("manifest max_length 3", RUN, "max_length", lambda work: work.json(work.manifest, max_length=3)),
    Row("manifest name null", RUN, "name", lambda work: work.json(work.manifest, name=None)),
    Row("manifest experts an object", RUN, "experts", lambda work: work.json(work.manifest, experts={})),
    Row("expert nowhere", RUN, "sst2", lambda work: work.entry("experts", path="experts/nowhere")),
    Row("expert outside the zoo", RUN, "outside", lambda work: work.entry("experts", path="../other")),
    Row("expert of another hash", RUN, "sst2", lambda work: work.entry("experts", sha256="0" * 64)),
    Row("expert of another base", RUN, "another base", lambda w: w.entry("experts", base_sha256="0" * 64)),
    Row("two experts of one name", RUN, "mnli", lambda work: work.entry("experts", name="mnli")),
    Row("base nowhere", RUN, "nowhere", lambda work: work.entry("base", path="nowhere")),
    Row("base of another hash", RUN, "another base", lambda work: work.entry("base", sha256="0" * 64)),
    Row("data nowhere", RUN, "nowhere", lambda work: work.json(work.manifest, data="nowhere")),
    gone("no config", "sst2", f"{EXPERT}/{CONFIG}"),
    bytes_of("config empty", "sst2", f"{EXPERT}/{CONFIG}", b""),
    bytes_of("config deep", "sst2", f"{EXPERT}/{CONFIG}", DEEP),
    bytes_of("config not UTF-8", "sst2", f"{EXPERT}/{CONFIG}", LATIN),
    bytes_of("config a list", "sst2", f"{EXPERT}/{CONFIG}", b"[]"),
    bytes_of("config a number", "sst2", f"{EXPERT}/{CONFIG}", b"1"),
    config("r a word", "r must be", r="eight"),
    config("r 0", "r must be", r=0),
    config("r a list", "r must be", r=[8]),
    config("r null", "r must be", r=None),
    config("alpha a word", "lora_alpha must be", lora_alpha="sixteen"),
    config("alpha 0", "lora_alpha must be", lora_alpha=0),
    config("alpha NaN", "lora_alpha", lora_alpha=float("nan")),
    config("alpha infinite", "lora_alpha", lora_alpha=float("inf")),
    config("alpha_pattern a list", "alpha_pattern", alpha_pattern=[1]),
    config("alpha_pattern of a word", "alpha_pattern", alpha_pattern={"q_proj": "much"}),
    config("alpha_pattern no expression", "alpha_pattern", alpha_pattern={"(": 8}),
    config("rank_pattern a word", "rank_pattern", rank_pattern="q_proj"),
    config("rank_pattern of a word", "rank_pattern", rank_pattern={"q_proj": "much"}),
    config("DoRA", "sst2", use_dora=True),
    config("bias", "sst2", bias="all"),
    config("initialisation that rewrites the base", "lora_ga", init_lora_weights="lora_ga"),
    config("initialisation of another type", "init_lora_weights", init_lora_weights=[1]),
    config("another kind of adapter", "sst2", peft_type="IA3"),
    config("a kind that is a number", "sst2", peft_type=3),
    gone("no weights", "sst2", f"{EXPERT}/{WEIGHTS}"),
    bytes_of("weights empty", "sst2", f"{EXPERT}/{WEIGHTS}", b""),
    bytes_of("weights zeros", "sst2", f"{EXPERT}/{WEIGHTS}", bytes(1000)),
    Row("weights cut", RUN, "sst2", lambda work: half(work.expert / WEIGHTS)),
    Row("weights a fifo", RUN, "sst2", lambda work: fifo(work, f"{EXPERT}/{WEIGHTS}")),
    Row(
        "weights a pickle",
        RUN,
        "sst2",
        lambda work: (work.expert / WEIGHTS).rename(work.expert / "adapter_model.bin"),
    ),
    *(
        tensors(f"of type {kind}", "sst2", in_type(kind))
        for kind in ("int8", "int64", "bool", "complex64", "float8_e4m3fn")
    ),
    tensors("1-D", "sst2", flat),
    tensors("scalar", "sst2", scalar),
    tensors("of size 0", "sst2", empty),
    tensors("NaN", "NaN or infinity", nan),
    tensors("unpaired", "sst2", unpaired),
    tensors("of a stranger", "something.else", stranger),
    tensors("of another shape", "adapter", narrower),
    tensors("none", "sst2", lambda found: found.clear()),
    gone("no router", "moa-last", ROUTER, MOA),
    bytes_of("router zeros", "moa-last", ROUTER, bytes(100), MOA),
    Row("router cut and described anew", MOA, "moa-last", cut_and_described),
    router("NaN", "holds NaN, infinity", all_nan),
    router("of type complex64", "complex numbers", in_type("complex64")),
    router("of type int64", "cannot use fit 'moa-last'", in_type("int64")),
    router("of another shape", "cannot use fit 'moa-last'", narrow),
    router("none", "fit 'moa-last' holds no 'w1'", lambda found: found.clear()),
    Row(
        "router without settings",
        MOA,
        "holds no 'informative_blocks'",
        lambda w: w.entry("artefacts", settings={}),
    ),
    Row(
        "router of odd settings",
        MOA,
        "cannot use fit",
        lambda w: w.entry("artefacts", settings={"informative_blocks": "x"}),
    ),
    Row(
        "an expert named as a place",
        EXPORT,
        "cannot name a folder",
        lambda w: w.entry("experts", name="../../x"),
    ),
    Row(
        "a link out of the zoo, copied",
        "zoo copy {zoo} {root}/out",
        "leads to",
        lambda work: link(work, "zoo"),
    ),
    Row("a link out of the zoo, pushed", PUSH, "leads to", portable_but_for_a_link),
    Row("a link out of an adapter, added", ADD, "leads to", lambda work: link(work, "zoo/experts/sst2")),
    Row("router of other experts", MOA, "moa", lambda work: work.entry("artefacts", experts=["a", "b"])),
    gone("base without config", "config.json", "base/config.json"),
    bytes_of("base config empty", "config.json", "base/config.json", b""),
    bytes_of("base config a list", "config.json", "base/config.json", b"[]"),
    bytes_of("base config deep", "config.json", "base/config.json", DEEP),
    bytes_of("base config not UTF-8", "config.json", "base/config.json", LATIN),
    bytes_of("base of an unknown type", "base", "base/config.json", b'{"model_type": "nothing"}'),
    gone("base without weights", "base", "base/model.safetensors"),
    Row("base weights cut", RUN, "base", lambda work: half(work.zoo / "base/model.safetensors")),
    gone("base without tokenizer", "tokenizer", "base/tokenizer.json"),
    bytes_of("base tokenizer empty", "the base in {zoo}/base cannot be loaded", "base/tokenizer.json", b""),
    bytes_of("base tokenizer deep", "the base in {zoo}/base cannot be loaded", "base/tokenizer.json", DEEP),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "_"))
def test_a_damaged_zoo_is_refused_in_one_line(row: Row, whole: Work, tmp_path: Path) -> None:
    check(row, whole, tmp_path)
