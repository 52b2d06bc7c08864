"""What is evaluated: h or z = g(h) of an encoder; to compare, raw pixels and the same network with random weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.encoders.build import build
from simclr_plus.encoders.digest import encoder_digest
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.heads import SimCLRProjectionHead

RANDOM_SEED = 0
PIXELS_SIDE = 32  # 3,072 numbers an image; at 224 pixels there would be 150,528, which no classifier here can take


@dataclass(frozen=True)
class Subject:
    """A name, a frozen module [B, 3, S, S] -> [B, F], and how images are shown to it."""

    name: str
    encoder: nn.Module
    law: ViewLaw

    @cached_property
    def digest(self) -> str:
        """Which network this is; read once, which takes seconds for a wide one."""
        return encoder_digest(self.encoder)


class RawPixels(nn.Module):
    """The pixels themselves as features, of larger images means over areas: `side` x `side` of them at most."""

    def __init__(self, side: int = PIXELS_SIDE) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, 3 s s], s = min(S, side)."""
        small = images if images.shape[-1] <= self.side else F.interpolate(images, size=self.side, mode="area")
        return small.flatten(1)


class Projected(nn.Module):
    """Images -> z = g(h): an encoder, then its projection head."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, D]."""
        z: Tensor = self.head(self.encoder(images).flatten(1))
        return z


def projected(subject: Subject, head: SimCLRProjectionHead) -> Subject:
    """The same images and encoder, but what is evaluated is z = g(h) (paper, 4.2: Figure 8, Table 3)."""
    return replace(subject, name=f"{subject.name}, z", encoder=Projected(subject.encoder, head).eval())


def subjects(
    encoder: Encoder, law: ViewLaw, *, baselines: bool, native_size: int = 0, pixels_side: int = PIXELS_SIDE
) -> list[Subject]:
    """The encoder and, on request, the two baselines that show what training added.

    Raw pixels are those of the images as they are where all have one size, else those that the encoder sees; of more
    than pixels_side a side (0: any) they are averaged, and their name says so.
    """
    listed = [Subject("encoder", encoder, law)]
    if baselines:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            random = build(encoder.spec).eval()
        pixel_law = replace(law, size=native_size, evaluation_crop=1.0) if native_size else law
        side = min(pixels_side or pixel_law.size, pixel_law.size)
        averaged = f", {side}x{side}" if side < pixel_law.size else ""
        pixels = Subject(f"raw pixels{averaged}", RawPixels(side), pixel_law)
        listed += [pixels, Subject("random encoder", random, law)]
    return listed
