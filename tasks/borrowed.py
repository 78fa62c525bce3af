"""lm-eval's own tasks by reference: their prompts, shots, stops and filters, with our rows and metric names.

A leaf names a YAML file of lm-eval in `lm_eval`; nothing of that file is copied here, and every other key
of the leaf replaces the one there. `filter` picks one of its filters, the only one that stays; its answers
are reported under the name `none`, as those of every task of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from lm_eval.api.instance import Instance
from lm_eval.tasks._yaml_loader import load_yaml

from lorafuse_bench.tasks.docs import Doc
from lorafuse_bench.tasks.facts import FACTS
from lorafuse_bench.tasks.shots import WithShots

THEIRS = Path(str(files("lm_eval.tasks"))).resolve()
PART = "part"
"""Column of a joined task's documents that says which of its parts each belongs to."""


def borrow(config: Mapping[str, Any]) -> dict[str, Any]:
    """The lm-eval task that a leaf refers to, as the leaf changes it."""
    own = {key: value for key, value in config.items() if key not in ("class", "lm_eval", "filter")}
    theirs = load_yaml(THEIRS / config["lm_eval"], resolve_func=False)
    # A module of theirs is imported only where a function of it stays: some fetch data, or run code, on import.
    if str(THEIRS) in str({**theirs, **own}):
        theirs = load_yaml(THEIRS / config["lm_eval"])
    merged = {key: value for key, value in {**theirs, **own}.items() if key not in ("tag", "task_alias")}
    if not merged.get("num_fewshot"):  # lm-eval holds a task that says 0 to it, whatever the user asks for
        merged.pop("num_fewshot", None)
    merged["metadata"] = {**(theirs.get("metadata") or {}), **own["metadata"]}
    if "filter" in config:
        chosen = next(one for one in theirs["filter_list"] if one["name"] == config["filter"])
        merged["filter_list"] = [{**chosen, "name": "none"}]
    named = {"hub": merged["dataset_path"], "name": merged.get("dataset_name")}
    ours = (own.get("dataset_kwargs") or {}).get("dataset") or {}
    if "elsewhere" in ours:
        ours = {**ours, "elsewhere": ours["elsewhere"].format(**named)}
    merged["dataset_kwargs"] = {"dataset": {**named, **ours}}
    return merged


class Borrowed(WithShots):
    """One task of lm-eval's, which also reports its representative metric as `score`."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config=borrow(config))
        self.main = config["metadata"][FACTS]["metric"]
        for found in (self._aggregation_list, self._higher_is_better):
            found.setdefault("score", found[self.main])

    def process_results(self, doc: Doc, results: list[Any]) -> dict[str, Any]:
        """Metric name to the item's value."""
        found = super().process_results(doc, results)
        return {**found, "score": found[self.main]}


class Joined(Borrowed):
    """Several of lm-eval's tasks as one, their documents one after another: `lm_eval` is a glob pattern.

    Every document is asked and scored as its own part asks and scores it. The value is the mean over
    documents, as lm-eval weighs such a group.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        paths = sorted(THEIRS.glob(config["lm_eval"]))
        configs = [{**config, "lm_eval": str(path.relative_to(THEIRS))} for path in paths]
        parts = [Borrowed(each) for each in configs]
        self.parts = {part.config.dataset_name: part for part in parts}
        rows = JoinedRows(self.parts)
        super().__init__({**configs[0], "custom_dataset": lambda **_: rows})
        self.config.dataset_name = None

    def _part(self, doc: Mapping[str, Any]) -> Borrowed:
        return self.parts[doc[PART]]

    def doc_to_text(self, doc: Doc, doc_to_text: Any = None) -> Any:
        return self._part(doc).doc_to_text(doc, doc_to_text)

    def doc_to_target(self, doc: Mapping[str, Any], doc_to_target: Any = None) -> Any:
        return self._part(doc).doc_to_target(doc, doc_to_target)

    def doc_to_choice(self, doc: Any, doc_to_choice: Any = None) -> Any:
        return self._part(doc).doc_to_choice(doc, doc_to_choice)

    def set_fewshot_seed(self, seed: int | None = None) -> None:
        for part in self.parts.values():
            part.set_fewshot_seed(seed)

    def fewshot_context(self, doc: Doc, *args: Any, **kwargs: Any) -> Any:
        return self._part(doc).fewshot_context(doc, *args, **kwargs)

    def construct_requests(self, doc: Doc, ctx: Any, **kwargs: Any) -> Any:
        return self._part(doc).construct_requests(doc, ctx, **kwargs)

    def process_results(self, doc: Doc, results: list[Any]) -> dict[str, Any]:
        return self._part(doc).process_results(doc, results)

    def apply_filters(self) -> list[Instance] | None:
        """Each part's filter over the answers to its documents."""
        for name, part in self.parts.items():
            asked = [instance for instance in self._instances if instance.doc[PART] == name]
            for each in part._filters if asked else ():
                each.apply(asked)
        return None


class JoinedRows(Mapping[str, Dataset]):
    """The splits of a joined task: the rows of its parts in order, each with the name of its part."""

    def __init__(self, parts: Mapping[str, Borrowed]) -> None:
        self.parts = parts
        self._read: dict[str, Dataset] = {}

    def __getitem__(self, split: str) -> Dataset:
        if split not in self._read:
            rows = {name: part.dataset[split] for name, part in self.parts.items()}
            self._read[split] = concatenate_datasets(
                [each.add_column(PART, [name] * len(each)) for name, each in rows.items()]
            )
        return self._read[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)

    @property
    def provenance(self) -> dict[str, str]:
        """Split to what served it, `*` standing for a part's name; several sources are listed."""
        found: dict[str, dict[str, None]] = {}
        for name, part in self.parts.items():
            for split, source in part.dataset.provenance.items():
                found.setdefault(split, {})[source.replace(name, "*")] = None
        return {split: ", ".join(sources) for split, sources in found.items()}
