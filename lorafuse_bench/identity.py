"""What a result is of: method, zoo, base, experts, and what it ran on. Names and hashes, never paths."""

from __future__ import annotations

import ast
import hashlib
import inspect
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.files import sha256_file
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import FusionMethod
from lorafuse_bench.memory import peak_bytes
from lorafuse_bench.tasks.data import HUB, MINI
from lorafuse_bench.zoo.manifest import Zoo
from lorafuse_bench.zoo.pools import pool_name

_PACKAGES = ("lorafuse-bench", "lm_eval", "torch", "transformers", "peft", "datasets")
_TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
)


def identity(zoo: Zoo, pool: ExpertPool, method: FusionMethod, dtype: str) -> dict[str, Any]:
    """A result's `method`, `zoo`, `base` and `experts`."""
    base = zoo.manifest.base
    return {
        "method": {
            "name": method.name,
            "label": method.label(),
            "family": method.family,
            "options": method.options(),
            "version": method.version,
            "source_sha256": source_sha256(type(method)),
        },
        "zoo": {
            "name": pool_name(zoo, pool.names),
            "seed": zoo.manifest.seed,
            "sha256": zoo.sha256(),
            "init": zoo.manifest.init,
        },
        "base": {
            "repo": zoo.base_name,
            "revision": base.revision,
            "sha256": base.sha256,
            "tokenizer_sha256": tokenizer_sha256(zoo.find_base()),
            "dtype": dtype,
        },
        "experts": [
            {
                "name": e.name,
                "revision": None,
                "sha256": e.sha256,
                "rank": e.rank,
                "alpha": e.alpha,
                "targets": e.targets,
            }
            for e in pool.experts
        ],
    }


def model_info(fused: FusedModel, source: str) -> dict[str, Any]:
    """What a model wrapper tells lm-eval of itself, for a result to be made of lm-eval's own files."""
    assert fused.method is not None
    device = fused.model.device
    dtype = str(fused.model.dtype).removeprefix("torch.")
    return {
        **identity(fused.zoo, fused.pool, fused.method, dtype),
        "artefacts": artefacts(fused),
        "data": {"source": source_name(fused.zoo, source)},
        "cost": {
            "fuse_seconds": fused.fuse_seconds,
            "extra_parameters": fused.extra_parameters,
            "peak_bytes": peak_bytes(device),
        },
        "environment": environment(device),
    }


def artefacts(fused: FusedModel) -> list[dict[str, Any]]:
    """A result's `artefacts`: what was learned and the current method asked for."""
    return [
        {
            "name": entry.name,
            "sha256": entry.sha256,
            "experts": {expert.name: expert.sha256 for expert in getattr(entry, "adapters", ())},
        }
        for entry in fused.in_use
    ]


def source_name(zoo: Zoo, source: str) -> str:
    """A folder is named, not located: results travel between machines. A zoo's own data bears its name."""
    if source in (HUB, MINI):
        return source
    folder = Path(source).resolve()
    return zoo.name if zoo.root.resolve() in folder.parents else folder.name


def tokenizer_sha256(folder: Path) -> str:
    """sha256 over the names and hashes of a model folder's tokenizer files."""
    lines = [f"{name} {sha256_file(folder / name)}" for name in _TOKENIZER_FILES if (folder / name).is_file()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def source_sha256(cls: type[FusionMethod]) -> str:
    """sha256 of a method's code: its module and those of its package that it takes names from.

    Code is hashed without comments, docstrings and layout, so that only what runs counts.
    """
    package = cls.__module__.split(".")[0]
    scope = "lorafuse_bench.fusion" if package == "lorafuse_bench" else package
    waiting, found = [cls.__module__], dict[str, str]()
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        if name in found or module is None or not (name == scope or name.startswith(f"{scope}.")):
            continue
        found[name] = _code(module)
        if hasattr(module, "__path__") or name == registry.__name__:
            continue  # a package and the registry know every method, not only this one
        waiting += [getattr(value, "__module__", None) or "" for value in vars(module).values()]
        waiting += [value.__name__ for value in vars(module).values() if isinstance(value, ModuleType)]
    joined = "\n".join(f"{name} {code}" for name, code in sorted(found.items()))
    return hashlib.sha256(joined.encode()).hexdigest()


def _code(module: ModuleType) -> str:
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):  # no source, such as a compiled or interactive module
        return module.__name__
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def environment(device: torch.device) -> dict[str, Any]:
    """A result's `environment`."""
    commit = _git("rev-parse", "HEAD")
    return {
        "versions": {package: version(package) for package in _PACKAGES}
        | {"python": platform.python_version()},
        "git_commit": commit,
        "git_dirty": bool(_git("status", "--porcelain")) if commit else None,
        "hardware": f"{processor(device)}, {torch.get_num_threads()} threads",
    }


def processor(device: torch.device) -> str:
    """What computes, as `environment` begins its hardware."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


@cache
def _git(*arguments: str) -> str | None:
    """Output of git in the package's checkout; None when it is not one."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / "pyproject.toml").is_file():
        return None
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
