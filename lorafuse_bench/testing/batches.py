"""What must not depend on how rows are put together: padding, batch size, companions, caches, later tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorafuse_bench.fusion.base import Ensembling
from lorafuse_bench.model_wrappers.generation import Asked, Writer
from lorafuse_bench.model_wrappers.stopping import Ending
from lorafuse_bench.scoring import Scored, Scorer, batches, shares_prefixes
from lorafuse_bench.testing.check import HOLDS, check
from lorafuse_bench.testing.subject import (
    DoesNotApplyError,
    Subject,
    ToyModel,
    batch,
    distribution_under,
    gap,
    prompts,
    select,
)
from lorafuse_bench.testing.toys import EOS, TASKS, toy_prompts

CONTINUATIONS = ((65, 66), (67, 68, 69))
STEPS = 4


@dataclass(frozen=True)
class Prompt:
    """A prompt of a task."""

    ids: tuple[int, ...]
    task: str


def toys() -> list[Prompt]:
    """The toy prompts, of tasks in turn."""
    return [Prompt(ids, TASKS[i % len(TASKS)]) for i, ids in enumerate(toy_prompts())]


def choices(model: ToyModel, rows: Sequence[Prompt], size: int) -> list[Tensor] | None:
    """Each prompt's experts per block, chosen in batches of `size`."""
    found: list[Tensor] = []
    for some in batches(list(rows), size):
        index = model.select(batch([row.ids for row in some], [row.task for row in some]))
        if index is None:
            return None
        found += index
    return found


def scores(model: ToyModel, rows: Sequence[Prompt], size: int, share: bool = False) -> Tensor:
    """Log-probabilities `(rows, 2)` of both continuations of each prompt, in batches of `size` rows."""
    requests = [Scored(row.ids, continuation, row.task) for row in rows for continuation in CONTINUATIONS]
    chosen = choices(model, rows, size)
    repeated = None if chosen is None else [choice for choice in chosen for _ in CONTINUATIONS]
    found = Scorer(model, size, share).score(requests, repeated)
    return torch.tensor([score for score, _ in found]).view(len(rows), -1)


def texts(model: ToyModel, rows: Sequence[Prompt], size: int) -> list[str]:
    """What is written after each prompt in batches of `size`, as token ids."""
    ending = Ending(lambda tokens: " ".join(map(str, tokens)), (), frozenset({EOS}))
    asked = [Asked(row.ids, row.task, STEPS, ending, {"do_sample": False}) for row in rows]
    return Writer(model, EOS, size).write(asked, choices(model, rows, size))


@check
def scores_hang_on_no_companion(subject: Subject) -> None:
    """A prompt's scores are the same alone, in any batch, after any padding, in any order."""
    rows = toys()
    with subject.fused() as model:
        alone = scores(model, rows, 1)
        together = scores(model, rows, len(rows) * 2)
        reordered = scores(model, rows[::-1], 3).flip(0)
    assert gap(together, alone) < HOLDS, (
        f"scores alone and together differ by {gap(together, alone):.2g} nats"
    )
    assert gap(reordered, alone) < HOLDS, (
        f"scores in another order differ by {gap(reordered, alone):.2g} nats"
    )


@check
def scores_share_prompts(subject: Subject) -> None:
    """Continuations of one prompt that is read once score as if each had read it."""
    rows = toys()
    with subject.fused() as model:
        if not shares_prefixes(model.model):
            raise DoesNotApplyError("prompts cannot be shared on this base")
        distance = gap(scores(model, rows, 4, share=True), scores(model, rows, 4))
    assert distance < HOLDS, f"scores after a shared prompt differ by {distance:.2g} nats"


@check
def texts_hang_on_no_companion(subject: Subject) -> None:
    """What is written after a prompt is the same alone, in any batch, after any padding, in any order."""
    rows = toys()
    with subject.fused() as model:
        alone = texts(model, rows, 1)
        assert texts(model, rows, len(rows)) == alone, "texts alone and together differ"
        assert texts(model, rows[::-1], 2)[::-1] == alone, "texts in another order differ"


@check
def texts_are_those_of_whole_passes(subject: Subject) -> None:
    """Writing from kept keys and values gives the same tokens as reading the whole text again for each."""
    rows = toys()[:3]
    with subject.fused() as model:
        written = texts(model, rows, len(rows))
        for row, text in zip(rows, written, strict=True):
            ids = list(row.ids)
            choice = select(model, torch.tensor([ids]), [row.task])
            for _ in range(STEPS):
                token = int(distribution_under(model, torch.tensor([ids]), choice)[0, -1].argmax())
                if token == EOS:
                    break
                ids.append(token)
            whole = " ".join(map(str, ids[len(row.ids) :]))
            assert text == whole, f"after {len(row.ids)} tokens it writes {text}, whole passes {whole}"


@check
def later_tokens_change_nothing_earlier(subject: Subject) -> None:
    """What follows a token depends on it and those before it alone."""
    ids, tasks = prompts()
    with subject.fused() as model:
        choice = select(model, ids[:, :3], tasks)
        whole = distribution_under(model, ids, choice)[:, :5]
        part = distribution_under(model, ids[:, :5], choice)
    assert gap(whole, part) < HOLDS, f"tokens that come later change it by {gap(whole, part):.2g} nats"


@check
def padding_is_not_routed(subject: Subject) -> None:
    """The experts chosen for a prompt depend on neither padding nor the prompts beside it."""
    rows = toys()
    with subject.fused() as model:
        alone = choices(model, rows, 1)
        if alone is None or isinstance(subject.method, Ensembling):
            raise DoesNotApplyError("it chooses no experts for a row")
        for padding in (0, 98):
            together = model.select(batch([row.ids for row in rows], [row.task for row in rows], padding))
            assert together is not None
            assert torch.equal(together, torch.stack(alone)), (
                "padding or other prompts change the experts chosen"
            )
