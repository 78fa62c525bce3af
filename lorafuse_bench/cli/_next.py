"""What to type next: whole commands that work as they are printed, each on a line of its own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks import suites
from lorafuse_bench.zoo.manifest import Zoo


def command(*words: object) -> str:
    """A line with a command, quoted for the shell."""
    return f"Next: {shlex.join(str(word) for word in words)}"


def given(**options: object) -> list[str]:
    """Options as they were given, by name, for the next command, which needs them too."""
    words = []
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            option = f"--{name.replace('_', '-')}"
            words += [] if one in (None, False) else [option] if one is True else [option, str(one)]
    return words


def evaluation(
    zoo: Zoo, methods: str | None = None, suite: str | None = None, also: Sequence[str] = ()
) -> str:
    """`lorafuse run` on `suite`, or on one that the zoo has experts for; where there is none, what to tell it."""
    suite = suite or suite_of(task for entry in zoo.manifest.experts for task in entry.tasks)
    if suite is None:
        unknown = next((entry.name for entry in zoo.manifest.experts), "EXPERT")
        say = shlex.join(["lorafuse", "zoo", "index", str(zoo.root), "--task", f"{unknown}=TASK"])
        return f"No suite has these tasks. Say what each expert was trained on: {say}"
    chosen = ["--methods", methods] if methods else []
    return command("lorafuse", "run", "--zoo", zoo.root, *chosen, "--suites", suite, *also)


def compared(zoo: Zoo, method: str, suite: str, also: Sequence[str] = ()) -> str:
    """`evaluation` of one method, beside what a board needs of this zoo."""
    tasks = {task for entry in zoo.manifest.experts for task in entry.tasks}
    references = "base,oracle" if tasks >= set(suites.suite(suite).tasks) else "base"
    return evaluation(zoo, f"{references},{method}", suite, also)


def clustered(zoo: Zoo) -> str:
    """`lorafuse train experts` of a bank with an expert for each cluster, on all tasks that are clustered."""
    clusters = zoo.manifest.clusters
    names = {name for group in clusters.members for name in group} if clusters else set()
    tasks = [task for entry in zoo.manifest.experts if entry.name in names for task in entry.tasks]
    whole = (suite.name for suite in suites.suites() if set(suite.tasks) == set(tasks))
    suite = next(whole, "/".join(dict.fromkeys(tasks)))
    return command("lorafuse", "train", "experts", "--bank", "mbc", "--suite", suite, "--out", zoo.root)


def board(out: Path, results: Iterable[Path], limited: bool) -> str:
    """`lorafuse leaderboard build`, or what must be run before, since scores are compared with it."""
    for folder in sorted({path.parent for path in results}):
        needed = ["base"] if suites.of_oblivion(folder.parent.name) else ["base", "oracle"]
        missing = [label for label in needed if not (folder / f"{label}.json").is_file()]
        if missing:
            again = f"run the same with --methods {','.join(missing)}"
            return f"A board needs {' and '.join(missing)} in {folder} too: {again}"
    limit = ["--allow-limit"] if limited else []
    return command(
        *("lorafuse", "leaderboard", "build", out, "--out", "leaderboard.json", "--html", "site", *limit)
    )


def harness(model_args: str, zoo: str, tasks: Iterable[str]) -> str:
    """Stock `lm_eval` on what was exported, with the rows of the zoo's own source."""
    suite = suite_of(tasks) or "mtl7"
    names = suite if suite in suites.suite_names() else ",".join(suites.suite(suite).leaves)
    metadata = ["--metadata", json.dumps({"zoo": zoo})]
    return command("lm_eval", "--model", "hf", "--model_args", model_args, *metadata, "--tasks", names)


def suite_of(tasks: Iterable[str]) -> str | None:
    """The largest suite that these tasks cover, else the tasks that are known by name; None if there are none."""
    there = set(tasks)
    whole = [suite for suite in suites.suites() if suite.kind == "scored" and there >= set(suite.tasks)]
    if whole:
        return max(whole, key=lambda suite: len(suite.tasks)).name
    return "/".join(sorted(filter(_is_known, there))) or None


def _is_known(task: str) -> bool:
    try:
        return bool(suites.task(task))
    except LorafuseError:
        return False
