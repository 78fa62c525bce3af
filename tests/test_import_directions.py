"""Nothing imports upwards: one table of what may import what, held against every import in the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "lorafuse_bench"

TABLE: tuple[tuple[str, ...], ...] = (
    (
        "errors",
        "locks",
        "memory",
        "truncation",
        "remote_code",
        "workers",
        "prefix",
        "placement",
        "yaml_files",
    ),
    ("files", "limits", "definition", "progress", "peft_tensors"),
    (
        "uncaught",
        "registry",
        "picture",
        "device",
        "peft_settings",
        "leaderboards.measures",
        "leaderboards.boards.text",
    ),
    ("tables",),
    ("zoo.hashes",),
    ("hub",),
    ("zoo", "leaderboards.statistics"),
    ("loading", "experts"),
    ("layers", "heads"),
    ("base_model",),
    ("zoo.index", "zoo.cluster"),
    ("zoo.mttl", "zoo.travel", "fusion"),
    ("merge_sizes",),
    ("artefacts", "planning"),
    ("fused", "mini_world"),
    ("tasks", "scoring"),
    ("leaderboards.results", "identity", "doctor"),
    ("leaderboards.reported",),
    ("leaderboards.boards",),
    ("leaderboards.publishing",),
    ("leaderboards.pages",),
    ("leaderboards",),
    ("model_card",),
    ("export",),
    ("serving", "training"),
    ("model_wrappers", "mini_world.settings"),
    ("runner", "bench", "mini_world.pretrain", "mini_world.choose", "mini_world.moa_routers"),
    ("analysis", "api", "testing", "mini_world.build"),
    ("cli",),
)
"""Rows import rows above them, and themselves; parts of one row do not import each other. The longest name counts."""
ANYWHERE = {"plugin", "__main__", ""}
"""The start-up hook acts on what is loaded later, inside its functions; the package itself imports lazily."""
NEVER = {
    "leaderboards": {"torch", "transformers", "peft", "lm_eval"},
    "fusion": {"lm_eval", "transformers", "peft"},
    "tasks": {"torch", "peft", "transformers"},
    "zoo": {"lm_eval"},
}
"""Part to the packages of others that it imports nowhere, nor inside its functions."""


def modules() -> dict[str, Path]:
    """Name below the package to its file."""
    found = {}
    for folder in (PACKAGE, "tasks", "leaderboards", "model_wrappers"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT if folder != PACKAGE else ROOT / PACKAGE).with_suffix("").parts
            found[".".join(parts).removesuffix("__init__").rstrip(".")] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """What a file imports, anywhere in it but for the sake of types."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting += ast.iter_child_nodes(node)


def part(module: str) -> str:
    """The entry of the table that a module belongs to; empty where it has none."""
    fits = [name for row in TABLE for name in row if module == name or module.startswith(f"{name}.")]
    return max(fits, key=len, default="")


ROW = {name: place for place, row in enumerate(TABLE) for name in row}
MODULES = modules()


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_upwards(module: str) -> None:
    own = part(module)
    if module in ANYWHERE:
        return
    assert own, f"{module} has no place in the table"
    for name in imports(MODULES[module]):
        top, _, inner = name.partition(".")
        assert top not in NEVER.get(own, set()), f"{module} imports {name}"
        if top != PACKAGE or not (other := part(inner)) or other == own:
            continue
        assert ROW[other] < ROW[own], f"{module} ({own}) imports {name} ({other})"


def test_the_table_names_what_there_is() -> None:
    assert {name for name in ROW if not any(part(module) == name for module in MODULES)} == set()
