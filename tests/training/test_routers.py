"""Routers: what they learn, which blocks count, how they are stored, and joint training."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from dense import expert_delta, load_base, with_delta
from handmade import REVIEWS, write_split
from safetensors.torch import load_file
from tiny import tiny_model, tiny_zoo

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import Prompts
from lorafuse_bench.fusion.routing.moa import Moa, decide, pool_hidden
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.training.joint import JointMoa, JointSettings, train_joint
from lorafuse_bench.training.router_training import (
    RouterSettings,
    accuracy_record,
    fit_routers,
    informative_blocks,
    load_fused,
    router_accuracy,
    train_router,
)
from lorafuse_bench.zoo.manifest import Zoo, weights_sha256

FAST = RouterSettings(prompts_per_task=8, held_out=0.25, steps=100)


@pytest.fixture
def zoo(tmp_path: Path, handmade_data: Path) -> Zoo:
    """Three experts on handmade rows."""
    zoo = tiny_zoo(tmp_path / "zoo")
    saved = Zoo(zoo.root, zoo.manifest.model_copy(update={"data": str(handmade_data)}))
    saved.save()
    return saved


def test_fit_learns_separable_features_and_folds_the_standardisation() -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(40)
    centres = torch.randn(2, 3, 6, generator=g)
    features = 50 + 0.01 * (centres[:, labels] + 0.1 * torch.randn(2, 120, 6, generator=g))
    tensors = fit_routers(features, labels, 3, RouterSettings(steps=200))
    assert router_accuracy(tensors, features, labels) == [1.0, 1.0]


def test_a_router_of_one_prompt_is_of_finite_numbers() -> None:
    """One prompt has no spread to be divided by."""
    tensors = fit_routers(torch.ones(2, 1, 5), torch.tensor([0]), 1, RouterSettings(steps=1))
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_a_block_that_sees_the_same_everywhere_is_not_informative() -> None:
    labels = torch.arange(4).repeat(25)
    signal = F.one_hot(labels).float()
    features = torch.stack([torch.ones(100, 4), signal])
    tensors = fit_routers(features, labels, 4, RouterSettings(steps=100))
    accuracy = router_accuracy(tensors, features, labels)
    assert accuracy[0] < 0.3
    assert accuracy[1] == 1.0
    assert informative_blocks(accuracy, experts=4) == [1]


def test_where_no_block_beats_chance_the_best_ones_decide() -> None:
    assert informative_blocks([1.0, 1.0, 1.0], experts=1) == [0, 1, 2]
    assert informative_blocks([0.1, 0.2, 0.2], experts=4) == [1, 2]
    assert accuracy_record([0.1, 0.9, 0.3], 4, unadapted=[1])["informative_blocks"] == [2]


def test_pooling_ignores_padding() -> None:
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    prompts = Prompts(torch.zeros(2, 3, dtype=torch.long), torch.tensor([3, 1]), ("a", "b"))
    assert pool_hidden(hidden, prompts, "last").tolist() == [[4, 5], [6, 7]]
    assert pool_hidden(hidden, prompts, "mean").tolist() == [[2, 3], [6, 7]]


def test_decisions() -> None:
    # One row, three experts; blocks 1 and 3 of four decide.
    one, three = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.5]])
    assert decide([one, three], [1, 3], 4, "last").tolist() == [[1, 1, 1, 1]]
    # One vote each: expert 0 has the larger summed probability.
    assert decide([one, three], [1, 3], 4, "vote").tolist() == [[0, 0, 0, 0]]
    assert decide([one, three, three], [0, 1, 3], 4, "vote").tolist() == [[1, 1, 1, 1]]
    # Two sure routers: 1 - 2e-9 and 1 - 5e-9 are one number in fp32.
    sure, surer = torch.tensor([[19.0, 0.0, -9.0]]), torch.tensor([[0.0, 20.0, -9.0]])
    assert decide([sure, surer], [1, 3], 4, "vote").tolist() == [[1, 1, 1, 1]]
    # Block 0 follows the first deciding block, block 2 the one before it.
    assert decide([one, three], [1, 3], 4, "per_block").tolist() == [[0, 0, 0, 1]]


def test_teacher_forced_features_are_those_of_the_dense_experts(zoo: Zoo) -> None:
    """The hidden states a router is trained on are those of its task's own expert, prompt only."""
    fused, tokenizer = load_fused(zoo)
    fused.use(registry.parse("oracle"))
    ids = [tokenizer(text)["input_ids"] for text in ("A long prompt here:", "Short:")]
    width = max(map(len, ids))
    rows = Prompts(
        torch.tensor([x + [0] * (width - len(x)) for x in ids]), torch.tensor([len(x) for x in ids]), ("", "")
    )
    seen: list[torch.Tensor] = []
    fused.selection.set(torch.tensor([[0], [2]]).repeat(1, fused.base.blocks))
    fused.visit_blocks(rows, lambda block, hidden: seen.append(hidden))
    base = load_base(zoo.root)
    for row, expert in enumerate((0, 2)):
        model = with_delta(base, expert_delta(zoo.root / zoo.manifest.experts[expert].path))
        with torch.no_grad():
            expected = model(torch.tensor([ids[row]]), output_hidden_states=True).hidden_states
        for block, hidden in enumerate(seen):
            torch.testing.assert_close(
                hidden[row, : len(ids[row])].double(), expected[block][0], rtol=1e-4, atol=1e-5
            )


