"""A network by name in the loop: what it draws, computes again and holds fixed goes on as in an unbroken run."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
import torch
from launching import in_processes
from places import TESTS
from safetensors import safe_open
from torch import Tensor, nn

from simclr_plus import distributed
from simclr_plus.augmentations.law import simclr_law
from simclr_plus.datasets import TRAIN, open_images
from simclr_plus.encoders.dropout import seed_dropout
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.features.extraction import features_of
from simclr_plus.global_batch_norm import GlobalBatchNorm, convert_global_batch_norm
from simclr_plus.recipe import load_recipe
from simclr_plus.recipe.keys import Data
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.training.model import build_encoder
from simclr_plus.training.trainer import train

CHANGES = [
    "data.limit=128",
    "augmentation.image_size=32",
    "training.batch_size=32",
    "training.epochs=1",
    "training.warmup_epochs=0",
    "checkpoints.every_epochs=0.25",
    "checkpoints.keep_last=99",
    "monitor.knn_every_epochs=0",
]
DROPPING = "encoder.options={ drop_path_rate = 0.3, proj_drop_rate = 0.2 }"


def run_of(folder: Path, called: str, *changes: str) -> Run:
    return create_run(load_recipe("places", [*CHANGES, *changes]), folder, called)


def last_weights(run: Run) -> dict[str, Tensor]:
    with safe_open(run.checkpoint_files()[-1], framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)


@pytest.mark.parametrize(
    "changes",
    [
        ["encoder.name=timm:test_vit", DROPPING, "optimizer.name=adamw"],
        ["encoder.name=timm:test_efficientnet", "training.activation_checkpointing=true", "optimizer.name=sgd"],
        ["encoder.name=timm:test_vit", "encoder.freeze_patch_embedding=true", "optimizer.name=lars"],
    ],
    ids=["dropout and drop path", "activation checkpointing", "frozen patches"],
)
def test_a_run_that_goes_on_ends_with_the_bytes_of_an_unbroken_one(tmp_path: Path, changes: list[str]) -> None:
    unbroken, resumed = (run_of(tmp_path, called, *changes) for called in ("unbroken", "resumed"))
    assert train(unbroken, quiet=True) == "finished"
    first, *later = unbroken.checkpoint_files()
    resumed.checkpoints.mkdir(exist_ok=True)
    shutil.copy(first, resumed.checkpoints)
    torch.rand(7)  # whatever the process drew before is of no account
    assert train(resumed, quiet=True) == "finished"
    assert len(later) >= 3
    for file in later:
        assert (resumed.checkpoints / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.slow
def test_two_processes_that_drop_go_on_as_in_an_unbroken_run(tmp_path: Path) -> None:
    changes = ["encoder.name=timm:test_vit", DROPPING, "optimizer.name=adamw"]
    unbroken, resumed = (run_of(tmp_path, called, *changes) for called in ("unbroken", "resumed"))
    in_processes(TESTS / "train_in_turn.py", unbroken.path)
    first, *later = unbroken.checkpoint_files()
    resumed.checkpoints.mkdir(exist_ok=True)
    shutil.copy(first, resumed.checkpoints)
    in_processes(TESTS / "train_in_turn.py", resumed.path)
    assert resumed.events()[0]["processes"] == 2 and len(later) >= 3
    for file in later:
        assert (resumed.checkpoints / file.name).read_bytes() == file.read_bytes(), file.name


def test_each_process_drops_other_units_in_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images are in every row here: what differs is what is dropped."""
    encoder = ForeignEncoder("timm:test_vit", {"drop_path_rate": 0.3, "proj_drop_rate": 0.2}, 32).train()
    images, features = torch.rand(1, 3, 32, 32).expand(4, 3, 32, 32), {}
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for step, rank in itertools.product((0, 1, 2), (0, 1)):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            for _ in range(2):
                seed_dropout(0, step)
                h = encoder(images)
                assert torch.equal(features.setdefault((step, rank), h), h)
    rows = torch.cat([*features.values()])
    assert len(rows.unique(dim=0)) == len(rows) == 24


