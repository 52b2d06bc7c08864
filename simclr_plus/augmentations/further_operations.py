"""What the paper's studies do to a view after the ordinary law (Figures 4 and 5, Tables 1, 3 and B.2), by names.

`crop`, `color` and `blur` are the law's own, drawn anew. For the rest the paper publishes neither code nor parameters:
what the constants and functions here say is our choice. Images are float32 [n, 3, S, S] in [0, 1], and so is what
comes out; an image never feels the others of its batch. Nothing is random here: draws are functions of counters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from simclr_plus.augmentations.draws import FLIP, SIGMA, TOP, WIDTH, draw_views, draw_words
from simclr_plus.augmentations.finishing import IMAGES_AT_ONCE, finish_views
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.augmentations.operations import crop_and_resize, gaussian_blur

CUTOUT_FILL = 0.5
SOBEL_LARGEST = 4.0  # of an upright edge from black to white

_OWN = {"jitter_prob": 0.8, "gray_prob": 0.2, "blur_prob": 1.0, "blur_sigma_group": 0}  # whatever the ordinary law has
_KEYS_APART = 2**40  # operation k draws with the key seed + (k + 1) 2**40
_LOW = 0xFFFFFFFF


@dataclass(frozen=True)
class Draws:
    """What one operation drew for each image: a row [n, 16] as a view has (draws.py), and words [n, 8] of 32 bits.

    Word 0 decides whether the operation happens, the others are its own.
    """

    rows: NDArray[np.float32]
    words: NDArray[np.uint32]

    def of(self, images: NDArray[np.intp] | slice) -> Draws:
        """Those of some images."""
        return Draws(self.rows[images], self.words[images])

    def uniform(self, word: int) -> NDArray[np.float32]:
        """[n] in [0, 1), of 24 bits."""
        return (self.words[:, word] >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def apply_operations(
    views: Tensor, law: ViewLaw, *, seed: int, epochs: NDArray[np.int64], indices: NDArray[np.int64]
) -> Tensor:
    """Views [V, B, 3, S, S] of the images `indices` [B] in `epochs` [B] -> the same after law.operations."""
    branches = 1 if law.operations_on == "first" else len(views)
    who = {"seed": seed, "epochs": epochs, "indices": indices, "views": branches}
    drawn = [draws_of(place, law, **who) for place in range(len(law.operations))]  # type: ignore[arg-type]
    images = views[:branches].flatten(0, 1).contiguous()  # a compiled finish may give channels_last
    done = [
        _operated(part, law, [draws.of(slice(i * IMAGES_AT_ONCE, i * IMAGES_AT_ONCE + len(part))) for draws in drawn])
        for i, part in enumerate(images.split(IMAGES_AT_ONCE))  # type: ignore[no-untyped-call]
    ]
    return torch.cat([torch.unflatten(torch.cat(done), 0, (branches, -1)), views[branches:]])


def draws_of(
    place: int, law: ViewLaw, *, seed: int, epochs: NDArray[np.int64], indices: NDArray[np.int64], views: int
) -> Draws:
    """What the operation at a place of law.operations draws for the views of images, all of view 0 first."""
    key, law_of_views = seed + (place + 1) * _KEYS_APART, replace(law, same_crop=False, **_OWN)  # type: ignore[arg-type]
    rows = draw_views(key, epochs, indices, heights=law.size, widths=law.size, law=law_of_views, views=views)
    words = draw_words(key, epochs, indices, views=views)
    return Draws(np.concatenate(rows.swapaxes(0, 1)), np.concatenate(words.swapaxes(0, 1)))


def _operated(images: Tensor, law: ViewLaw, drawn: Sequence[Draws]) -> Tensor:
    """Each operation done to the images that it happens to: the host knows which, so that no device is asked."""
    for name, draws in zip(law.operations, drawn, strict=True):
        operation, happens = STUDY_OPERATIONS[name], draws.uniform(0) < law.operation_prob
        if happens.all():
            images = operation(images, draws, law)
        elif happens.any():
            (at,) = np.nonzero(happens)
            where = torch.from_numpy(at).to(images.device)
            images = images.index_copy(0, where, operation(images[where], draws.of(at), law))
    return images


def crop(images: Tensor, draws: Draws, law: ViewLaw) -> Tensor:
    """Crop, resize and flip of the view, by the ordinary law."""
    rows = _beside(images, draws.rows)
    crops = crop_and_resize(images, rows[:, TOP : WIDTH + 1], law.size, law.resize)
    return torch.where((rows[:, FLIP] > 0).view(-1, 1, 1, 1), crops.flip(3), crops).clamp(0, 1)


def color(images: Tensor, draws: Draws, law: ViewLaw) -> Tensor:
    """The paper's colour distortion: jitter with 0.8 at the law's strength, gray with 0.2 (Appendix A)."""
    distorting = replace(law, jitter_prob=_OWN["jitter_prob"], gray_prob=_OWN["gray_prob"], blur_prob=0.0)
    return finish_views(images, _beside(images, draws.rows), distorting)


def blur(images: Tensor, draws: Draws, law: ViewLaw) -> Tensor:
    """The paper's Gaussian blur, always: sigma of each image uniform in 0.1 to 2 pixels (Appendix A)."""
    return gaussian_blur(images, _beside(images, draws.rows[:, SIGMA]), law.blur_kernel_size).clamp(0, 1)


