"""What a mini zoo's base and experts score by the metrics of boards, and what they should."""

from __future__ import annotations

from pathlib import Path

from lorafuse_bench import runner
from lorafuse_bench.fusion import registry
from lorafuse_bench.leaderboards.results import cell_files

NEAR_ZERO = {"bleu": 0.15}
"""A base that has only read scores this at most. After an empty line it repeats words of its prompt, and BLEU counts
those that a paraphrase shares with it: .10 of `paws` on 200 rows, since what follows an empty line is read."""
OTHERWISE_NEAR_ZERO = 0.1
KNOWN = {"bleu": 0.8}
OTHERWISE_KNOWN = 0.9


def shortcomings(zoo: Path, out: Path, limit: int) -> list[str]:
    """Tasks of mtl7 that the zoo's base can do without an expert, or that their own expert cannot do."""
    methods = [registry.parse(label) for label in ("base", "oracle")]
    plan = runner.Plan(
        methods=methods, suites=["mtl7"], out=out, zoo=zoo, limit=limit, batch_size=50, device="cpu"
    )
    base, oracle = (cell_files.read_result(path).tasks for path in runner.run(plan))
    found = []
    for key, task in base.items():
        metric = task.representative
        alone, own = (tasks[key].metrics[metric].value for tasks in (base, oracle))
        if alone > NEAR_ZERO.get(metric, OTHERWISE_NEAR_ZERO):
            found.append(f"{key}: the base alone scores {metric} {alone:.3f}")
        if own < KNOWN.get(metric, OTHERWISE_KNOWN):
            found.append(f"{key}: its own expert scores {metric} {own:.3f}")
    return found