def test_features_of_a_network_in_training_are_those_without_dropout() -> None:
    """As the monitor's kNN takes them, between two steps."""
    images, law = open_images(Data(), TRAIN).first(8), simclr_law(32)
    encoder = ForeignEncoder("timm:test_convnext", {"drop_path_rate": 0.5, "drop_rate": 0.5}, 32).train()
    for block in encoder.modules():
        if hasattr(block, "gamma"):
            nn.init.ones_(block.gamma)  # branches of a new network are small beside their shortcut
    taken = [features_of(encoder, images, law, device=torch.device("cpu"))[0] for _ in range(2)]
    assert torch.equal(*taken) and encoder.training
    x = torch.rand(8, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(encoder(x), encoder(x))


def test_what_is_dropped_differs_from_step_to_step_and_with_the_seed(tmp_path: Path) -> None:
    """Without a rate nothing is learnt: losses of the same images differ by what is dropped alone."""
    images = ["encoder.name=timm:test_vit", "data.limit=32", "training.epochs=3", "optimizer.learning_rate=1e-30"]
    still = ["augmentation.min_scale=1", "augmentation.jitter_prob=0", "augmentation.flip_prob=0"]
    losses = {}
    for name, options in (("kept", []), ("dropped", [DROPPING])):
        run = run_of(tmp_path, name, *images, *still, *options, "monitor.log_every_steps=1")
        train(run, quiet=True)
        losses[name] = [line["loss"] for line in run.metrics()]
    assert len({round(loss, 4) for loss in losses["kept"]}) == 1
    assert len({round(loss, 4) for loss in losses["dropped"]}) == len(losses["dropped"]) >= 3


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_vit"])
def test_checkpointing_changes_no_gradient_and_no_running_statistic(name: str) -> None:
    outcomes = []
    for on in (False, True):
        torch.manual_seed(0)
        encoder = convert_global_batch_norm(ForeignEncoder(f"timm:{name}", image_size=32)).double().train()
        assert isinstance(encoder, ForeignEncoder)
        encoder.checkpoint_activations = on
        for _ in range(3):
            images = torch.rand(4, 3, 32, 32, dtype=torch.float64)
            h = encoder(images)
            with encoder.during_backward():
                (h**2).sum().backward()
        gradients = {key: p.grad for key, p in encoder.named_parameters() if p.grad is not None}
        outcomes.append(gradients | dict(encoder.named_buffers()))
    plain, again = outcomes
    assert plain.keys() == again.keys()
    for key, value in plain.items():
        torch.testing.assert_close(again[key], value, rtol=1e-9, atol=1e-9, msg=key)
    has_norms = any(isinstance(module, GlobalBatchNorm) for module in encoder.modules())
    assert has_norms == (name != "test_vit")
    if has_norms:
        counts = [buffer for key, buffer in again.items() if key.endswith("num_batches_tracked")]
        assert counts and all(int(count) == 3 for count in counts)


def test_a_frozen_patch_embedding_keeps_its_bytes_while_the_rest_learns(tmp_path: Path) -> None:
    changes = ["encoder.name=timm:test_vit", "optimizer.name=adamw", "optimizer.learning_rate=0.01"]
    held = "encoder.freeze_patch_embedding=true"
    runs = [run_of(tmp_path, "frozen", *changes, held), run_of(tmp_path, "free", *changes)]
    for run in runs:
        train(run, quiet=True)
    recipe = runs[0].recipe()
    began = {f"encoder.{key}": value for key, value in build_encoder(recipe).state_dict().items()}
    frozen, free = (last_weights(run) for run in runs)
    patches = [key for key in began if "patch_embed" in key]
    assert patches and all(torch.equal(frozen[key], began[key]) for key in patches)
    assert not any(torch.equal(free[key], began[key]) for key in patches)
    kernel = "encoder.network.blocks.0.attn.qkv.weight"
    assert not torch.equal(frozen[kernel], began[kernel])


def test_a_network_without_batch_norm_has_nothing_converted() -> None:
    encoder = ForeignEncoder("timm:test_convnext", image_size=32)
    kinds = [type(module) for module in encoder.modules()]
    convert_global_batch_norm(encoder)
    assert [type(module) for module in encoder.modules()] == kinds and nn.LayerNorm in {
        base for kind in kinds for base in kind.__mro__
    }
