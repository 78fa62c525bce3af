"""What conflict and oblivion are read from: adapters trained on the first K tasks of a suite, and their results.

out/zoos/<seed>/<suite>-<K>/   one zoo per training seed and number of tasks
out/results/                   their cells, as `lorafuse run` writes them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorafuse_bench.analysis.difficulty import easiest_first
from lorafuse_bench.device import AUTO, Compute
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.adapters.trained import TrainedAdapter
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.progress import Watcher
from lorafuse_bench.runner import Plan, run
from lorafuse_bench.tasks import consent
from lorafuse_bench.tasks.suites import suite as suite_of
from lorafuse_bench.training.adapter_training import train_adapter
from lorafuse_bench.training.settings import AdapterSettings
from lorafuse_bench.zoo.manifest import local_model

RESULTS = "results"


@dataclass(frozen=True)
class Study:
    """Every method on the first K tasks of a suite, for every K and seed, all with the same settings.

    `oblivion`: a suite to evaluate besides. `order`: the tasks, easiest first; by default from the results on
    the whole suite (see `easiest_first`).
    """

    out: Path
    suite: str
    base: str
    source: str
    methods: Sequence[TrainedAdapter]
    seeds: Sequence[int]
    counts: Sequence[int]
    settings: AdapterSettings
    oblivion: str | None = None
    order: Sequence[str] | None = None
    batch_size: int = 32
    device: str = AUTO
    dtype: str = AUTO
    """Where and in which type adapters are trained and evaluated: see `lorafuse_bench.device`."""
    run_code: bool = False
    """Consent to run the code that models write, where the suite of oblivion has such tasks."""

    def __post_init__(self) -> None:
        keys = tuple(suite_of(self.suite).tasks)
        if not all(1 <= count <= len(keys) for count in self.counts):
            raise LorafuseError(
                f"suite '{self.suite}' has {len(keys)} tasks. Ask for 1 to {len(keys)} of them."
            )
        if self.order is not None and sorted(self.order) != sorted(keys):
            raise LorafuseError(f"the order must name each task of '{self.suite}' once: {', '.join(keys)}.")


def complete(study: Study, report: Callable[[str], None]) -> Path:
    """Train and evaluate what is missing, and return the folder of the results.

    The whole suite comes first: its scores tell which tasks are easy. What is finished is kept.
    """
    consent.ask(suite_of(study.oblivion).leaves if study.oblivion else (), study.run_code)
    keys = tuple(suite_of(study.suite).tasks)
    if len(keys) in study.counts or study.order is None:
        for seed in study.seeds:
            _stage(study, seed, keys, report)
    smaller = sorted(count for count in study.counts if count < len(keys))
    if smaller:
        order = study.order or easiest_first(build([study.out / RESULTS]).boards, study.suite)
        report(f"easiest first: {', '.join(order)}")
        for count in smaller:
            for seed in study.seeds:
                _stage(study, seed, tuple(order)[:count], report)
    return study.out / RESULTS


def _stage(study: Study, seed: int, keys: Sequence[str], report: Callable[[str], None]) -> None:
    """All methods on these tasks with this seed: trained into one zoo, then evaluated on the same tasks."""
    whole = tuple(keys) == tuple(suite_of(study.suite).tasks)
    suite = study.suite if whole else "/".join(keys)
    zoo = study.out / "zoos" / str(seed) / f"{study.suite.replace('/', '+')}-{len(keys)}"
    settings = replace(study.settings, seed=seed)
    for method in study.methods:
        train_adapter(
            method, suite, keys, study.base, zoo, study.source, settings, report, study.device, study.dtype
        )
    compute = Compute.of(study.device, study.dtype, local_model(Path(study.base), study.base))
    plan = Plan(
        methods=[registry.create("base"), *study.methods],
        suites=[suite, *([study.oblivion] if study.oblivion else [])],
        out=study.out / RESULTS,
        zoo=zoo,  # whose manifest says where the rows come from, under the name that others know
        batch_size=study.batch_size,
        device=str(compute.device),
        dtype=str(compute.dtype).removeprefix("torch."),
        run_code=study.run_code,
    )
    run(plan, Watcher(report))


def adapter_methods(specs: str) -> list[TrainedAdapter]:
    """The adapter methods of specs separated by commas, or `all`; LorafuseError for any other."""
    known = {name: cls for name, cls in registry.methods().items() if issubclass(cls, TrainedAdapter)}
    chosen = [registry.parse(spec.strip()) for spec in (known if specs == "all" else specs.split(","))]
    adapters = [method for method in chosen if isinstance(method, TrainedAdapter)]
    for method in chosen:
        if not isinstance(method, TrainedAdapter):
            raise LorafuseError(
                f"method '{method.name}' is not a trained adapter. These are: {', '.join(known)}."
            )
    return adapters
