"""The mini zoo's routers: one reading the last prompt token, one the prompt's mean, one trained jointly."""

from __future__ import annotations

from collections.abc import Callable

from lorafuse_bench.progress import watching
from lorafuse_bench.training.joint import JointSettings, train_joint
from lorafuse_bench.training.router_training import RouterSettings, train_router
from lorafuse_bench.training.settings import ExpertSettings
from lorafuse_bench.zoo.manifest import Zoo

JOINT_STEPS = 400
"""Of each task; as many as the experts take would make a build longer by two thirds."""


def train_mini_routers(zoo: Zoo, experts: ExpertSettings, seed: int, report: Callable[[str], None]) -> Zoo:
    """Train the routers that the zoo does not have yet.

    The paper's choice, the last token, comes first and is what `method=moa` uses. Joint training sees as
    many batches of each task as that task's own expert did, but at most JOINT_STEPS.
    """
    steps = min(experts.steps, JOINT_STEPS) * len(zoo.manifest.experts)
    joint = JointSettings(
        seed=seed,
        steps=steps,
        learning_rate=experts.learning_rate,
        batch_size=experts.batch_size,
        rows_per_task=experts.rows,
        cutoff=experts.cutoff,
    )
    stages: dict[str, Callable[[Zoo], Zoo]] = {
        "moa-last": lambda zoo: train_router(zoo, RouterSettings(pool="last", seed=seed)),
        "moa-mean": lambda zoo: train_router(zoo, RouterSettings(pool="mean", seed=seed)),
        "moa-joint": lambda zoo: train_joint(zoo, joint, "moa-joint", report=report),
    }
    watcher = watching(report)
    for name, train in stages.items():
        if name in {router.name for router in zoo.manifest.artefacts}:
            report(f"router {name}: already trained, kept")
            continue
        watcher.expect(1)
        with watcher.step(f"router {name}"):
            zoo = train(zoo)
    return zoo
