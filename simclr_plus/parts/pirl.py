"""PIRL: an image's memory is told from its whole view and from its shuffled patches (Misra, van der Maaten, CVPR 2020).

B: images of this process, n: of the data set, M: patches of an image, p: their side, F: dimensions of h, D: of u and v.
The law is that of facebookresearch/vissl at 09270ed and HobbitLong/PyContrast at 84f94ea, which agree but where a line
says so. Patches are cut by `patches.random_patches` with `patch_grid.proportional_grid`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from simclr_plus.augmentations.draws import FLIP, draw_views
from simclr_plus.augmentations.finishing import finish_in_parts
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.augmentations.streams import Stream, permutations, words
from simclr_plus.parts.instdist import InstDistLoss
from simclr_plus.parts.memory_bank import unit

OBJECTIVES = {"infonce": "softmax", "nce": "nce"}
_EPSILON = float(torch.finfo(torch.float32).eps)  # in the divisors of nce, as VISSL's losses/nce_loss.py


def drawn_orders(seed: int, indices: Tensor, epochs: Tensor, patches: int = 9) -> Tensor:
    """[B, M]: for each image one of all M! orders, all as likely; a function of seed, image and epoch. On the CPU."""
    return permutations(seed, Stream.PERMUTATIONS, indices, epochs, patches)


def distorted_patches(patches: Tensor, law: ViewLaw, *, seed: int, indices: Tensor, epochs: Tensor) -> Tensor:
    """Patches [B, M, 3, p, p], each flipped, with its colors changed and blurred by itself as the law says (VISSL).

    Draws are functions of seed, image, epoch and patch; indices and epochs [B] are on the CPU.
    """
    images, count, _, _, side = patches.shape
    law = replace(law, size=side, operations=(), blur_sigma_group=0)
    low, high = words(seed, Stream.PATCH_OPERATIONS, 0, 0, 2)[0].tolist()
    key, of_image = low + (high << 32), (epochs.numpy(), indices.numpy())
    drawn = draw_views(key, *of_image, heights=side, widths=side, law=law, views=count)
    parameters = torch.from_numpy(drawn).flatten(0, 1).to(patches.device, non_blocking=True)
    rows = patches.flatten(0, 1)
    rows = torch.where((parameters[:, FLIP] > 0).view(-1, 1, 1, 1), rows.flip(3), rows)
    return finish_in_parts(rows, parameters, law).to(patches.dtype).view(images, count, *rows.shape[1:])


class PIRLHead(nn.Module):
    """Of whole images: Linear(F, D) with bias, or with mlp=True Linear(F, F), ReLU, Linear(F, D); then unit length."""

    def __init__(self, input_dim: int = 2048, output_dim: int = 128, mlp: bool = False) -> None:
        super().__init__()
        self.first = _first(input_dim, output_dim, mlp)

    def forward(self, h: Tensor) -> Tensor:
        """h [B, F] -> u [B, D] in float32 (or float64)."""
        return unit(self.first(h))


class PIRLPatchHead(nn.Module):
    """Of patches: a layer as PIRLHead's for each, all M in the drawn order side by side, Linear(M D, D), unit length.

    VISSL's form with mlp has a ReLU more after the first layers; ours is PyContrast's.
    """

    def __init__(self, input_dim: int = 2048, output_dim: int = 128, patches: int = 9, mlp: bool = False) -> None:
        super().__init__()
        self.first = _first(input_dim, output_dim, mlp)
        self.together = nn.Linear(patches * output_dim, output_dim)

    def forward(self, h: Tensor, orders: Tensor) -> Tensor:
        """h [B M, F], image by image; orders [B, M]: which patch comes at each place -> v [B, D]."""
        each = self.first(h).unflatten(0, orders.shape)
        shuffled = each.gather(1, orders[:, :, None].expand_as(each))
        return unit(self.together(shuffled.flatten(1)))


def _first(input_dim: int, output_dim: int, mlp: bool) -> nn.Module:
    last = nn.Linear(input_dim, output_dim)
    return nn.Sequential(nn.Linear(input_dim, input_dim), nn.ReLU(), last) if mlp else last


class PIRLTerms(NamedTuple):
    """The loss, and the shares of images and of shuffled patches that are nearest to their own row of the memory."""

    loss: Tensor
    images_found: Tensor
    patches_found: Tensor | None


class PIRLLoss(nn.Module):
    """weight times the loss of v plus (1 - weight) times that of u, against a memory of n images that follows u alone.

    objective: "infonce", the cross entropy of the own row among it and K others (0: among all n), or "nce", whose
    constant is that of the patches' scores in the first step. negatives: K, at the most n. weight = 0 is InstDist.
    Raises ValueError for an objective of another name or a weight outside [0, 1].
    """

    def __init__(
        self,
        images: int,
        dim: int = 128,
        *,
        weight: float = 0.5,
        objective: str = "infonce",
        negatives: int = 32000,
        temperature: float = 0.07,
        momentum: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if objective not in OBJECTIVES or not 0 <= weight <= 1:
            raise ValueError(f"objective = {objective!r}, weight = {weight}: use one of {(*OBJECTIVES,)}, and 0 to 1")
        self.weight = weight
        self.memory = InstDistLoss(
            images,
            dim,
            loss=OBJECTIVES[objective],
            negatives=min(negatives, images or negatives),
            temperature=temperature,
            momentum=momentum,
            seed=seed,
            epsilon=_EPSILON,
        )

    def forward(self, u: Tensor, v: Tensor | None, indices: Tensor, step: int) -> Tensor:
        """The mean over unit rows u, v [B, D] of images [B] and of their patches; v may be None where weight is 0."""
        return self.compare(u, v, self.candidates(indices, step)).loss

    def candidates(self, indices: Tensor, step: int) -> Tensor:
        """[B, 1 + K], each image and its negatives, the same for u and v; [B] where all n are compared."""
        return self.memory.candidates(indices, step)

    def compare(self, u: Tensor, v: Tensor | None, candidates: Tensor, of_patches: Tensor | None = None) -> PIRLTerms:
        """Against the rows as they are; of_patches: candidates for v alone (VISSL draws anew)."""
        if not self.weight:
            return PIRLTerms(*self.memory.compare(u, candidates), None)
        if v is None:
            raise ValueError(f"weight = {self.weight}, but there is no v: give the patches' embedding, or weight=0")
        patches = self.memory.compare(v, candidates if of_patches is None else of_patches)
        image = self.memory.compare(u, candidates)
        loss = self.weight * patches.loss + (1 - self.weight) * image.loss
        return PIRLTerms(loss, image.nearest, patches.nearest)

    def update(self, indices: Tensor, u: Tensor, *, equal_rows: bool = False) -> None:
        """Take a batch into the memory: u, never v, after the loss, on all processes together, only in training."""
        self.memory.update(indices, u, equal_rows=equal_rows)