def test_train_router_records_its_settings_and_routes(zoo: Zoo) -> None:
    saved = train_router(zoo, FAST)
    again = train_router(zoo, FAST)
    entry = saved.manifest.artefacts[0]
    assert entry.name == "moa-mean"
    assert entry.settings["pool"] == "mean"
    assert entry.settings["training"] == "post_hoc"
    known = entry.fitted_on
    assert known is not None and known.rows == FAST.prompts_per_task
    assert set(known.tasks) == {expert.task for expert in zoo.manifest.experts}
    assert known.experts == tuple(expert.sha256 for expert in zoo.manifest.experts)
    assert len(entry.settings["accuracy_per_block"]) == 3
    assert entry.settings["accuracy"] == pytest.approx(sum(entry.settings["accuracy_per_block"]) / 3)
    assert again.manifest.artefacts[0].sha256 == entry.sha256, "the same seed gives the same bytes"
    assert Zoo.open(zoo.root).manifest == again.manifest
    lm = LorafuseLM("moa:pooling=mean", zoo=zoo.root, device="cpu")
    prompts = ["Premise:\na b.\nHypothesis:\nb c.\nRelationship:", "Great film\nSentiment:"]
    choices = lm._choose([tuple(lm.tok_encode(p)) for p in prompts], ["mnli", "sst2"])
    assert choices is not None
    assert [int(c[-1]) for c in choices] == [1, 0]


def test_last_token_before_block_0_is_left_out(zoo: Zoo) -> None:
    """All structured prompts end in ':': that router cannot see the task, and must not decide."""
    entry = train_router(zoo, RouterSettings(pool="last", prompts_per_task=8, held_out=0.25, steps=100))
    settings = entry.manifest.artefacts[0].settings
    assert 0 not in settings["informative_blocks"]
    assert settings["informative_blocks"]


def test_routers_of_both_pools_live_side_by_side(zoo: Zoo) -> None:
    saved = train_router(train_router(zoo, FAST), RouterSettings(pool="last", prompts_per_task=8, steps=50))
    assert [router.name for router in saved.manifest.artefacts] == ["moa-mean", "moa-last"]
    fused, _ = load_fused(saved)
    assert fused.artefact(Moa(pooling="mean")).name == "moa-mean"
    assert fused.artefact(Moa()).name == "moa-last"


def test_joint_loss_is_language_plus_routing(zoo: Zoo) -> None:
    """With B = 0 the language part is the base's own loss; each expert learns from its own rows only."""
    fused, _ = load_fused(zoo)
    model = JointMoa(fused, JointSettings(eta=0.5))
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    labels = torch.tensor([[-100, -100, 7, 8], [-100, -100, -100, 12]])
    mask, task = torch.ones_like(ids), torch.tensor([0, 2])
    loss = model(ids, mask, labels, task)["loss"]
    base = load_base(zoo.root)
    with torch.no_grad():
        output = base(ids, output_hidden_states=True)
    language = F.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )
    routing = []
    for block in range(3):
        h = torch.stack(
            [output.hidden_states[block][0, :2].mean(0), output.hidden_states[block][1, :3].mean(0)]
        )
        hidden = F.gelu(F.linear(h, model.w1[block].double()))
        routing.append(F.cross_entropy(F.linear(hidden, model.w2[block].double()), task))
    torch.testing.assert_close(loss.double(), language + 0.5 * sum(routing) / 3, rtol=1e-4, atol=1e-4)
    loss.backward()
    grads = next(iter(model.updates.values())).B_T.grad
    assert grads is not None
    assert grads[0].any()
    assert grads[2].any()
    assert not grads[1].any()


