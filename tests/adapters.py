"""Independent references of trained adapters in fp64: the papers' formulas at one linear map, experts one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lorafuse_bench.base_model import Base
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.adapters.trained import TrainedAdapter, TrainedUpdate, initialise
from lorafuse_bench.layers import Selection, install

Tensors = Mapping[str, Tensor]
Reference = Callable[[Tensor, Tensor, Tensors, int | None], Tensor]
"""(W (out, in), x (t, in), an update's tensors, task id or None) -> y (t, out), without the bias."""


def lora(W: Tensor, x: Tensor, p: Tensors, task: int | None) -> Tensor:
    return x @ (W + 2.0 * p["B"] @ p["A"]).T


def moore(W: Tensor, x: Tensor, p: Tensors, task: int | None, relu: bool = False) -> Tensor:
    """Expert by expert: Σ_d (σ_d + g_d) u_d v_dᵀ H x, H one reflection after the other."""
    U, sigma, Vh = torch.linalg.svd(W, full_matrices=False)
    H = torch.eye(W.shape[1], dtype=W.dtype)
    for r in p.get("R", ()):
        H = H @ (torch.eye(len(r), dtype=r.dtype) - 2 * torch.outer(r, r) / (r @ r))
    y = torch.zeros(len(x), len(W), dtype=W.dtype)
    for d in range(len(sigma)):
        g = torch.zeros(len(x), dtype=W.dtype)
        if "T" in p:
            t = p["T"].mean(0) if task is None else p["T"][task]
            g = g + p["P"][d] @ t
        if "Q" in p:
            g = g + x @ p["Gamma"].T @ p["Q"][d]
        weight = sigma[d] + g
        if relu:
            weight = weight.clamp(min=0)
        y = y + weight[:, None] * torch.outer(x @ H.T @ Vh[d], U[:, d])
    return y


def moore_relu(W: Tensor, x: Tensor, p: Tensors, task: int | None) -> Tensor:
    return moore(W, x, p, task, relu=True)


def softmax(logits: Tensor) -> Tensor:
    power = (logits - logits.max(-1, keepdim=True).values).exp()
    return power / power.sum(-1, keepdim=True)


def two_largest(p: Tensor) -> Tensor:
    """`(t, M)`: the two largest of each row over their sum; fewer than two others are larger."""
    kept = p * ((p[:, None, :] > p[:, :, None]).sum(-1) < 2)
    return kept / kept.sum(-1, keepdim=True)


def loramoe(W: Tensor, x: Tensor, p: Tensors, task: int | None) -> Tensor:
    g, y = softmax(x @ p["S"].T), x @ W.T
    for m, (A, B) in enumerate(zip(p["A"].split(2), p["B"].split(2, dim=1), strict=True)):
        y = y + 2.0 * g[:, m, None] * (x @ (B @ A).T)
    return y


def hydralora(W: Tensor, x: Tensor, p: Tensors, task: int | None) -> Tensor:
    g, y = softmax(x @ p["S"].T), x @ W.T
    for m, B in enumerate(p["B"].split(2, dim=1)):
        y = y + 2.0 * g[:, m, None] * (x @ (B @ p["A"]).T)
    return y


def mosld(W: Tensor, x: Tensor, p: Tensors, task: int | None) -> Tensor:
    g, y = two_largest(softmax(x @ p["S"].T)), x @ W.T
    for m, A in enumerate(p["A"].split(2)):
        y = y + 2.0 * g[:, m, None] * (x @ (p["B"] @ A).T)
    return y


def mosld_a(W: Tensor, x: Tensor, p: Tensors, task: int | None) -> Tensor:
    g, y = two_largest(softmax(x @ p["S"].T)), x @ W.T
    for m, B in enumerate(p["B"].split(2, dim=1)):
        y = y + 2.0 * g[:, m, None] * (x @ (B @ p["A"]).T)
    return y


def mtl_lora(W: Tensor, x: Tensor, p: Tensors, task: int | None) -> Tensor:
    w = p["w"].mean(0) if task is None else p["w"][task]
    transform = p["Lambda"].mean(0) if task is None else p["Lambda"][task]
    g, y = softmax(w / 0.1), x @ W.T
    for m, B in enumerate(p["B"].split(2, dim=1)):
        y = y + 2.0 * g[m] * (x @ (B @ transform @ p["A"]).T)
    return y


def omoe(W: Tensor, x: Tensor, p: Tensors, task: int | None) -> Tensor:
    """Gram-Schmidt one output after the other, token by token; the ridge as one more coordinate per expert."""
    g, rows = softmax(x @ p["S"].T), []
    pairs = list(zip(p["A"].split(2), p["B"].split(2, dim=1), strict=True))
    for t in range(len(x)):
        outputs = [B @ A @ x[t] for A, B in pairs]
        ridge = 1e-5 * (1 + sum(e @ e for e in outputs) / len(outputs))
        done: list[Tensor] = []
        for m, e in enumerate(outputs):
            unit = torch.zeros(len(outputs), dtype=x.dtype)
            unit[m] = ridge**0.5
            v = torch.cat([e, unit])
            for q in done:
                v = v - (v @ q) * q
            done.append(v / v.norm())
        rows.append(2.0 * sum(g[t, m] * q[: len(W)] for m, q in enumerate(done)))
    return x @ W.T + torch.stack(rows)


def full_finetune(W: Tensor, x: Tensor, p: Tensors, task: int | None) -> Tensor:
    return x @ p["weight"].T


REFERENCES: dict[str, Reference] = {
    "lora:rank=3": lora,
    "moore:d_t=5+d_s=3+reflections=4": moore,
    "moore:d_t=4+d_s=0+reflections=0+relu_gate=true": moore_relu,
    "loramoe:rank=2+experts=4": loramoe,
    "hydralora:rank=2": hydralora,
    "mosld:rank=2+experts=4": mosld,
    "mosld:rank=2+experts=4+shared=A": mosld_a,
    "mtl_lora:rank=2": mtl_lora,
    "omoe:rank=2+experts=3": omoe,
    "mixlora:rank=3+experts=4": lora,  # on the attention's maps
    "full_finetune": full_finetune,
}
"""At least one of every method, small."""
SPECS = tuple(REFERENCES)


class DenseFfn(nn.Module):
    """MixLoRA's FFN in fp64: for every token, two whole experts with weights of their own."""

    def __init__(self, base: nn.Module, tensors: Tensors) -> None:
        super().__init__()
        self.base, self.tensors = base, tensors

    def forward(self, x: Tensor) -> Tensor:
        p, flat = self.tensors, x.flatten(0, -2)
        g, rank = two_largest(softmax(flat @ p["S"].T)), 3
        total = torch.zeros_like(flat)
        for m in range(g.shape[1]):
            own = slice(m * rank, (m + 1) * rank)
            W = {
                name: self.base.get_submodule(name).weight
                + 2.0 * p[f"B_{name}"][:, own] @ p[f"A_{name}"][own]
                for name in ("gate_proj", "up_proj", "down_proj")
            }
            inner = self.base.act_fn(flat @ W["gate_proj"].T) * (flat @ W["up_proj"].T)
            total = total + g[:, m, None] * (inner @ W["down_proj"].T)
        return total.reshape(x.shape)


def method_of(spec: str) -> TrainedAdapter:
    method = registry.parse(spec)
    assert isinstance(method, TrainedAdapter)
    return method


def attached(model: PreTrainedModel, spec: str, tasks: int = 3) -> tuple[dict[str, TrainedUpdate], Selection]:
    """A model's new adapter, in place and as it starts, and what tells the rows' tasks."""
    base = Base(model)
    selection = Selection()
    updates = method_of(spec).attach(base, tasks, selection)
    initialise(updates, 0)
    install(model, base.modules, updates)
    return updates, selection


class DenseLinear(nn.Module):
    """A linear map under a reference, in fp64."""

    def __init__(self, base: nn.Module, reference: Reference, tensors: Tensors, task: int | None) -> None:
        super().__init__()
        weight = base.weight.data.double()
        self.W = weight if isinstance(base, nn.Linear) else weight.T
        self.b = None if base.bias is None else base.bias.data.double()
        self.reference, self.tensors, self.task = reference, tensors, task

    @property
    def weight(self) -> Tensor:
        return self.W

    def forward(self, x: Tensor) -> Tensor:
        y = self.reference(self.W, x.flatten(0, -2), self.tensors, self.task).reshape(*x.shape[:-1], -1)
        b = self.tensors.get("bias", self.b)
        return y if b is None else y + b


def dense_model(
    base: PreTrainedModel, spec: str, tensors: Mapping[str, Tensor], task: int | None
) -> PreTrainedModel:
    """A copy of the base in fp64 with the spec's reference at every map that `tensors` name."""
    model = copy.deepcopy(base).double()
    by_module: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        module, _, name = key.rpartition(".")
        by_module.setdefault(module, {})[name] = value.double()
    for module, own in by_module.items():
        base_module = model.get_submodule(module)
        if hasattr(base_module, "gate_proj"):
            model.set_submodule(module, DenseFfn(base_module, own))
        elif spec == "full_finetune":
            for name, value in own.items():
                base_module.get_parameter(name).data.copy_(value)
        else:
            model.set_submodule(module, DenseLinear(base_module, REFERENCES[spec], own, task))
    return model