def cutout(images: Tensor, draws: Draws, law: ViewLaw) -> Tensor:
    """A gray square; its centre is any pixel, so that a part of it may fall outside.

    By default half of the view's side: 16 of 32 pixels, as DeVries & Taylor (2017) cut CIFAR-10.
    """
    size = images.shape[3]
    side = int(size * law.cutout_side)
    pixels = torch.arange(size, device=images.device)

    def within(word: int) -> Tensor:
        start = _beside(images, (draws.uniform(word) * size).astype(np.int64) - side // 2)[:, None]
        return (pixels >= start) & (pixels < start + side)

    return images.masked_fill((within(1)[:, :, None] & within(2)[:, None, :])[:, None], CUTOUT_FILL)


def rotate(images: Tensor, draws: Draws, law: ViewLaw) -> Tensor:
    """0, 90, 180 or 270 degrees, each as likely."""
    quarters = _beside(images, (draws.uniform(1) * 4).astype(np.int64))
    turned = torch.stack([images.rot90(quarter, (2, 3)) for quarter in range(4)])
    return turned[quarters, torch.arange(len(images), device=images.device)]


def sobel(images: Tensor, draws: Draws, law: ViewLaw) -> Tensor:
    """The edges of the image in place of the image."""
    return edges(images)


def edges(images: Tensor) -> Tensor:
    """Length of each channel's Sobel gradient, cut at 1, which an upright edge from black to white gives; borders
    mirrored."""
    x = F.pad(images, (1, 1, 1, 1), mode="reflect")
    right, down = x[..., 2:] - x[..., :-2], x[..., 2:, :] - x[..., :-2, :]
    right = right[..., :-2, :] + 2 * right[..., 1:-1, :] + right[..., 2:, :]
    down = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return ((right.square() + down.square()).sqrt() / SOBEL_LARGEST).clamp(0, 1)


def noise(images: Tensor, draws: Draws, law: ViewLaw) -> Tensor:
    """Gaussian noise, each number of each image its own, cut to [0, 1]."""
    keys = _beside(images, draws.words[:, 1:3].astype(np.int64))
    return (images + law.noise_deviation * standard_normal(keys, images[0].numel()).view_as(images)).clamp(0, 1)


def solarize(images: Tensor, draws: Draws, law: ViewLaw) -> Tensor:
    """Values from the law's threshold on are inverted."""
    return torch.where(images < law.solarize_from, images, 1 - images)


def motion_blur(images: Tensor, draws: Draws, law: ViewLaw) -> Tensor:
    """The mean along a straight line through the pixel, as many points as the paper's blur has taps, but 3 or more.

    Any direction is as likely. Points lie a pixel apart and are interpolated; borders are repeated.
    """
    radius = max(1, law.blur_radius)
    count, size = len(images), images.shape[3]
    steps = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    angles = _beside(images, math.pi * draws.uniform(1))
    x, y = (
        (1 - (steps - (steps * along[:, None])[:, :, None]).abs()).clamp(min=0)
        for along in (angles.cos(), angles.sin())
    )  # [n, points, columns] and [n, points, rows]: how much of a point lies in them
    kernels = (y.transpose(1, 2) @ x / len(steps)).repeat_interleave(3, dim=0)[:, None]
    wide = F.pad(images, (radius,) * 4, mode="replicate").reshape(1, 3 * count, size + 2 * radius, -1)
    return F.conv2d(wide, kernels, groups=3 * count).reshape(images.shape).clamp(0, 1)


def equalize(images: Tensor, draws: Draws, law: ViewLaw) -> Tensor:
    """Each channel's histogram of 256 levels made flat, as torchvision and PIL do."""
    from torchvision.transforms.v2.functional import equalize as flat  # a second's import that few need

    return _from_bytes(flat(_bytes(images)))


def autoaugment(images: Tensor, draws: Draws, law: ViewLaw) -> Tensor:
    """AutoAugment's ImageNet policy, each image's own, on 256 levels as torchvision does it (Table 1)."""
    from simclr_plus.augmentations.auto_augment import auto_augment  # imports torchvision: a second

    return _from_bytes(auto_augment(_bytes(images), draws.words[:, 1:6]))


def standard_normal(keys: Tensor, count: int) -> Tensor:
    """Keys [n, 2], two 32-bit words each -> [n, count] by Box and Muller, of integers that are equal on every device.

    Integers stay below 2**63: one that overflows is undefined in C++.
    """
    at = torch.arange(count, device=keys.device)
    first = _mixed(_mixed(at ^ keys[:, :1]) ^ keys[:, 1:])
    second = _mixed((first + 0x9E3779B9) & _LOW)
    radius = (-2 * (((first >> 8) + 1).float() * 2.0**-24).log()).sqrt()
    return radius * ((second >> 8).float() * (2 * math.pi * 2.0**-24)).cos()


def _mixed(words: Tensor) -> Tensor:
    """32 bits that look like any others: C. Wellons' hash prospector, shifts and odd factors below 2**31."""
    words = ((words ^ (words >> 16)) * 0x21F0AAAD) & _LOW
    words = ((words ^ (words >> 15)) * 0x735A2D97) & _LOW
    return words ^ (words >> 15)


def _beside(images: Tensor, drawn: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(drawn)).to(images.device)


def _bytes(images: Tensor) -> Tensor:
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def _from_bytes(images: Tensor) -> Tensor:
    return images.float() / 255


STUDY_OPERATIONS: dict[str, Callable[[Tensor, Draws, ViewLaw], Tensor]] = {
    "crop": crop,
    "cutout": cutout,
    "color": color,
    "sobel": sobel,
    "noise": noise,
    "blur": blur,
    "rotate": rotate,
    "equalize": equalize,
    "solarize": solarize,
    "motion_blur": motion_blur,
    "autoaugment": autoaugment,
}
