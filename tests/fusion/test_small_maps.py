"""Arrow's and SpectR's small maps against the SVD of each expert's update."""

from __future__ import annotations

import pytest
import torch

from lorafuse_bench.experts import ModuleStack
from lorafuse_bench.fusion.routing.gates import first_directions, lengths_of


def stack(ranks: tuple[int, ...]) -> ModuleStack:
    """Random experts padded to rank 4; the first has two rows that are multiples of each other."""
    g = torch.Generator().manual_seed(0)
    found = ModuleStack.zeros((20, 30), ranks, torch.float32)
    for i, rank in enumerate(ranks):
        found.A[i, :rank] = torch.randn(rank, 30, generator=g)
        found.B[i, :, :rank] = torch.randn(20, rank, generator=g)
    found.A[0, 1] = 3 * found.A[0, 0]
    return found


@pytest.mark.parametrize("ranks", [(4, 4, 4), (4, 2, 1), (4, 0, 3)])
def test_they_say_what_the_updates_do(ranks: tuple[int, ...]) -> None:
    experts = stack(ranks)
    updates = experts.B.double() @ experts.A.double()
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    lengths = (lengths_of(experts) @ (experts.A.double() @ x)).norm(dim=1)
    torch.testing.assert_close(lengths, (updates @ x).norm(dim=1), rtol=1e-9, atol=1e-9)
    found = (first_directions(experts) @ experts.A.double())[:, 0]
    wanted = torch.linalg.svd(updates).Vh[:, 0] * torch.tensor([rank > 0 for rank in ranks])[:, None]
    torch.testing.assert_close((found @ x).abs(), (wanted @ x).abs(), rtol=1e-6, atol=1e-6)
