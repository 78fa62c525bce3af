"""What `import lorafuse_bench` offers: a zoo, a model fused from it, an evaluation and its board."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorafuse_bench.device import AUTO
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.tables import Table
from lorafuse_bench.zoo.manifest import EMBEDDED, Zoo

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lorafuse_bench.fusion.base import FusionMethod
    from lorafuse_bench.leaderboards.boards.board import Leaderboard

__all__ = ["Fused", "LorafuseError", "Zoo", "board", "evaluate", "fuse", "methods"]


def methods() -> Table:
    """Every fusion method: its family, what it needs by default, what it is and costs, and where it comes from.

    `methods().records` holds the same as a list of dictionaries.
    """
    records: list[dict[str, Any]] = []
    rows = []
    for name, cls in registry.methods().items():
        needs = sorted(cls().needed)
        about = {"about": cls.summary(), "cost": cls.cost(), "paper": cls.paper}
        records.append({"method": name, "family": cls.family, "needs": needs, **about})
        told = "{about}\nCost: {cost}.\n{paper}".format(**about)
        rows.append((name, cls.family, ", ".join(needs) or "-", told))
    headings = ("method", "family", "needs", "what it is, costs, and comes from")
    return Table(headings, rows, words=range(4), records=records)


def fuse(
    zoo: Zoo | str | Path = EMBEDDED,
    method: str = "concat",
    experts: str | Sequence[str] | None = None,
    device: str = AUTO,
    dtype: str = AUTO,
    **model_options: Any,
) -> Fused:
    """The base of `zoo` with its experts (or those named) fused by `method`, a name or `name:option=value+...`.

    `model_options` go to transformers' from_pretrained. LorafuseError for an unknown method, expert or option.
    """
    named = None if experts is None else _names(experts)
    return Fused(_opened(zoo), method, named, device=device, dtype=dtype, **model_options)


class Fused:
    """A base with its experts fused.

    `model` is the transformers model: of a merge, call it as any other. Methods that choose an expert for each
    prompt do so in `generate`, and only there.
    """

    def __init__(self, zoo: Zoo, method: str, experts: Sequence[str] | None, **model_options: Any) -> None:
        from lorafuse_bench.model_wrappers.hf import LorafuseLM

        self.zoo = zoo
        self._lm = LorafuseLM("base", zoo=zoo.root, experts=experts, **model_options)
        self.use(method)

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model."""
        return self._lm.fused.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer."""
        return self._lm.tokenizer

    @property
    def method(self) -> FusionMethod:
        """The method in use."""
        method = self._lm.fused.method
        assert method is not None
        return method

    def use(self, method: str) -> Fused:
        """Switch to another method in place; the base stays loaded."""
        self._lm.use(registry.parse(method))
        return self

    def generate(
        self,
        prompts: str | Sequence[str],
        max_new_tokens: int = 64,
        task: str = "",
        until: Sequence[str] = (),
        **settings: Any,
    ) -> list[str]:
        """What the model writes after each prompt, greedily unless `settings` of transformers say otherwise.

        `task` is the key of the task that the prompts are of, such as `sst2`, which methods that know it need.
        """
        from lm_eval.api.instance import Instance

        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        given = {"max_gen_toks": max_new_tokens, "until": list(until), **settings}
        requests = [
            Instance("generate_until", {}, (text, dict(given)), i, metadata=(task, i, 1))
            for i, text in enumerate(texts)
        ]
        return self._lm.generate_until(requests, disable_tqdm=True)

    def __repr__(self) -> str:
        experts = ", ".join(self._lm.fused.pool.names)
        return f"{self.zoo.base_name} with {experts or 'no expert'}, fused by {self.method.label()}"


def evaluate(
    methods: str | Iterable[str] | None = None,
    suites: str | Iterable[str] = "mtl7",
    zoo: Zoo | str | Path = EMBEDDED,
    out: str | Path = "results",
    **options: Any,
) -> Path:
    """Evaluate methods (None: all that the zoo can do) on suites, and return `out`, the folder of the results.

    Finished cells in `out` are kept, as by `lorafuse run`; `options` are those of that command, such as `limit=8`.
    LorafuseError for bad input, before anything runs.
    """
    import dataclasses

    from lorafuse_bench import runner
    from lorafuse_bench.errors import unknown
    from lorafuse_bench.progress import Display
    from lorafuse_bench.tasks import suites as definitions

    definitions.forget()  # a notebook lives longer than a version of its files
    known = {field.name for field in dataclasses.fields(runner.Plan)}
    for name in options:
        if name not in known:
            raise unknown("option", name, known, "of evaluate")
    experts = options.pop("experts", None)
    plan = runner.Plan(
        methods=None if methods is None else registry.parse_all(",".join(_names(methods))),
        suites=_names(suites),
        out=Path(out),
        zoo=_opened(zoo).root,
        experts=None if experts is None else _names(experts),
        **options,
    )
    with Display() as display:
        runner.run(plan, display)
    return plan.out


def board(*results: str | Path, allow_limit: bool = False, note: str = "") -> Leaderboard:
    """The leaderboard of result folders; a notebook shows its tables, and `print` does.

    `allow_limit` takes results of limited runs, and the board then says so; `note` opens its caption.
    """
    from lorafuse_bench.leaderboards.boards.builder import build

    return build(results, allow_limit=allow_limit, note=note)


def _opened(zoo: Zoo | str | Path) -> Zoo:
    return zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)


def _names(given: str | Iterable[str]) -> list[str]:
    return [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
