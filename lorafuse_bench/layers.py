"""The fused layers: a module of the base with a method's update, the only hot path.

Four kinds of update cover every fusion of experts: one static low-rank update (merges), one full-rank
one (merges that are not low-rank), one expert per row (oracle, MoA), and gates over experts per token
(Arrow, SpectR); trained adapters bring kinds of their own (fusion/adapters). None builds a
`(tokens, experts, out)` tensor, copies B per token or loops over experts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from accelerate.utils import has_offloaded_params
from torch import Tensor, nn

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ModuleStack
from lorafuse_bench.placement import weights_of

BASE = -1
"""Index that stands for "no expert" in a selection."""


class Selection:
    """Which expert each row uses in each block: `index (rows, blocks)`, `BASE` for none.

    One object is shared by all row-wise updates of a model and set before each forward pass. Under a
    trained adapter the index is that of the row's task among those it was trained on.
    """

    def __init__(self) -> None:
        self.index: Tensor | None = None
        self._uniform: list[int | None] = []
        self._bare: list[bool] = []

    def set(self, index: Tensor | None) -> None:
        """Select `index (rows, blocks)` for the next passes; None runs the base."""
        self.index = index
        # Rows that agree need no gather; decided once per batch, not once per layer and token.
        columns = [] if index is None else index.T.tolist()
        self._uniform = [_only_value(column) for column in columns]
        self._bare = [BASE in column for column in columns]

    def set_block(self, block: int, column: Tensor) -> None:
        """Select `column (rows,)` for one block."""
        assert self.index is not None
        self.index[:, block] = column
        values = column.tolist()
        self._uniform[block], self._bare[block] = _only_value(values), BASE in values

    def uniform(self, block: int) -> int | None:
        """The expert that all rows of `block` share, or None when they differ."""
        return self._uniform[block]

    def bare(self, block: int) -> bool:
        """Whether some row of `block` has no expert."""
        return self._bare[block]

    def rows(self, block: int, x: Tensor) -> Tensor:
        """`(rows,)`: the expert of every row of `x (rows, ...)` in `block`, on its device."""
        column = self.column(block, x)
        # Beam search and several return sequences repeat each row in place.
        return column if len(column) == len(x) else column.repeat_interleave(len(x) // len(column))

    def column(self, block: int, x: Tensor) -> Tensor:
        """`index[:, block]` on the device of `x`, which differs where blocks lie on several."""
        assert self.index is not None
        return self.index[:, block].to(x.device)


class Update(nn.Module, ABC):
    """What a method makes of one module of the base, most often a linear map."""

    @abstractmethod
    def output(self, base: nn.Module, x: Tensor) -> Tensor:
        """What replaces `base(x)`, `x (rows, tokens, in)`."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Numbers stored beside the base's."""


class AddedUpdate(Update):
    """An update that is added to a linear map's output."""

    @abstractmethod
    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        """`y + update(x)` for `x (rows, tokens, in)`, `y (rows, tokens, out)`; may be written into y."""

    def output(self, base: nn.Module, x: Tensor) -> Tensor:
        return self.add_to(base(x), x)


class StaticUpdate(AddedUpdate):
    """`y + B A x` with `A (R, in)`, `B (out, R)`: any merge that is one low-rank adapter."""

    A: Tensor
    B: Tensor

    def __init__(self, A: Tensor, B: Tensor) -> None:
        super().__init__()
        self.register_buffer("A", A, persistent=False)
        self.register_buffer("B", B, persistent=False)

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        return add_product(y, project(x, self.A), self.B)

    @property
    def size(self) -> int:
        return self.A.numel() + self.B.numel()


class RowUpdate(AddedUpdate):
    """`y_n + B_{e(n)} A_{e(n)} x_n`: one expert per row n, gathered per row and applied by `baddbmm`.

    `A (N, r, in)`, and B transposed, `(N, r, out)`: the batched product with each row's B then reads and writes along
    contiguous rows. Both are the stack's own where they can be.
    `scattered`: the module sees only some of each row's tokens, as an expert of a mixture does.
    """

    A: Tensor
    B_T: Tensor

    def __init__(self, stack: ModuleStack, selection: Selection, block: int, scattered: bool = False) -> None:
        super().__init__()
        self.scattered = scattered
        b = stack.B.transpose(1, 2)
        self.register_buffer("A", stack.A, persistent=False)
        self.register_buffer("B_T", b if b.stride(2) == 1 else b.contiguous(), persistent=False)
        self.selection = selection
        self.block = block

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        index = self.selection.index
        if index is None:
            return y
        expert = self.selection.uniform(self.block)
        if expert == BASE:
            return y
        if expert is not None:
            return add_product(y, project(x, self.A[expert]), self.B_T[expert].T)
        rows = self.selection.column(self.block, x)
        hidden = self._by_row(x, rows)
        if self.selection.bare(self.block):  # index BASE found the last expert
            hidden = hidden * (rows != BASE)[:, None, None]
        grouped = y.reshape(len(rows), -1, y.shape[-1])
        add = grouped.baddbmm_ if in_place(y, self.B_T) else grouped.baddbmm
        return add(hidden, self.B_T[rows]).view(y.shape)

    def _by_row(self, x: Tensor, rows: Tensor) -> Tensor:
        """`(rows, tokens, r)`: `A_{e(n)} x_n`.

        Some layers flatten their input to `(rows · tokens, in)`, and beam search repeats rows in place: either way
        all that belongs to a row of the batch lies together.
        """
        if not x.is_floating_point():
            return self.A[rows[:, None], :, x.reshape(len(rows), -1)]
        if len(x) % len(rows) or self.scattered:
            raise LorafuseError(
                "tokens of several rows reach an adapted layer in no order of rows, so their experts cannot be told"
                " apart there. Use batch size 1."
            )
        return torch.bmm(x.reshape(len(rows), -1, x.shape[-1]), self.A[rows].transpose(1, 2))

    @property
    def size(self) -> int:
        return self.A.numel() + self.B_T.numel()


