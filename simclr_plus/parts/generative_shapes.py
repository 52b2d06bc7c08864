"""Sides, widths and sizes of the decoder and of BiGAN's discriminators, as numbers. No torch.

D: dimensions of the code z, S: side of the pictures that are made, k: how often a side doubles, c: width.
"""

from __future__ import annotations

from itertools import pairwise

LARGEST = 64  # side that is made of larger views, unless a recipe says another
SMALLEST = 8


def picture_side(image_size: int, view_size: int) -> int:
    """S: `image_size`, or where that is 0 the side of a view, at most 64."""
    return image_size or min(view_size, LARGEST)


def side_problem(image_size: int, view_size: int) -> str:
    """Why pictures of that side cannot be made of such views, with the remedy; "" where they can."""
    if image_size == 0 or SMALLEST <= image_size <= view_size:
        return ""
    return (
        f"method.image_size = {image_size} is no side of pictures that are made of views of {view_size} pixels "
        f"(augmentation.image_size); use {SMALLEST} to {view_size}, or 0 for the views' own, at most {LARGEST}"
    )


def doublings(side: int) -> tuple[int, int]:
    """k, and the side that doubles k times until it reaches S: 28 = 4 * 7, 64 = 16 * 4; 33 is cut from 8 * 5."""
    k = (side // 4).bit_length() - 1
    return k, -(-side // 2**k)


def widths(side: int, width: int) -> list[int]:
    """Of the k maps that a discriminator goes through: c, 2c, 4c, 8c, 8c, ...; a decoder goes the other way."""
    return [width << min(j, 3) for j in range(doublings(side)[0])]


def hidden_width(width: int) -> int:
    """Of the spectral discriminator's linear layers: 1024 where c is 64."""
    return 16 * width


def decoder_parameters(input_dim: int, side: int, width: int, channels: int) -> int:
    """Trained numbers of a `Decoder`."""
    first_side, maps = doublings(side)[1], widths(side, width)[::-1]
    count = (input_dim + 2) * maps[0] * first_side**2
    for a, b in pairwise(maps):
        count += 25 * a * b + 2 * b
    return count + (25 * maps[-1] + 1) * channels


def joint_parameters(latent_dim: int, side: int, width: int, channels: int) -> int:
    """Trained numbers of a `JointDiscriminator`."""
    last_side, maps = doublings(side)[1], widths(side, width)
    count = (25 * channels + 1) * maps[0]
    for a, b in pairwise(maps):
        count += (25 * a + 2 + latent_dim) * b
    return count + maps[-1] * last_side**2


def spectral_parameters(latent_dim: int, side: int, width: int, channels: int, *, unary: bool) -> int:
    """Trained numbers of a `SpectralDiscriminator`."""
    maps, hidden = widths(side, width), hidden_width(width)
    last_side = side >> len(maps)
    count = 0
    for a, b in zip([channels, *maps], maps, strict=False):
        count += (9 * a + 1) * b + (16 * b + 1) * b
    count += (maps[-1] * last_side**2 + 1) * hidden  # of x
    count += (latent_dim + 1) * hidden + (hidden + 1) * hidden  # of z
    count += (2 * hidden + 1) * hidden + (hidden + 1) * hidden + hidden + 1  # of both
    return count + (2 * (hidden + 1) if unary else 0)
