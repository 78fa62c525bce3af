"""Independent references of trained adapters in fp64: the papers' formulas at one linear map, experts one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.adapters.trained import TrainedAdapter, TrainedUpdate, initialise
from lorafuse_bench.layers import Selection, install

Tensors = Mapping[str, Tensor]
Reference = Callable[[Tensor, Tensor, Tensors, int | None], Tensor]
"""(W (out, in), x (t, in), an update's tensors, task id or None) -> y (t, out), without the bias."""

SPECS = ("lora:rank=3", "moore:d_t=5+d_s=3+reflections=4", "moore:d_t=4+d_s=0+reflections=0+relu_gate=true")
"""One of every method, small; some options."""


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


REFERENCES: dict[str, Reference] = {
    "lora:rank=3": lora,
    "moore:d_t=5+d_s=3+reflections=4": moore,
    "moore:d_t=4+d_s=0+reflections=0+relu_gate=true": moore_relu,
}


def method_of(spec: str) -> TrainedAdapter:
    method = registry.parse(spec)
    assert isinstance(method, TrainedAdapter)
    return method


def attached(model: PreTrainedModel, spec: str, tasks: int = 3) -> tuple[dict[str, TrainedUpdate], Selection]:
    """A model's new adapter, in place and as it starts, and what tells the rows' tasks."""
    modules = dict(model.named_modules())
    selection = Selection()
    updates = method_of(spec).attach(modules, model.config.num_hidden_layers, tasks, selection)
    initialise(updates, 0)
    install(model, modules, updates)
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
        return y if self.b is None else y + self.b


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
        linear = model.get_submodule(module)
        model.set_submodule(module, DenseLinear(linear, REFERENCES[spec], own, task))
    return model