class DenseUpdate(AddedUpdate):
    """`y + ΔW x` with `ΔW (out, in)`: a merge that is full-rank by nature.

    Kept beside W instead of added to it: in bf16 the sum would round most of a small update away.
    """

    delta: Tensor

    def __init__(self, delta: Tensor) -> None:
        super().__init__()
        self.register_buffer("delta", delta, persistent=False)

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return y + project(x, self.delta)
        return add_product(y, x, self.delta)

    @property
    def size(self) -> int:
        return self.delta.numel()


class GatedUpdate(AddedUpdate):
    """Gates over experts for every token, in rank space.

    `merge="after"`: `y + Σ_i g_i B_i A_i x`, as `B_cat (g ⊙ A_cat x)`. `merge="before"`:
    `y + (Σ_i g_i B_i)(Σ_j g_j A_j x)`, as `B_cat (g ⊗ h)` with `h = Σ_j g_j A_j x`. Either way one
    matmul over all A (and the probes) and one over all B.

    `A (N, r, in)`, `B (N, out, r)`, views of which are kept where they lie as a pool's do; `probes (P, in)` are further
    directions that scores need, and gradients reach those that are being learned.
    `score(hidden (..., r, N), probed (..., P)) -> (..., N)`; `weigh(scores) -> gates (..., N)`, where
    experts that do not adapt this module come with score -inf and must get gate 0. With `inner (N, q, r)` the score's
    hidden numbers are `inner_i A_i x (..., q, N)`.
    """

    A: Tensor
    B: Tensor
    absent: Tensor
    probes: Tensor | None
    inner: Tensor | None

    def __init__(
        self,
        A: Tensor,
        B: Tensor,
        score: Callable[[Tensor, Tensor], Tensor],
        weigh: Callable[[Tensor], Tensor],
        absent: Sequence[bool],
        merge: Literal["after", "before"] = "after",
        probes: Tensor | None = None,
        inner: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.experts, self.rank = A.shape[:2]
        # Experts last: reductions over the rank and products with gates then run along rows of N numbers.
        self.register_buffer("A", A.transpose(0, 1).flatten(0, 1), persistent=False)
        self.register_buffer("B", B.permute(2, 0, 1).flatten(0, 1).T, persistent=False)
        if probes is not None and not probes.requires_grad:
            probes = probes.to(A)
        self.register_buffer("probes", probes, persistent=False)
        self.register_buffer("inner", None if inner is None else inner.to(A), persistent=False)
        self.register_buffer("absent", torch.tensor(absent), persistent=False)
        self.score = score
        self.weigh = weigh
        self.merge = merge
        self._all_present = not any(absent)

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        hidden, scores = self._scored(x)
        gates = self.weigh(scores).to(hidden.dtype)[..., None, :]
        if self.merge == "before":
            hidden = (hidden * gates).sum(-1, keepdim=True)
        return add_product(y, (hidden * gates).flatten(-2), self.B)

    def scores(self, x: Tensor) -> Tensor:
        """`(..., N)` in fp32: what the gates of `x (..., in)` are made of; -inf for experts not in this module."""
        return self._scored(x)[1]

    def _scored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`A x` as `(..., r, N)`, and the scores."""
        hidden = project(x, self.A).unflatten(-1, (self.rank, self.experts))
        probed = hidden[..., :0, 0] if self.probes is None else project(x, self.probes)
        # Gates in fp32: in bf16 close scores would tie and change the choice.
        wide = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.float32
        read = hidden if self.inner is None else _mapped(hidden, self.inner)
        scores = self.rated(read.to(wide), probed.to(wide), x)
        return hidden, scores if self._all_present else scores.masked_fill(self.absent, float("-inf"))

    def rated(self, hidden: Tensor, probed: Tensor, x: Tensor) -> Tensor:
        """`(..., N)`, for an input `x`."""
        return self.score(hidden, probed)

    @property
    def size(self) -> int:
        beside = [tensor for tensor in (self.probes, self.inner) if tensor is not None]
        return sum(tensor.numel() for tensor in (self.A, self.B, *beside))


def _mapped(hidden: Tensor, inner: Tensor) -> Tensor:
    """`inner_i h_i (..., q, N)` for `hidden (..., r, N)`, `inner (N, q, r)`."""
    if inner.shape[1] == 1:
        return (hidden * inner[:, 0].T).sum(-2, keepdim=True)
    by_expert = hidden.flatten(0, -3).permute(2, 0, 1) @ inner.transpose(1, 2)
    return by_expert.permute(1, 2, 0).unflatten(0, hidden.shape[:-2])


def project(x: Tensor, A: Tensor) -> Tensor:
    """`A x` for `x (..., in)`; for token ids `x (...)`, which an embedding takes as one-hot vectors, A's columns."""
    return F.linear(x, A) if x.is_floating_point() else F.embedding(x, A.T)


def in_place(y: Tensor, B: Tensor) -> bool:
    """Whether a product with B may be added into y: autocast, by which B in fp32 serves y in bf16, cannot do so."""
    return not torch.is_grad_enabled() and B.dtype is y.dtype


def add_product(y: Tensor, hidden: Tensor, B: Tensor) -> Tensor:
    """`y + hidden Bᵀ` for `y (..., out)`, `hidden (..., R)`, `B (out, R)`; written into y outside of training.

    One pass of the matmul over y instead of a product and a sum; in bf16 also one rounding instead of two.
    """
    flat, hidden = y.reshape(-1, y.shape[-1]), hidden.reshape(-1, hidden.shape[-1])
    add = flat.addmm_ if in_place(y, B) else flat.addmm
    return add(hidden, B.T).view(y.shape)


class FusedModule(nn.Module):
    """A module of the base, most often a linear map, with a method's update: `y = update.output(base, x)`.

    `base` keeps its weights and bias (`nn.Linear`, GPT-2's `Conv1D`, ...); it is never written to.
    """

    def __init__(self, base: nn.Module, update: Update) -> None:
        super().__init__()
        self.base = base
        self.update = update

    def forward(self, x: Tensor) -> Tensor:
        return self.update.output(self.base, x)

    # Some architectures read the wrapped layer's weight, for example for its dtype.
    @property
    def weight(self) -> Tensor:
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias  # type: ignore[return-value]


class FusedScaledEmbedding(FusedModule):
    """An embedding that scales its rows, as Gemma's does: the update is scaled in the same way."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        update = self.update.add_to(torch.zeros_like(y), x)  # type: ignore[operator]
        result: Tensor = y + update * self.base.embed_scale
        return result


def install(model: nn.Module, modules: Mapping[str, nn.Module], updates: Mapping[str, Update]) -> None:
    """Put a `FusedModule` in place of every module of `model` that has an update."""
    for name, update in updates.items():
        scaled = isinstance(modules[name], nn.Embedding) and hasattr(modules[name], "embed_scale")
        kind = FusedScaledEmbedding if scaled else FusedModule
        model.set_submodule(name, kind(modules[name], update))


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear map: `nn.Linear`, GPT-2's `Conv1D`, or a quantised kind with sizes like theirs."""
    sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return type(module).__name__ == "Conv1D" or all(isinstance(size, int) for size in sizes)


def linear_shape(module: nn.Module, name: str) -> tuple[int, int]:
    """(out, in) of a linear map, or of an embedding, which maps one-hot tokens; LorafuseError for other modules."""
    if isinstance(module, nn.Embedding):
        return module.embedding_dim, module.num_embeddings
    if not is_linear(module):
        raise LorafuseError(
            f"{name} is a {type(module).__name__}, not a linear map: adapters on it cannot be fused."
        )
    if type(module).__name__ == "Conv1D":
        return linear_weight(module).shape[0], linear_weight(module).shape[1]
    return module.out_features, module.in_features  # type: ignore[return-value]


def linear_weight(module: nn.Module) -> Tensor:
    """`W (out, in)` of a linear map.

    Of quantised weights it is what the map makes of unit vectors, so it is what the map computes: packages keep
    the stored form to themselves, and bitsandbytes repacks it in the first pass on a CPU. Of weights that are
    offloaded it is a copy.
    """
    with weights_of(module):
        weight = _weight(module)
        return weight.detach().clone() if has_offloaded_params(module) else weight


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    if type(module).__name__ == "Conv1D":
        return weight.T  # type: ignore[return-value]
    shape = linear_shape(module, type(module).__name__)
    if isinstance(weight, Tensor) and weight.is_floating_point() and weight.shape == shape:
        return weight
    tensors = [*module.parameters(), *module.buffers()]
    wide = [t.dtype for t in tensors if t.dtype.is_floating_point and t.dtype.itemsize > 1]
    units = torch.eye(shape[1], dtype=wide[0] if wide else torch.float32, device=tensors[0].device)
    with torch.no_grad():
        result: Tensor = (module(units) - module(torch.zeros_like(units[:1]))).T
    return result


def _only_value(values: list[int]) -> int | None:
    return values[0] if len(set(values)) == 1 else None
