"""A package of one fusion method, as text files: what `lorafuse new-method` writes."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from lorafuse_bench import __version__
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import new_folder

FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "lorafuse-$dashed"
version = "0.1.0"
description = "The fusion method $name for LoRA-Fuse Bench."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["lorafuse-bench>=$version"]

[project.optional-dependencies]
test = ["pytest"]

# This makes `--model_args method=$name` work wherever the package is installed.
[project.entry-points."lorafuse.methods"]
$name = "lorafuse_$name.method"

[tool.hatch.build.targets.wheel]
packages = ["lorafuse_$name"]
""",
    "lorafuse_$name/__init__.py": "",
    "lorafuse_$name/method.py": '''\
"""$title: say here what it does."""

from __future__ import annotations

from dataclasses import dataclass

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Merged, Merge, option
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class $title(Merge):
    """The mean of the experts' updates.

    `ΔW = scale · (1/N) Σ_i s_i B_i A_i`, with `A_i (r, in)`, `B_i (out, r)`. Source: say which section and equation
    of which paper. Cost: one LoRA of rank `Σ r_i`.
    """

    scale: float = option(1.0, "multiplies the merged update")

    name = "$name"
    paper = "authors, title, link"

    def fuse(self, pool: ExpertPool) -> Merged:
        """One adapter; `stack.B` holds the scalings alpha/r already."""
        factors = {}
        for module, stack in pool.modules.items():
            a = stack.A.flatten(0, 1)
            b = self.scale / len(pool) * stack.B.transpose(0, 1).flatten(1)
            factors[module] = (a, b)
        return Merged(factors)
''',
    "tests/test_$name.py": '''\
"""Every check of LoRA-Fuse Bench, and the formula on a case computed by hand."""

from __future__ import annotations

import torch
from lorafuse_bench.testing import parametrize_with_checks
from lorafuse_bench.testing.toys import pool_of, toy_experts

from lorafuse_$name.method import $title


@parametrize_with_checks([$title()])
def test_method(method, check) -> None:
    check(method)


def test_the_formula() -> None:
    experts = toy_experts()
    adapter = $title(scale=0.5).fuse(pool_of(experts))
    for module, (a, b) in adapter.factors.items():
        updates = [e.scaling[module] * e.factors[module][1] @ e.factors[module][0] for e in experts]
        torch.testing.assert_close(b @ a, 0.5 * sum(updates) / len(updates))
''',
    ".github/workflows/test.yml": """\
name: test
on: [push, pull_request]
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with: {python-version: "3.11"}
      - run: pip install -e ".[test]"
      - run: pytest
""",
    "README.md": """\
# lorafuse-$dashed

The fusion method `$name` for LoRA-Fuse Bench. Say here what it does, and where it comes from.

```bash
pip install -e ".[test]"
pytest                                                  # is it right?
lorafuse check lorafuse_$name.method:$title             # the same as a table
lm_eval --model lorafuse --model_args method=$name --tasks mtl5
```
""",
}
"""Path -> text; both are templates over the method's name."""


def write_package(name: str, folder: Path) -> Path:
    """Write the package of a method called `name` to a new folder; LorafuseError for a bad name, or one in use."""
    from lorafuse_bench.fusion import registry

    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise LorafuseError(f"a method cannot be called {name!r}. Use small letters, digits and '_'.")
    if name in registry.methods():
        raise LorafuseError(f"there is a method '{name}' already. Choose another name.")
    title = "".join(part.capitalize() for part in name.split("_"))
    values = {"name": name, "dashed": name.replace("_", "-"), "title": title, "version": __version__}
    with new_folder(folder) as inside:
        for path, text in FILES.items():
            file = inside / Template(path).substitute(values)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(Template(text).substitute(values))
    return folder
