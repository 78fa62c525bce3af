"""Examples in the prompt: training rows, drawn by seed and document, never those that are scored."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks.rows import load_task

# Generation, rows of its own selection, a loss, and a label by its two leaves.
LEAVES = [
    "lorafuse_wmt14_en_de",
    "lorafuse_paws",
    "lorafuse_dialogue",
    "lorafuse_mnli",
    "lorafuse_mnli_options",
]


class Silent(LM):
    """Says nothing and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Instance] = []

    def generate_until(self, requests: list[Instance]) -> list[str]:
        self.asked += requests
        return [""] * len(requests)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        self.asked += requests
        return [(-1.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise AssertionError("no task asks for this")


def asked(tasks: list[str], **settings: Any) -> tuple[dict[tuple[str, int], str], dict[str, Any]]:
    """(leaf, document) to prompt, and lm-eval's results."""
    manager = TaskManager(
        include_defaults=False,
        include_path=str(files("lorafuse_bench.tasks")),
        metadata={"data": settings.pop("data", "mini")},
    )
    model = Silent()
    loaded = list(manager.load(tasks)["tasks"].values())
    found = simple_evaluate(model, tasks=loaded, bootstrap_iters=0, **{"limit": 2, **settings})
    assert found is not None
    return {(r.task_name, r.doc_id): r.args[0] for r in model.asked}, found


@pytest.fixture(scope="module")
def two() -> tuple[dict[tuple[str, int], str], dict[str, Any]]:
    return asked(LEAVES, num_fewshot=2)


@pytest.mark.parametrize("leaf", LEAVES)
def test_two_training_rows_stand_before_every_prompt(leaf: str, two: Any) -> None:
    prompts, found = two
    task = load_task(leaf, "mini")
    task.set_fewshot_seed(1234)  # lm-eval's own
    training = task.dataset["train"]
    if task.config.process_docs is not None:
        training = task.config.process_docs(training)
    rows = training.to_list()
    assert found["n-shot"][leaf] == 2
    for i, doc in enumerate(task.eval_docs.select(range(2))):
        shots = task.examples(doc, 2)
        assert all(shot in rows for shot in shots)
        assert shots[0] != shots[1]
        said = [f"{task.doc_to_text(x)}{task.config.target_delimiter}{task.doc_to_target(x)}" for x in shots]
        assert prompts[leaf, i] == "\n\n".join([*said, task.doc_to_text(doc)])


def test_both_leaves_of_a_task_show_the_same(two: Any) -> None:
    prompts, _ = two
    for i in range(2):
        assert prompts["lorafuse_mnli", i] == prompts["lorafuse_mnli_options", i]


def test_examples_are_drawn_by_the_seed_and_the_document_alone(two: Any) -> None:
    prompts, _ = two
    mnli = {place: text for place, text in prompts.items() if place[0] == "lorafuse_mnli"}
    again, _ = asked(["lorafuse_mnli"], num_fewshot=2, limit=None, samples={"lorafuse_mnli": [1, 0]})
    assert again == mnli
    other, _ = asked(["lorafuse_mnli"], num_fewshot=2, fewshot_random_seed=7)
    assert all(other[place] != mnli[place] for place in mnli)
    assert len({text.split("\n\n")[0] for text in mnli.values()}) == 2


def test_a_row_that_is_scored_too_is_not_shown() -> None:
    """Training rows that read as the document are left out, whatever else the row holds."""
    task = load_task("lorafuse_sst2", "mini")
    rows = task.dataset["train"].select(range(3))
    doc = {**rows[1], "idx": 10**6}
    task._pool = rows
    assert {d["sentence"] for d in task.examples(doc, 2)} == {rows[0]["sentence"], rows[2]["sentence"]}
    with pytest.raises(
        LorafuseError, match="'lorafuse_sst2' has 2 examples to show, fewer than num_fewshot=3"
    ):
        task.examples(doc, 3)


@pytest.mark.parametrize("key", ["ifeval", "gpqa", "humaneval", "text_story"])
def test_a_task_without_training_rows_refuses(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    task = load_task(f"lorafuse_{key}", "mini")
    assert not task.config.num_fewshot
    task.set_config(key="num_fewshot", value=2)
    with pytest.raises(LorafuseError, match=f"'lorafuse_{key}' has no training split") as error:
        task.build_all_requests(limit=1)
    assert "\n" not in str(error.value)


def test_parts_of_a_joined_task_refuse_too() -> None:
    with pytest.raises(LorafuseError, match="no training split"):
        asked(["lorafuse_bbh"], num_fewshot=1)


@pytest.mark.parametrize(
    ("key", "start"), [("gsm8k_cot", "Q:"), ("mmlu", "The following"), ("mbpp", "You are")]
)
def test_lm_evals_own_examples_come_first_in_their_order(key: str, start: str) -> None:
    """Fewer than the task's own number are the first of them."""
    task, own = load_task(f"lorafuse_{key}", "mini"), {}
    task.set_fewshot_seed(1)
    doc = task.eval_docs[0]
    for shots in (1, 3):
        own[shots] = str(task.fewshot_context(doc, shots))
        assert own[shots].startswith(start)
    end = str(task.doc_to_text(doc))
    assert own[3].startswith(own[1].removesuffix(end))
    with pytest.raises(LorafuseError, match="fewer than num_fewshot=99"):
        task.fewshot_context(doc, 99)


def test_lm_evals_request_cache_is_refused() -> None:
    with pytest.raises(LorafuseError, match="--cache_requests keys prompts by the task's name alone"):
        asked(["lorafuse_sst2"], cache_requests=True)
    with pytest.raises(LorafuseError, match="--cache_requests"):
        load_task("lorafuse_mmlu", "mini").build_all_requests(limit=1, cache_requests=True)
