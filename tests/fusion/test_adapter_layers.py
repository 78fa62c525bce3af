"""Trained adapters at one linear map and in a whole model: the start, the formula, gradients, tasks, folding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from adapters import REFERENCES, SPECS, attached, method_of
from tiny import disturb, tiny_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion.adapters.mixture import balance_loss, load_loss
from lorafuse_bench.fusion.adapters.moore import MooreUpdate
from lorafuse_bench.fusion.adapters.trained import Place, TrainedUpdate
from lorafuse_bench.layers import BASE, Selection

IN, OUT, TASKS = 7, 9, 3
IDS = torch.randint(0, 257, (4, 6), generator=torch.Generator().manual_seed(1))


def linear(out: int = OUT, into: int = IN, seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(into, out).double()


def trained(spec: str, base: nn.Linear) -> tuple[TrainedUpdate, Selection]:
    """An update in fp64 whose parameters have left their start."""
    selection = Selection()
    update = method_of(spec).update(base, Place(0, TASKS, selection)).double()
    update.reset(torch.Generator().manual_seed(0))
    disturb([update])
    return update, selection


def inputs(rows: int = 4, tokens: int = 5, into: int = IN) -> Tensor:
    return torch.randn(rows, tokens, into, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
@pytest.mark.parametrize("spec", SPECS)
def test_an_untrained_adapter_is_the_base(spec: str, architecture: str) -> None:
    """Biases included: the tiny Qwen2 has some on q, k and v."""
    model = tiny_model(architecture, layers=2)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        updates, selection = attached(model, spec)
        assert spec == "full_finetune" or len(updates) == 2 * (5 if "mixlora" in spec else 7)
        for index in (None, torch.tensor([[0, 0], [2, 2], [1, 1], [BASE, BASE]])):
            selection.set(index)
            torch.testing.assert_close(model(input_ids=IDS).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 7), (6, 8)])
@pytest.mark.parametrize("spec", REFERENCES)
def test_the_output_is_the_formulas(spec: str, shape: tuple[int, int]) -> None:
    base = linear(*shape)
    update, selection = trained(spec, base)
    x = inputs(into=shape[1])
    assert base.bias is not None
    for folded in (False, True):
        if folded:
            update.requires_grad_(False).eval().fold()
        for tasks in ([0, 1, 2, BASE], [1, 1, 1, 1], [BASE] * 4):
            selection.set(torch.tensor(tasks)[:, None])
            tensors = {key: value.detach() for key, value in update.named_parameters()}
            for row, task in enumerate(tasks):
                expected = REFERENCES[spec](base.weight.data, x[row], tensors, None if task == BASE else task)
                got = update.output(base, x)[row].detach()
                bias = tensors.get("bias", base.bias.data)
                torch.testing.assert_close(got, expected + bias, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_are_those_of_finite_differences(spec: str) -> None:
    base = linear().requires_grad_(False)
    update, selection = trained(spec, base)
    selection.set(torch.tensor([[0], [2]]))
    names, parameters = zip(*update.named_parameters(), strict=True)

    def output(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(
            _Output(update, base), {f"update.{n}": v for n, v in zip(names, values, strict=True)}, (x,)
        )

    x = inputs(2, 2).requires_grad_()
    assert torch.autograd.gradcheck(output, (x, *parameters), atol=1e-6, rtol=1e-4)


def ffn() -> nn.Module:
    """A block of gate, up and down, as Llama's."""
    block = nn.Module()
    for i, (name, out, into) in enumerate((("gate_proj", 6, 5), ("up_proj", 6, 5), ("down_proj", 5, 6))):
        block.add_module(name, linear(out, into, seed=i))
    block.add_module("act_fn", nn.SiLU())
    return block.requires_grad_(False)


