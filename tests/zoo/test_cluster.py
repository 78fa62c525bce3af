"""Clusters of experts: by direction, the same from the same seed, refused where they cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.zoo.cluster import cluster, coordinates, gram, kmeans, members
from lorafuse_bench.zoo.index import index_adapters
from lorafuse_bench.zoo.manifest import Zoo


@pytest.fixture
def pairs(tmp_path: Path) -> Zoo:
    """Four experts: the third is near the first, the fourth near the second; lengths differ."""
    zoo = tiny_zoo(tmp_path, experts=4, mixed=True)
    names = [entry.name for entry in zoo.manifest.experts]
    for like, name, factor in ((0, 2, 3.0), (1, 3, 0.2)):
        source, folder = (zoo.root / "experts" / names[i] for i in (like, name))
        shutil.copytree(source, folder, dirs_exist_ok=True)
        path = folder / "adapter_model.safetensors"
        noise = torch.Generator().manual_seed(0)
        near = {
            k: factor * (v + 0.01 * torch.randn(v.shape, generator=noise)) for k, v in load_file(path).items()
        }
        save_file(near, path)
    return index_adapters(tmp_path)


def vectors(pool: ExpertPool) -> np.ndarray:
    """The dense reference: every factor of an expert in one row, unscaled, ranks padded."""
    rows = []
    for i in range(len(pool)):
        parts = [(s.A[i], s.B[i] / s.scaling[i]) for s in pool.modules.values()]
        rows.append(torch.cat([half.flatten() for part in parts for half in part]).double().numpy())
    return np.stack(rows)


def test_products_and_coordinates_are_those_of_the_vectors(pairs: Zoo) -> None:
    pool = ExpertPool.from_zoo(pairs)
    dense = vectors(pool)
    assert np.allclose(gram(pool), dense @ dense.T)
    unit = dense / np.linalg.norm(dense, axis=1, keepdims=True)
    placed = coordinates(gram(pool))
    assert np.allclose(placed @ placed.T, unit @ unit.T)
    u, s, _ = np.linalg.svd(dense, full_matrices=False)
    two = (u * s)[:, :2]
    two /= np.linalg.norm(two, axis=1, keepdims=True)
    placed = coordinates(gram(pool), svd=2)
    assert placed.shape == (4, 2) and np.allclose(placed @ placed.T, two @ two.T)


@pytest.mark.parametrize("svd", [None, 2, 64])
def test_alike_experts_are_together_whatever_their_length(pairs: Zoo, svd: int | None) -> None:
    names = [entry.name for entry in pairs.manifest.experts]
    found = cluster(pairs, 2, seed=3, svd=svd).manifest.clusters
    assert found is not None and (found.seed, found.svd) == (3, svd)
    pool = vectors(ExpertPool.from_zoo(pairs))
    unit = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    twin = int(np.argsort(unit @ unit[0])[-2])
    assert any({names[0], names[twin]} == set(group) for group in found.members)
    assert sorted(name for group in found.members for name in group) == sorted(names)
    assert (
        found
        == cluster(pairs, 2, seed=3, svd=svd).manifest.clusters
        == Zoo.open(pairs.root).manifest.clusters
    )


def test_clusters_are_in_the_order_of_their_first_member() -> None:
    assert members(("a", "b", "c"), (1, 0, 1)) == (("a", "c"), ("b",))


def test_experts_that_do_not_differ_make_no_two_clusters() -> None:
    with pytest.raises(LorafuseError, match="3 clusters, and only 2 experts that differ"):
        kmeans(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 3, 0)


def test_the_command_prints_clusters_and_refuses_more_than_experts(pairs: Zoo) -> None:
    done = CliRunner().invoke(app, ["zoo", "cluster", str(pairs.root), "--clusters", "2"])
    assert done.exit_code == 0 and "cluster 0: " in done.stdout and "--bank mbc" in done.stdout
    shown = CliRunner().invoke(app, ["zoo", "show", str(pairs.root)])
    assert "cluster 1: " in shown.stdout
    done = CliRunner().invoke(app, ["zoo", "cluster", str(pairs.root)])
    assert done.exit_code == 2 and "10 clusters of 4 experts" in done.stderr
