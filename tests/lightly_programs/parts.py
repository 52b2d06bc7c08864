"""A SimCLR of Lightly's and torchvision's parts, as a user of Lightly has it; ours can take the place of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision
from lightly.data import LightlyDataset, MultiViewCollate
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

import simclr_plus
from simclr_plus.lars import parameter_groups

PARTS = ("transform", "head", "loss", "lars", "global_batch_norm")
SWAPPED = {"none": (), **{part: (part,) for part in PARTS}, "all": PARTS}
BATCH, IMAGES, RATE, LARS_RATE = 32, 128, 0.06, 5.0


def write_images(folder: Path) -> None:
    """Real images as a folder of classes: the first of Fashion-MNIST."""
    from simclr_plus.datasets import TRAIN, open_images
    from simclr_plus.recipe.keys import Data

    images = open_images(Data(name="embedded"), TRAIN)
    assert images.labels is not None
    for i in range(IMAGES):
        path = folder / str(images.labels[i]) / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.read(i)).save(path)


def loader(folder: Path, swapped: tuple[str, ...], batch_size: int, workers: int = 0) -> DataLoader[Any]:
    make = simclr_plus.SimCLRTransform if "transform" in swapped else SimCLRTransform
    dataset = LightlyDataset(str(folder), transform=make(input_size=32, gaussian_blur=0.0))
    return DataLoader(
        dataset, batch_size, drop_last=True, collate_fn=MultiViewCollate(), num_workers=workers, shuffle=True
    )


class SimCLR(nn.Module):
    """backbone and projection_head, under Lightly's names."""

    def __init__(self, swapped: tuple[str, ...]) -> None:
        super().__init__()
        resnet = torchvision.models.resnet18()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.projection_head: nn.Module = SimCLRProjectionHead(512, 512, 128)
        if "head" in swapped:
            theirs = self.projection_head.state_dict()
            self.projection_head = simclr_plus.SimCLRProjectionHead(512, 512, 128)
            fitted = self.projection_head.load_state_dict(theirs, strict=False)
            assert not fitted.missing_keys and fitted.unexpected_keys == ["layers.4.bias"], fitted
        if "global_batch_norm" in swapped:
            simclr_plus.convert_global_batch_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x).flatten(start_dim=1))


def criterion(swapped: tuple[str, ...], gather: bool) -> nn.Module:
    make = simclr_plus.NTXentLoss if "loss" in swapped else NTXentLoss
    return make(temperature=0.5, gather_distributed=gather)


def optimizer(model: nn.Module, swapped: tuple[str, ...]) -> torch.optim.Optimizer:
    if "lars" in swapped:
        return simclr_plus.LARS(parameter_groups(model, 1e-6), lr=LARS_RATE, momentum=0.9)
    return torch.optim.SGD(model.parameters(), lr=RATE)


def kept(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the stem, of the first block and of the head: enough to tell what was trained."""
    prefixes = ("backbone.0.", "backbone.1.", "backbone.4.0.", "projection_head.")
    return {k: v.detach().clone() for k, v in model.state_dict().items() if k.startswith(prefixes)}
