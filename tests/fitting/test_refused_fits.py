"""Fits that cannot be made or no longer hold: one line, exit code 2, and the zoo's files as they were."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import TASKS, tiny_zoo, write_adapter
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.files import sha256_file
from lorafuse_bench.loading import load_model
from lorafuse_bench.testing.toys import tiny_model
from lorafuse_bench.zoo.manifest import Manifest, Zoo, weights_sha256

Damage = Callable[[Zoo], None]
LEARNED = "ensemble:weights=lp"
FIT = "fit {} --suite sst2/mnli --data {} --rows 4 --dev 2 --steps 2 --batch-size 2 --device cpu"
RUN = f"run --suites sst2/mnli --methods base,{LEARNED} --limit 1 --data {{}} --device cpu --out OUT"


def call(words: str, zoo: Path, out: Path, data: Path) -> tuple[int, str]:
    placed = [
        {"OUT": str(out), "HANDMADE": str(data), "ZOO": str(zoo)}.get(word, word) for word in words.split()
    ]
    where = [] if "ZOO" in words.split() else ["--zoo", str(zoo)]
    done = CliRunner().invoke(app, [*placed, *where])
    return done.exit_code, done.stderr


def described(zoo: Zoo, **changes: object) -> None:
    """Write the manifest with other fields."""
    Zoo(zoo.root, zoo.manifest.model_copy(update=changes)).save()


def another_expert(zoo: Zoo) -> None:
    folder = zoo.root / "experts" / TASKS[1]
    write_adapter(folder, load_model(zoo.base_folder()), ("q_proj",), seed=9)
    first, second = zoo.manifest.experts
    digest = sha256_file(folder / "adapter_model.safetensors")
    described(zoo, experts=(first, second.model_copy(update={"sha256": digest})))


def another_base(zoo: Zoo) -> None:
    tiny_model("qwen2", seed=5).save_pretrained(zoo.root / "base")
    digest = weights_sha256(zoo.root / "base")
    base = zoo.manifest.base.model_copy(update={"sha256": digest})
    experts = tuple(e.model_copy(update={"base_sha256": digest}) for e in zoo.manifest.experts)
    described(zoo, base=base, experts=experts)


def twins(zoo: Zoo) -> None:
    first, second = zoo.manifest.experts
    shutil.copytree(zoo.root / first.path, zoo.root / second.path, dirs_exist_ok=True)
    described(zoo, experts=(first, second.model_copy(update={"sha256": first.sha256})))


def all_rows_seen(zoo: Zoo) -> None:
    first, second = zoo.manifest.experts
    described(zoo, experts=(first.model_copy(update={"rows": {TASKS[0]: 3000}}), second))


@pytest.mark.parametrize(
    ("before", "damage", "words", "said"),
    [
        pytest.param(
            "", None, RUN.format("mini"), "lorafuse fit ensemble:weights=lp --suite", id="not fitted"
        ),
        pytest.param(
            FIT.format(LEARNED, "mini"),
            another_expert,
            RUN.format("mini"),
            "expert 'mnli' changed",
            id="experts",
        ),
        pytest.param(FIT.format(LEARNED, "mini"), another_base, RUN.format("mini"), "its base is", id="base"),
        pytest.param(
            FIT.format(LEARNED, "mini"), None, RUN.format("HANDMADE"), "the rows of its suite in", id="rows"
        ),
        pytest.param("", None, FIT.format("merge_sgd", "HANDMADE"), "none are left", id="no dev rows"),
        pytest.param(
            "",
            all_rows_seen,
            FIT.format("merge_sgd", "mini"),
            "sst2 were trained on the rows",
            id="seen dev rows",
        ),
        pytest.param(
            "", None, FIT.format("hc:clusters=3", "mini"), "must be between 1", id="clusters of a fit"
        ),
        pytest.param(
            "", None, "zoo cluster ZOO --clusters 3", "3 clusters of 2 experts", id="clusters of a zoo"
        ),
        pytest.param(
            "", None, FIT.format("hc:clusters=0", "mini"), "clusters=0 must be between 1", id="no clusters"
        ),
        pytest.param(
            "", None, FIT.format("phatgoose:steps=0", "mini"), "steps=0 must be at least 1", id="no steps"
        ),
        pytest.param("", twins, FIT.format(LEARNED, "mini"), "any weights solve", id="degenerate program"),
        pytest.param(
            "",
            None,
            FIT.format("merge_sgd --lrs 3e38", "mini"),
            "NaN or infinite by step 1",
            id="no number",
        ),
    ],
)
def test_one_line_and_nothing_lost(
    tmp_path: Path, handmade_data: Path, before: str, damage: Damage | None, words: str, said: str
) -> None:
    zoo, out = tiny_zoo(tmp_path / "zoo", experts=2), tmp_path / "out"
    if before:
        code, stderr = call(before, zoo.root, out, handmade_data)
        assert code == 0, stderr
    if damage:
        damage(Zoo.open(zoo.root))
    kept = files(zoo.root)
    code, stderr = call(words, zoo.root, out, handmade_data)
    assert code == 2 and said in stderr, stderr
    assert len([line for line in stderr.splitlines() if line.startswith("lorafuse: ")]) == 1, stderr
    assert files(zoo.root) == kept
    assert Manifest.model_validate_json((zoo.root / "manifest.json").read_text())
    assert not list(out.rglob("*lp.json"))


def files(root: Path) -> dict[str, str]:
    """Every file of a zoo but those of work in progress, with its hash."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and ".training" not in path.parts and not path.name.startswith(".")
    }