def test_gradients_of_a_mixture_of_ffns() -> None:
    base = ffn()
    update = method_of("mixlora:rank=2+experts=4").update(base, Place(0, 1, Selection())).double()
    update.reset(torch.Generator().manual_seed(0))
    disturb([update])
    names, parameters = zip(*update.named_parameters(), strict=True)

    def output(x: Tensor, *values: Tensor) -> Tensor:
        values_by_name = {f"update.{n}": v for n, v in zip(names, values, strict=True)}
        return torch.func.functional_call(_Output(update, base), values_by_name, (x,))

    x = inputs(1, 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(output, (x, *parameters), atol=1e-6, rtol=1e-4)


class _Output(nn.Module):
    def __init__(self, update: TrainedUpdate, base: nn.Module) -> None:
        super().__init__()
        self.update, self.base = update, base

    def forward(self, x: Tensor) -> Tensor:
        return self.update.output(self.base, x)


def test_every_parameter_is_trained() -> None:
    """From the start some gradients are 0 (Γ behind Q = 0), after a step none is."""
    for spec in SPECS:
        base = linear().requires_grad_(False)
        update, selection = trained(spec, base)
        selection.set(torch.tensor([[0], [1], [2], [0]]))
        update.output(base, inputs()).pow(2).sum().backward()
        for name, parameter in update.named_parameters():
            assert parameter.grad is not None and parameter.grad.norm() > 0, f"{spec} {name}"


# --- mixtures ------------------------------------------------------------------------------------


def test_auxiliary_losses_by_hand() -> None:
    """Two tokens count, the third is padding."""
    p = torch.tensor([[[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]])
    mask = torch.tensor([[True, True, False]])
    # Importance .8, .6, .6: mean 2/3, variance ((2/15)² + 2 (1/15)²) / 3.
    assert balance_loss(p, mask).item() == pytest.approx((6 / 225 / 3) / (4 / 9), rel=1e-5)
    # Both have expert 2 among their two largest, one each expert 1 and 3; mean p .4, .3, .3.
    assert load_loss(p, mask, 2).item() == pytest.approx(3 * (0.5 * 0.4 + 1 * 0.3 + 0.5 * 0.3))
    even = torch.full((1, 3, 4), 0.25)
    assert balance_loss(even, mask).item() == 0


@pytest.mark.parametrize("spec", ["loramoe:rank=2+experts=4", "mosld:rank=2+experts=4"])
def test_an_auxiliary_loss_reaches_the_router_and_not_padding(spec: str) -> None:
    base = linear().requires_grad_(False)
    update, _ = trained(spec, base)
    x, mask = inputs(2, 3), torch.tensor([[True, True, True], [True, False, False]])
    update.train()
    update.output(base, x)
    loss = update.auxiliary(mask)
    assert loss is not None
    loss.backward()
    assert update.S.grad is not None and update.S.grad.norm() > 0
    x[1, 1:] = 7.0
    update.output(base, x)
    torch.testing.assert_close(update.auxiliary(mask), loss)


def test_outputs_of_omoe_are_orthonormal_experts() -> None:
    """With one expert's weight at 1, the update is its unit vector; two such are at right angles."""
    base = linear()
    update, _ = trained("omoe:rank=2+experts=3", base)
    x, y = inputs(1, 1), []
    for m in range(3):
        weight = torch.zeros(1, 1, 3, dtype=torch.float64)
        weight[..., m] = 1
        update.gates = lambda _, weight=weight: weight  # type: ignore[method-assign]
        y.append((update.output(base, x) - base(x))[0, 0] / 2.0)
    Q = torch.stack(y)
    torch.testing.assert_close(Q @ Q.T, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-3)


def test_no_expert_is_looped_over_and_no_output_per_expert_is_built() -> None:
    """The number of operations does not grow with M, nor does any result of size tokens x M x out appear."""
    tokens, out = 50, 64
    for name in ("loramoe", "hydralora", "mosld", "mtl_lora", "omoe"):
        counts = []
        for experts in (3, 12):
            base = nn.Linear(16, out)
            update = method_of(f"{name}:rank=2+experts={experts}").update(base, Place(0, 2, Selection()))
            update.reset(torch.Generator().manual_seed(0))
            with Watched() as watched, torch.no_grad():
                update.output(base, torch.randn(1, tokens, 16))
            counts.append(watched.calls)
            assert watched.largest < tokens * experts * out, name
        assert counts[0] == counts[1], name


def test_no_ffn_is_looped_over() -> None:
    """Of twelve experts of an FFN as of three, two inner states a token are built, by as many operations."""
    tokens, inner, counts = 50, 6, []
    for experts in (3, 12):
        base = ffn()
        update = (
            method_of(f"mixlora:rank=1+experts={experts}").update(base, Place(0, 1, Selection())).double()
        )
        update.reset(torch.Generator().manual_seed(0))
        with Watched() as watched, torch.no_grad():
            update.output(base, inputs(1, tokens, 5))
        counts.append(watched.calls)
        assert watched.largest <= tokens * 2 * max(inner, experts)
    assert counts[0] == counts[1]


class Watched(TorchDispatchMode):
    """Counts operations and the numbers in the largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mixlora:k=9", "k between 1 and the number of experts"),
        ("mtl_lora:temperature=0", "temperature must be positive"),
        ("omoe:epsilon=0", "epsilon must be positive"),
        ("full_finetune:targets=q_proj", "every parameter is trained"),
    ],
)
def test_impossible_options_are_refused(spec: str, message: str) -> None:
    with pytest.raises(LorafuseError, match=message):
        method_of(spec)


# --- MoORE --------------------------------------------------------------------------------------


def moore(base: nn.Linear, spec: str = "moore:d_t=5+d_s=3+reflections=4") -> tuple[MooreUpdate, Selection]:
    update, selection = trained(spec, base)
    assert isinstance(update, MooreUpdate)
    return update, selection


def reflection(update: MooreUpdate, into: int) -> Tensor:
    """H, column by column."""
    return update.turned(torch.eye(into, dtype=update.R.dtype)).T.detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_h_is_orthogonal_and_a_product_of_reflections(dtype: torch.dtype) -> None:
    update, _ = moore(linear(12, 10), "moore:d_t=0+d_s=0+reflections=6")
    update = update.to(dtype)
    H = reflection(update, 10)
    torch.testing.assert_close(H @ H.T, torch.eye(10, dtype=dtype), rtol=0, atol=1e-6)
    with_factor = without = torch.eye(10, dtype=dtype)
    for r in update.R.detach():
        rank_one = torch.outer(r, r) / (r @ r)
        with_factor = with_factor @ (torch.eye(10, dtype=dtype) - 2 * rank_one)
        without = without @ (torch.eye(10, dtype=dtype) - rank_one)
    torch.testing.assert_close(H, with_factor, rtol=0, atol=1e-6)
    assert (without @ without.T - torch.eye(10, dtype=dtype)).abs().max() > 0.1  # eq 5 as printed


def test_h_turns_slowly_under_adam() -> None:
    """A first step of 3e-4 turns a reflection by .06° at in = 4096: vectors in ±1/sqrt(in) would by 1.9°."""
    base = nn.Linear(4096, 8, bias=False).requires_grad_(False)
    update = method_of("moore:d_t=0+d_s=0+reflections=8").update(base, Place(0, 1, Selection()))
    update.reset(torch.Generator().manual_seed(0))
    before = update.get_parameter("R").detach().clone()
    x = torch.randn(2, 3, 4096, generator=torch.Generator().manual_seed(2))
    update.output(base, x).square().sum().backward()
    torch.optim.AdamW(update.parameters(), lr=3e-4, weight_decay=0.0).step()
    cosine = torch.cosine_similarity(before.double(), update.get_parameter("R").detach().double())
    torch.testing.assert_close(cosine.acos().rad2deg().mean().item(), 0.0595, rtol=0.05, atol=0)


def test_experts_are_orthogonal_and_keep_the_column_space() -> None:
    base = linear(9, 6)
    update, selection = moore(base)
    selection.set(torch.tensor([[1]]))
    experts = torch.einsum("od,di,ij->doj", update.U, update.Vh, reflection(update, 6)).flatten(1)
    torch.testing.assert_close(experts @ experts.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-10)
    y = update.output(base, inputs(1, 50, 6))[0].detach() - base.bias.detach()
    q, _ = torch.linalg.qr(base.weight.detach())  # (9, 6): W's column space is a part of the outputs
    torch.testing.assert_close(y @ q @ q.T, y, rtol=0, atol=1e-10)
    assert torch.linalg.matrix_rank(y) == 6
    other = torch.randn(9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert (other - q @ q.T @ other).norm() > 0.1  # the test can fail


def test_folding_changes_nothing_and_needs_p_and_r_no_more() -> None:
    base = linear()
    update, selection = moore(base)
    selection.set(torch.tensor([[0], [2], [BASE], [1]]))
    x = inputs()
    before = update.output(base, x).detach()
    update.requires_grad_(False).fold()
    with torch.no_grad():
        for parameter in (update.P, update.T, update.R):
            parameter.zero_()
        torch.testing.assert_close(update.output(base, x), before, rtol=1e-10, atol=1e-10)


def test_a_task_never_seen_gets_the_mean_of_the_embeddings() -> None:
    base = linear()
    update, selection = moore(base)
    selection.set(torch.tensor([[BASE]]))
    x = inputs(1)
    unseen = update.output(base, x)
    with torch.no_grad():
        update.T[:] = update.T.mean(0)
    selection.set(torch.tensor([[1]]))
    torch.testing.assert_close(unseen, update.output(base, x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_saved_decomposition_takes_the_place_of_the_svd(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = linear().to(dtype)
    method = method_of("moore:d_t=5+d_s=3+reflections=4")
    first = method.update(base, Place(0, TASKS, Selection()))
    saved = {name: tensor.clone() for name, tensor in first.derived().items()}
    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "svd", None)
        again = method.update(base, Place(0, TASKS, Selection(), saved))
    for update in (first, again):
        update.reset(torch.Generator().manual_seed(0))
        disturb([update])
        update.requires_grad_(False).fold()
        update.to(dtype)
    x = inputs().to(dtype)
    assert torch.equal(first.output(base, x), again.output(base, x))
    assert not torch.equal(again.Vh, saved["Vh"])  # folding left what was saved alone


def test_beams_repeat_their_rows_task() -> None:
    base = linear()
    update, selection = moore(base)
    x = inputs(2)
    selection.set(torch.tensor([[0], [2]]))
    expected = update.output(base, x)
    torch.testing.assert_close(
        update.output(base, x.repeat_interleave(3, 0)), expected.repeat_interleave(3, 0)
    )


def test_weights_stay_wide_in_bf16() -> None:
    """A small g beside a large σ must not be rounded away."""
    base = nn.Linear(IN, OUT).bfloat16()
    update = method_of("moore:d_t=4+d_s=0+reflections=0").update(base, Place(0, 1, Selection()))
    assert isinstance(update, MooreUpdate)
    update.reset(torch.Generator().manual_seed(0))
    with torch.no_grad():
        update.P += 1e-4
    g = update.gates(torch.ones(1, 1, IN))
    update.requires_grad_(False).fold()
    update = update.to(torch.bfloat16)
    torch.testing.assert_close(update.gates(torch.ones(1, 1, IN).bfloat16()), g.detach())
    assert update.sigma.dtype == torch.float32


@pytest.mark.parametrize("spec", ["moore:reflections=3", "moore:d_t=0+d_s=0+reflections=0", "moore:d_s=-1"])
def test_impossible_sizes_are_refused(spec: str) -> None:
    with pytest.raises(LorafuseError, match="method 'moore': d_t, d_s and reflections must be"):
        method_of(spec)
