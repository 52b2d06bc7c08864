"""The exact views as a transform for Lightly: `LightlyDataset(folder, transform=SimCLRTransform())`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simclr_plus.augmentations.draws import draw_views
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.augmentations.views import ViewMaker, compile_views


class SimCLRTransform:
    """An image -> two views, float32 [3, input_size, input_size] in [0, 1], as the authors' code makes them.

    Takes a PIL image, a uint8 array [H, W, 3] or a uint8 tensor [3, H, W]. Arguments are those of Lightly's
    SimCLRTransform, in its order; `normalize` is None because the authors subtract no mean, and `vf_prob` and `rr_prob`
    (with any `rr_degrees`) are 0. `brightness_law` and `resize` choose between the authors' two versions. Randomness
    comes from torch's generator: `torch.manual_seed` and DataLoader worker seeds rule it, so that another number of
    workers draws other views; `views_of` depends on no generator.
    Making one compiles what it needs, before workers start. Raises ValueError for values outside the law.
    """

    # eighteen parameters, named and ordered as Lightly's: this transform stands in its place
    def __init__(
        self,
        input_size: int = 224,
        cj_prob: float = 0.8,
        cj_strength: float = 1.0,
        cj_bright: float = 0.8,
        cj_contrast: float = 0.8,
        cj_sat: float = 0.8,
        cj_hue: float = 0.2,
        min_scale: float = 0.08,
        random_gray_scale: float = 0.2,
        gaussian_blur: float = 0.5,
        sigmas: tuple[float, float] = (0.1, 2.0),
        vf_prob: float = 0.0,
        hf_prob: float = 0.5,
        rr_prob: float = 0.0,
        rr_degrees: float | tuple[float, float] | None = None,
        normalize: dict[str, list[float]] | None = None,
        *,
        brightness_law: str = "multiplicative",
        resize: str = "bicubic",
    ) -> None:
        for name, probability, operation in (("vf_prob", vf_prob, "flip upside down"), ("rr_prob", rr_prob, "rotate")):
            if probability != 0:
                raise ValueError(
                    f"{name} = {probability}: SimCLR's views do not {operation}; leave it out or give 0, or do it to "
                    "the images before, or take lightly.transforms.SimCLRTransform"
                )
        self.law = ViewLaw(
            size=_side(input_size),
            min_scale=min_scale,
            resize=resize,
            flip_prob=hf_prob,
            jitter_prob=cj_prob,
            brightness=cj_bright * cj_strength,
            contrast=cj_contrast * cj_strength,
            saturation=cj_sat * cj_strength,
            hue=cj_hue * cj_strength,
            brightness_law=brightness_law,
            gray_prob=random_gray_scale,
            blur_prob=gaussian_blur,
            sigmas=sigmas,
        )
        self.normalize = normalize
        self._maker: ViewMaker | None = None
        compile_views(self.law, say=_to_stderr)

    def __call__(self, image: Any) -> list[Tensor]:
        """One image -> [view 0, view 1]."""
        key, index = (int(word) for word in torch.randint(0, 2**31, (2,)))
        return self.views_of(image, seed=key, epoch=0, index=index)

    def views_of(self, image: Any, *, seed: int, epoch: int, index: int) -> list[Tensor]:
        """[view 0, view 1] of image number `index` of a data set: those that a run with this seed draws in this epoch.

        For a Dataset's __getitem__(index): the same views whatever the number of workers and however they start.
        """
        pixels = _pixels(image)
        parameters = draw_views(seed, epoch, index, heights=pixels.shape[0], widths=pixels.shape[1], law=self.law)
        views = np.empty((2, 1, 3, self.law.size, self.law.size), dtype=np.float32)
        if self._maker is None:
            self._maker = ViewMaker(self.law)
        self._maker.fill(pixels, parameters[0], views, 0)
        both = torch.from_numpy(views[:, 0])
        if self.normalize:
            mean, std = (torch.tensor(self.normalize[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
            both = (both - mean) / std
        return list(both)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maker": None}  # buffers belong to one process


def _to_stderr(text: str) -> None:
    print(f"simclr_plus: {text}", file=sys.stderr, flush=True)


def _side(input_size: Any) -> int:
    """A pair of equal sides is one side."""
    sides = tuple(input_size) if isinstance(input_size, tuple | list) else (input_size,)
    if len(set(sides)) != 1 or int(sides[0]) != sides[0]:
        raise ValueError(f"input_size = {input_size}: views are square; give one whole number of pixels")
    return int(sides[0])


def _pixels(image: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if isinstance(image, Tensor) and image.ndim == 3:
        image = image.permute(1, 2, 0).numpy()
    elif not isinstance(image, np.ndarray | Tensor):
        if image.mode.startswith(("I", "F")):  # Pillow would cut its values off at 255
            raise ValueError(
                f"SimCLRTransform takes images of 8 bits, got a PIL image of mode {image.mode}; bring its values to 0 "
                "to 255 first, as simclr_plus.datasets.images.decode_image does of a file's bytes"
            )
        image = np.asarray(image.convert("RGB"))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"SimCLRTransform takes a PIL image, a uint8 array [H, W, 3] or a uint8 tensor [3, H, W], got "
            f"{image.dtype} of shape {image.shape}"
        )
    return np.ascontiguousarray(image)
