"""What is imported is declared in pyproject.toml, and what is declared is imported."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Where a package has another name than its distribution and may be absent here.
NAMES = {"sklearn": "scikit-learn", "yaml": "pyyaml", "vllm": "vllm", "ray": "ray", "gguf": "gguf"}
# Come with the extra ifeval of lm-eval, which is declared.
BY_OTHERS = {"langdetect", "nltk"}


def imported(folders: tuple[str, ...]) -> set[str]:
    """Top-level names of the modules that files below these folders import, the standard library's left out."""
    found = set()
    for file in (file for folder in folders for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"lorafuse_bench"}


def distribution(module: str) -> str:
    known = packages_distributions().get(module, [NAMES.get(module, module)])
    return canonicalize_name(NAMES.get(module, known[0]))


def declared(*extras: str) -> set[str]:
    told = [
        *PROJECT["dependencies"],
        *(x for extra in extras for x in PROJECT["optional-dependencies"][extra]),
    ]
    return {canonicalize_name(Requirement(text).name) for text in told}


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    used = {distribution(m) for m in imported(("lorafuse_bench", "tasks", "model_wrappers", "leaderboards"))}
    needed, optional = declared(), declared("vllm", "ray", "gguf") | {"pytest"}  # pytest runs its plugin
    assert used - needed - optional - BY_OTHERS == set()
    assert needed <= used
