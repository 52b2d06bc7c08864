"""What is evaluated: an encoder, and for comparison raw pixels and the same network with random weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.encoders import ResNet

RANDOM_SEED = 0


@dataclass(frozen=True)
class Subject:
    """A name, a frozen module [B, 3, S, S] -> [B, F], and how images are shown to it."""

    name: str
    encoder: nn.Module
    law: ViewLaw


class RawPixels(nn.Module):
    """The pixels themselves as features."""

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, 3 S S]."""
        return images.flatten(1)


def subjects(encoder: ResNet, law: ViewLaw, *, baselines: bool, native_size: int = 0) -> list[Subject]:
    """The encoder and, on request, the two baselines that show what training added.

    Raw pixels are those of the images as they are where all have one size, else those that the encoder sees.
    """
    found = [Subject("encoder", encoder, law)]
    if baselines:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            random = ResNet(**encoder.architecture.as_dict()).eval()
        pixel_law = replace(law, size=native_size, evaluation_crop=1.0) if native_size else law
        found += [Subject("raw pixels", RawPixels(), pixel_law), Subject("random encoder", random, law)]
    return found