def test_joint_training_resumes_and_is_used_by_its_method(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = JointSettings(steps=6, batch_size=4, checkpoints=3, learning_rate=1e-2)
    straight = train_joint(zoo, settings, report=lambda text: None).manifest.artefacts[0]
    files = {e.name: load_file(zoo.root / e.path / "adapter_model.safetensors") for e in straight.adapters}
    interrupted = False

    def stop(text: str) -> None:
        nonlocal interrupted
        if "step 4/" in text and not interrupted:
            interrupted = True
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_joint(zoo, settings, report=stop)
    resumed = train_joint(zoo, settings, report=lambda text: None).manifest.artefacts[0]
    assert interrupted
    assert resumed.sha256 == straight.sha256
    for entry in resumed.adapters:
        for key, value in load_file(zoo.root / entry.path / "adapter_model.safetensors").items():
            assert torch.equal(value, files[entry.name][key])
    assert not (zoo.root / ".training").exists() or not list((zoo.root / ".training").iterdir())
    lm = LorafuseLM("moa", zoo=zoo.root, device="cpu", training="joint", pooling="mean")
    own = ExpertPool.from_zoo(Zoo.open(zoo.root))
    used = lm.fused.artefact(lm.fused.method).pool
    assert used is not None
    module = next(iter(own.modules))
    assert not torch.equal(used.modules[module].A, own.modules[module].A)
    first = used.modules[module].A
    assert not torch.equal(first[0], first[1]), "trained on different rows"
    config = json.loads((zoo.root / resumed.adapters[0].path / "adapter_config.json").read_text())
    assert config["r"] == 4
    assert isinstance(lm.fused, FusedModel)


def test_joint_training_that_was_stopped_begins_anew_on_other_rows(zoo: Zoo, tmp_path: Path) -> None:
    data, told = tmp_path / "data", []
    shutil.copytree(zoo.data_source, data)

    def stop(text: str) -> None:
        told.append(text)
        if "step 2/" in text:
            raise KeyboardInterrupt

    settings = JointSettings(steps=2, batch_size=2, checkpoints=2)
    for edited in (False, True):
        if edited:
            write_split(data / "nyu-mll__glue/sst2", "train", [*REVIEWS[1:], REVIEWS[0]])
        with pytest.raises(KeyboardInterrupt):
            train_joint(zoo, settings, data=str(data), report=stop)
    steps = [text.split(",")[0] for text in told if ": step " in text]
    assert steps == [f"router moa-joint: step {step}/2" for step in (1, 2, 1, 2)]


@pytest.fixture
def half(zoo: Zoo) -> Zoo:
    """The same zoo on a base stored in bf16."""
    folder = zoo.root / "base"
    tiny_model().to(torch.bfloat16).save_pretrained(folder)
    base = zoo.manifest.base.model_copy(update={"sha256": weights_sha256(folder)})
    experts = tuple(e.model_copy(update={"base_sha256": base.sha256}) for e in zoo.manifest.experts)
    saved = Zoo(zoo.root, zoo.manifest.model_copy(update={"base": base, "experts": experts}))
    saved.save()
    return saved


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_routers_of_both_kinds_train_on_a_base_in_bf16(half: Zoo, dtype: str) -> None:
    after = train_router(half, FAST, dtype=dtype).manifest.artefacts[0]
    joint = JointSettings(steps=2, batch_size=4)
    together = train_joint(half, joint, report=lambda text: None, dtype=dtype).manifest.artefacts[-1]
    for entry in (after, together):
        assert entry.settings["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
        assert dtype in ("auto", entry.settings["dtype"])
        tensors = load_file(half.root / entry.path / "router.safetensors")
        assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    trained = load_file(half.root / together.adapters[0].path / "adapter_model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in trained.values())
    assert any(tensor.any() for name, tensor in trained.items() if "lora_B" in name)


def test_routers_read_rows_as_long_as_evaluation_does(zoo: Zoo) -> None:
    """The zoo's own length; another one is refused, and one that is given is the zoo's from then on."""
    assert train_router(zoo, FAST).manifest.artefacts[0].settings["cutoff"] == 512  # the base's
    saved = train_router(zoo, replace(FAST, cutoff=64))
    assert saved.manifest.max_length == 64
    again = train_router(saved, FAST)
    assert again.manifest.artefacts[0].settings["cutoff"] == 64
    with pytest.raises(LorafuseError, match="rows of at most 64 tokens, not 96"):
        train_router(saved, replace(FAST, cutoff=96))
    with pytest.raises(LorafuseError, match="rows of at most 64 tokens, not 128"):
        train_joint(saved, JointSettings(cutoff=128))


def test_the_hidden_size_is_the_users(zoo: Zoo) -> None:
    (entry,) = train_router(zoo, replace(FAST, hidden=5)).manifest.artefacts
    assert entry.settings["hidden"] == 5
    (weights,) = (zoo.root / entry.path).glob("*.safetensors")
    assert load_file(weights)["w1"].shape[1] == 5
