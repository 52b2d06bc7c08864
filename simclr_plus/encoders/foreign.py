"""Networks of timm, of torchvision and of one's own as an encoder f: what SimCLR+ asks of any, asked of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from simclr_plus.encoders.encoder import Encoder
from simclr_plus.encoders.foreign_architecture import ForeignArchitecture
from simclr_plus.encoders.input_law import InputLaw
from simclr_plus.encoders.libraries import library_of
from simclr_plus.encoders.measuring import first_line, is_patch_embedding, maps_of, pooled
from simclr_plus.encoders.undecayed import tokens_and_scales
from simclr_plus.errors import RecipeError
from simclr_plus.global_batch_norm import running_statistics_held


class ForeignEncoder(Encoder):
    """Images [B, 3, H, W] in [0, 1] -> h [B, feature_dim]; `network` is the library's own, with its names.

    name: "timm:NAME", "torchvision:NAME" or "python:package.module:function". options: of the function that builds it.
    image_size: side of the images that it is built for. mean, std: of the images that its weights were trained on.
    input: "rgb", "standardized" or "lightness", as of a ResNet.

    Raises RecipeError or NotFoundError, in a sentence, for a network that there is not or that cannot be f; ValueError
    for a name, options or a normalisation that say nothing.
    """

    architecture: ForeignArchitecture

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any] | None = None,
        image_size: int = 224,
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        input: str = "rgb",
    ) -> None:
        super().__init__()
        self.architecture = ForeignArchitecture(name, options or {}, image_size, tuple(mean), tuple(std), input)
        self.feature_dim = self.architecture.feature_dim
        self.library, rest = library_of(name)
        self.fixed_size = self.architecture.figures.fixed_size
        self.normalize = InputLaw(self.architecture) if self.architecture.normalizes else nn.Identity()
        self.network = self.library.create(rest, self.architecture.options, image_size)
        self._checkpoints = False
        unused = set(self.architecture.figures.unused)
        for key, parameter in self.network.named_parameters():
            if key in unused:  # no gradient ever comes; several processes would wait for it
                parameter.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> pooled features [B, feature_dim]; RecipeError for a size that it was not built for."""
        self._require_size(images)
        return pooled(self.title, self._through(images))

    def features_and_maps(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """h, and the last four maps of the network by the names of a ResNet's: "layer1" to "layer4"."""
        self._require_size(images)
        h, maps = maps_of(self.network, self.normalize(images))
        if not maps:
            raise RecipeError(f"{self.title} gives no feature maps")
        return pooled(self.title, h), {f"layer{i}": m for i, m in enumerate(maps, start=1)}

    def check_maps(self, side: int) -> None:
        """Raises RecipeError where h beside the maps is not h without, on images of that side."""
        training, pixels = self.training, torch.linspace(0, 1, 2 * 3 * side**2)
        self.eval()
        with torch.no_grad():
            images = pixels.view(2, 3, side, side)
            plain, beside = self(images), self.features_and_maps(images)[0]
        self.train(training)
        if not torch.allclose(plain, beside, rtol=0, atol=1e-4 * float(plain.abs().max())):
            raise RecipeError(
                f"{self.title} gives other features beside its maps than without, so that its maps are no use; take "
                'another network of timm, or encoder.name = "resnet"'
            )

    @property
    def after_maps(self) -> list[nn.Parameter]:
        """Norms and layers behind the last map, as measured."""
        return [self.network.get_parameter(key) for key, _ in self.architecture.figures.after_maps]

    @property
    def named_weights(self) -> nn.Module:
        """The library's own network."""
        return self.network

    @property
    def exempt(self) -> frozenset[str]:
        """Tokens, positions, scales of layers, and what the library itself keeps from decay."""
        return frozenset(
            f"network.{name}" for name in tokens_and_scales(self.network, self.library.undecayed(self.network))
        )

    @property
    def patch_embedding(self) -> list[nn.Parameter]:
        """Parameters of the layer that cuts images into patches; [] where there is none."""
        return [p for key, p in self.network.named_parameters() if is_patch_embedding(key)]

    @property
    def checkpoint_activations(self) -> bool:
        """Whether the network's own activation checkpointing is on."""
        return self._checkpoints

    @checkpoint_activations.setter
    def checkpoint_activations(self, on: bool) -> None:
        if on != self._checkpoints and not self.library.checkpoint(self.network, on):
            raise RecipeError(f"{self.title} has no activation checkpointing of its own")
        self._checkpoints = on

    def during_backward(self) -> AbstractContextManager[None]:
        """What is computed again there shows the batch to its norms a second time: their statistics are held."""
        return running_statistics_held(self.network) if self._checkpoints else nullcontext()

    def _through(self, images: Tensor) -> Any:
        side, shown = self.architecture.image_size, self.normalize(images)
        if tuple(images.shape[2:]) == (side, side):
            return self.network(shown)
        try:  # a size that nobody has tried
            return self.network(shown)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise RecipeError(
                f"{self.title} was built for images of {side}x{side} pixels and fails on {images.shape[2]}x"
                f"{images.shape[3]}: {first_line(error)}"
            ) from None

    def _require_size(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"f takes RGB images [B, 3, H, W], got {tuple(images.shape)}")
        side = self.architecture.image_size
        if self.fixed_size and tuple(images.shape[2:]) != (side, side):
            raise RecipeError(
                f"{self.title} was built for images of {side}x{side} pixels and got {images.shape[2]}x"
                f"{images.shape[3]}; show it that size, or train one with augmentation.image_size = {images.shape[3]}"
            )
