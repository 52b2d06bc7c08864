"""Networks of one's own, as `encoder.name = "python:own_networks:FUNCTION"` names them: those that cannot be f too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Plain(nn.Module):
    """A convolution, then the mean over places; `last` makes of [B, width, H, W] what it gives."""

    def __init__(self, width: int = 8, last: Callable[[Tensor], Any] = lambda maps: maps.mean((2, 3))) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.last = last

    def forward(self, images: Tensor) -> Any:
        return self.last(self.conv(images).relu())


class WithAnIdleLayer(Plain):
    """`idle` has no part in h."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(4, 4)


class FindsItsWay(Plain):
    """Goes where the numbers say, which takes numbers."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images if images.mean().item() < 10 else images / 2)


class OfOneSize(nn.Module):
    """Built for images of one side."""

    def __init__(self, image_size: int, width: int = 8) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, 3, image_size, image_size))
        self.plain = Plain(width)

    def forward(self, images: Tensor) -> Any:
        return self.plain(images + self.positions)


def attending(heads: int = 2, learnt_mask: bool = False) -> nn.Module:
    """Tokens that attend to each other by PyTorch's attention."""
    return Attending(heads, learnt_mask)


class Attending(nn.Module):
    """Patches of 4x4 pixels of 16x16, one layer of attention, the mean."""

    def __init__(self, heads: int, learnt_mask: bool) -> None:
        super().__init__()
        self.heads = heads
        self.patch_embed = nn.Conv2d(3, 8, 4, stride=4)
        self.qkv = nn.Linear(8, 24)
        self.mask = nn.Parameter(torch.zeros(1, heads, 16, 16)) if learnt_mask else None

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch_embed(images).flatten(2).mT
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return y.transpose(1, 2).flatten(2).mean(1)


def wide(width: int) -> nn.Module:
    """Of that width."""
    return Plain(width)


def half() -> nn.Module:
    """Features of half precision."""
    return Plain(last=lambda maps: maps.mean((2, 3)).half())


def left_as_a_column() -> nn.Module:
    """[B, 8, 1, 1], as some libraries leave the places that they took the mean over."""
    return Plain(last=lambda maps: maps.mean((2, 3), keepdim=True))


# what cannot be f


def gives_maps() -> nn.Module:
    """[B, 8, H / 2, W / 2]."""
    return Plain(last=lambda maps: maps)


def gives_a_flat_map() -> nn.Module:
    """[B, 8 H W / 4]."""
    return Plain(last=lambda maps: maps.flatten(1))


def gives_a_number() -> nn.Module:
    """[B]."""
    return Plain(last=lambda maps: maps.mean((1, 2, 3)))


def gives_two() -> nn.Module:
    """A tuple."""
    return Plain(last=lambda maps: (maps.mean((2, 3)), maps))


def gives_a_dictionary() -> nn.Module:
    """By name."""
    return Plain(last=lambda maps: {"features": maps.mean((2, 3)), "maps": maps, "more": maps})


def gives_integers() -> nn.Module:
    """The place of the largest number."""
    return Plain(last=lambda maps: maps.flatten(2).argmax(2))


def gives_complex_numbers() -> nn.Module:
    """A spectrum."""
    return Plain(last=lambda maps: torch.fft.fft(maps.mean((2, 3))))


def gives_rows_of_places() -> nn.Module:
    """[B H W / 4, 8]."""
    return Plain(last=lambda maps: maps.permute(0, 2, 3, 1).reshape(-1, 8))


def gives_nothing_to_learn() -> nn.Module:
    """Its features are cut off from its parameters."""
    return Plain(last=lambda maps: maps.mean((2, 3)).detach())


def gives_no_features() -> nn.Module:
    """[B, 0]."""
    return Plain(last=lambda maps: maps.mean((2, 3))[:, :0])


def gives_no_network() -> nn.Module:
    """It says that it gives one."""
    return "resnet50"  # type: ignore[return-value]


CALLED: list[str] = []


def says_nothing():  # type: ignore[no-untyped-def]
    """Without a word on what it returns."""
    CALLED.append("says_nothing")
    return Plain()


def says_a_path() -> str:
    """Returns something else."""
    CALLED.append("says_a_path")
    return "/"
