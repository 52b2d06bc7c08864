"""What is kept under an encoder's name is never given to another: one digest for features, cells, states, results."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from simclr_plus.augmentations.law import simclr_law
from simclr_plus.datasets import Images
from simclr_plus.datasets.transfer_sets import LabelledSet
from simclr_plus.encoders import ResNet
from simclr_plus.encoders.digest import encoder_digest
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.evaluators.fine_tuning import Protocol, evaluate_grid
from simclr_plus.evaluators.subjects import Subject
from simclr_plus.features.cache import cached_features
from simclr_plus.recipe import load_recipe
from simclr_plus.training.model import build_model
from simclr_plus.weights.checkpoints import save_checkpoint
from simclr_plus.weights.encoder_files import load_encoder, save_encoder

CPU = torch.device("cpu")
LAW = simclr_law(16, blur_prob=0.0)


def network(**changes: object) -> ResNet:
    """Equal weights, whatever is changed of the rest."""
    torch.manual_seed(0)
    encoder = ResNet(18, 0.125, **{"stem": "cifar", **changes}).eval()  # type: ignore[arg-type]
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # those at 0 would hide what comes before them
    return encoder


def images(count: int = 12) -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return Images("drawn", pixels, labels=np.arange(count) % 2, classes=("a", "b"))


CHANGES: list[dict[str, object]] = [{"mean": (0.4, 0.5, 0.6)}, {"std": (0.2, 0.2, 0.3)}, {"stem": "cifar_no_relu"}]


@pytest.mark.parametrize("changes", CHANGES)
def test_features_kept_of_one_form_are_not_given_to_another_of_the_same_weights(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    one, other = network(), network(**changes)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    cached_features(one, images(), LAW, tmp_path, device=CPU)
    found, _ = cached_features(other, images(), LAW, tmp_path, device=CPU)
    alone, _ = cached_features(other, images(), LAW, None, device=CPU)
    first, _ = cached_features(one, images(), LAW, None, device=CPU)
    assert torch.equal(found, alone) and not torch.equal(found, first)


def test_a_cell_trained_with_one_normalisation_is_not_taken_for_another(tmp_path: Path) -> None:
    data = LabelledSet("drawn", images(), images(6), images(8))
    cells = [Protocol("nesterov", 0.01, "none", 6, steps=1)]
    for encoder in (network(), network(mean=(0.4, 0.5, 0.6)), network(stem="cifar_no_relu")):
        evaluate_grid(Subject("encoder", encoder, LAW), data, cells, tmp_path, device=CPU)
    assert len([file for file in tmp_path.glob("*.json") if json.loads(file.read_text())]) == 3


def test_foreign_networks_differ_by_strides_and_by_what_is_subtracted() -> None:
    def foreign(stride: int = 32, mean: float = 0.0) -> nn.Module:
        torch.manual_seed(0)
        return ForeignEncoder("timm:test_resnet", {"output_stride": stride}, 32, mean=(mean,) * 3)

    digests = {encoder_digest(module) for module in (foreign(), foreign(stride=16), foreign(mean=0.5))}
    assert len(digests) == 3 and encoder_digest(foreign()) in digests


def test_an_encoder_has_one_digest_in_a_checkpoint_and_in_a_file(tmp_path: Path, tiny: list[str]) -> None:
    recipe = load_recipe("demo", tiny)
    model = build_model(recipe, 10)
    file, encoder = tmp_path / "step_1.safetensors", tmp_path / "e.safetensors"
    save_checkpoint(file, model, torch.optim.SGD(model.parameters()), step=1, recipe=recipe)
    save_encoder(load_encoder(file), encoder)
    assert encoder_digest(load_encoder(file)) == encoder_digest(load_encoder(encoder))
    again = load_encoder(encoder)
    with torch.no_grad():
        next(again.parameters()).view(-1)[0] += 1e-3
    assert encoder_digest(again) != encoder_digest(load_encoder(encoder))


def test_images_decoded_in_another_way_are_other_images(tmp_path: Path) -> None:
    """Whatever field says how pixels come about, a field of later versions too."""

    @dataclass(frozen=True)
    class Laid(Images):
        background: str = "white"

        def read(self, index: int) -> np.ndarray:
            return np.full((16, 16, 3), 255 if self.background == "white" else 0, np.uint8)

    white = Laid("drawn", paths=(Path("a.png"), Path("b.png")))
    found = [
        cached_features(network(), laid, LAW, tmp_path, device=CPU)[0]
        for laid in (white, replace(white, background="black"))
    ]
    assert not torch.equal(*found)


def test_a_damaged_file_of_features_is_made_anew(tmp_path: Path) -> None:
    first, _ = cached_features(network(), images(), LAW, tmp_path, device=CPU)
    (file,) = tmp_path.glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    again, _ = cached_features(network(), images(), LAW, tmp_path, device=CPU)
    assert torch.equal(first, again) and file.read_bytes() == whole
