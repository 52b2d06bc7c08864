"""What a network of a library costs, and whether it can be f: it is built on PyTorch's meta device, without memory.

Two images go through it forward and backward. A network that needs numbers to find its way is built on the CPU instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from simclr_plus.encoders.activations import kept_for_backward
from simclr_plus.encoders.libraries import PATCH_EMBEDDINGS, library_of
from simclr_plus.errors import ImageSizeError, RecipeError, SimclrPlusError
from simclr_plus.global_batch_norm import GlobalBatchNorm, convert_global_batch_norm

IMAGES = 2
STAGES = 4  # maps that methods may ask for


@dataclass(frozen=True)
class Norms:
    """Of the batch norms of a network: how many; the fewest numbers of a channel that one of them sees of an image;
    whether the rows of all are images.
    """

    count: int
    fewest: int
    rows_are_images: bool


@dataclass(frozen=True)
class Figures:
    """What was measured; counts are of numbers, activations and multiply-adds those of one image.

    activations_recomputed: with the network's own activation checkpointing; None where it has none.
    maps: channels and side of the last four feature maps; () where it offers none. unused: parameters of no part in h.
    after_maps: those that h depends on and the last map does not, each with its shape.
    fixed_size: whether it is built for one size. norms: what its batch norms see of an image.
    """

    feature_dim: int
    parameters: int
    patch_embedding: int
    multiply_adds: int
    activations: int
    activations_recomputed: int | None
    maps: tuple[tuple[int, int], ...]
    unused: tuple[str, ...]
    after_maps: tuple[tuple[str, tuple[int, ...]], ...]
    fixed_size: bool
    norms: Norms


@lru_cache(maxsize=64)
def figures_of(name: str, options: str, image_size: int) -> Figures:
    """Of a network by its whole name, its options as JSON, for square images of that side.

    Raises RecipeError or NotFoundError, in a sentence, for one that there is not or that cannot be f.
    """
    device, network, output = _network(name, options, image_size)
    feature_dim = _features(name, output).shape[1]

    def images(side: int) -> Tensor:
        return torch.zeros(IMAGES, 3, side, side, device=device)

    with _left_as_they_were():
        unused = _unused(name, network.train(), images(image_size))
        _require_pooled(name, network, feature_dim, images, image_size)
        parameters = [(key, p) for key, p in network.named_parameters() if p.requires_grad and key not in unused]
        activations, _ = kept_for_backward(network, images(image_size))
        maps = _map_shapes(network.eval(), images(image_size), feature_dim)
        figures = Figures(
            feature_dim=feature_dim,
            parameters=sum(p.numel() for _, p in parameters),
            patch_embedding=sum(p.numel() for key, p in parameters if is_patch_embedding(key)),
            multiply_adds=_multiply_adds(network.eval(), images(image_size)),
            activations=activations,
            activations_recomputed=_recomputed(name, network.train(), images(image_size), activations),
            maps=maps,
            unused=unused,
            after_maps=_after_maps(network, images(image_size), set(unused)) if maps else (),
            fixed_size=_is_of_one_size(name, options),
            norms=_norms(network, images(image_size)),
        )
        _require_known_norms(name, network)
        return figures


def is_patch_embedding(parameter: str) -> bool:
    """Whether a parameter is one of the layer that cuts images into patches, as transformers have it."""
    return any(part in PATCH_EMBEDDINGS for part in parameter.split("."))


def pooled(name: str, output: Any) -> Tensor:
    """What a network gave, as h [B, F]; RecipeError for anything else."""
    if not isinstance(output, Tensor):
        several = isinstance(output, dict | tuple | list)
        what = f"{len(output)} outputs ({type(output).__name__})" if several else f"a {type(output).__name__}"
        remedy = "; encoder.options = { aux_logits = false } switches those for training off" if several else ""
        raise RecipeError(f"{name} gives {what} while f gives one tensor, pooled features [B, F]{remedy}")
    if output.ndim > 2 and output[0].numel() == output.shape[1]:
        output = output.flatten(1)
    if output.ndim != 2:
        shape = f"[{', '.join(['B', *map(str, output.shape[1:])])}]"
        raise RecipeError(f"{name} gives {shape} while f gives pooled features [B, F]; take the mean over the rest")
    h: Tensor = output
    return h


def maps_of(network: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The network's last four feature maps [B, C, H, W], the finest first, and h of the same pass; () where none."""
    intermediates: Any = getattr(network, "forward_intermediates", None)
    head: Any = getattr(network, "forward_head", None)
    if intermediates is None or head is None:
        return images, []
    last, maps = intermediates(images, indices=STAGES, output_fmt="NCHW")
    return head(last), list(maps)


def _network(name: str, options: str, image_size: int) -> tuple[str, nn.Module, Any]:
    """Where it was built; it, in eval mode; and what it gives."""
    arguments, built = json.loads(options), False
    for device in ("meta", "cpu"):
        try:
            network, built = _built(name, arguments, image_size, device), True
            with _left_as_they_were(), _whole_patches(name, network, image_size):
                output = network.eval()(torch.zeros(IMAGES, 3, image_size, image_size, device=device))
            return device, network, output
        except SimclrPlusError:
            raise
        except Exception as error:  # whatever a library or a function of one's own raises
            refusal = error
    told = f"{name} with encoder.options = {arguments}" if arguments else name
    library, rest = library_of(name)
    if not built and not library.size_option(rest, arguments):
        raise RecipeError(f"{told} cannot be built: {first_line(refusal)}") from None
    how = "does not take" if built else "cannot be built for"
    raise ImageSizeError(f"{told} {how} images of {image_size}x{image_size} pixels: {first_line(refusal)}") from None


def _built(name: str, options: dict[str, Any], image_size: int, device: str) -> nn.Module:
    library, rest = library_of(name)
    with torch.device(device), torch.random.fork_rng(devices=[]):
        network: Any = library.create(rest, options, image_size)
    if not isinstance(network, nn.Module):
        raise RecipeError(f"{name} gives a {type(network).__name__} while f is a torch.nn.Module; return the network")
    return network


@contextmanager
def _whole_patches(name: str, network: nn.Module, image_size: int) -> Iterator[None]:
    """Within, ImageSizeError where the layer that cuts images into patches would leave pixels over, as timm's do."""

    def require(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        side, patch = inputs[0].shape[-1], layer.kernel_size[-1]
        if side % patch:
            below, above = image_size // patch * patch, -(-image_size // patch) * patch
            raise ImageSizeError(
                f"{name} cuts images into patches of {patch}x{patch} pixels and would not see the last {side % patch} "
                f"rows and columns of {image_size}x{image_size}; {f'{below} and ' if below else ''}{above} would do"
            )

    layers = [
        layer
        for key, layer in network.named_modules()
        if is_patch_embedding(key) and isinstance(layer, nn.Conv2d) and layer.stride == layer.kernel_size
    ]
    hooks = [layer.register_forward_pre_hook(require) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _features(name: str, output: Any) -> Tensor:
    """h; RecipeError for anything else."""
    h = pooled(name, output)
    if len(h) != IMAGES or not h.shape[1]:
        raise RecipeError(
            f"{name} gives {list(h.shape)} for {IMAGES} images while f gives a row of features for each, [B, F]"
        )
    if not h.is_floating_point():
        raise RecipeError(f"{name} gives {h.dtype} while f gives real numbers with a fraction, as torch.float32")
    if not h.requires_grad:
        raise RecipeError(f"{name} gives features that hang on no trained parameter; nothing of it can be learnt")
    return h


def _unused(name: str, network: nn.Module, images: Tensor) -> tuple[str, ...]:
    """Parameters that no gradient comes to in training; RecipeError where nothing can be trained."""
    try:
        output = network(images)
    except Exception as error:
        size = f"{images.shape[2]}x{images.shape[3]} pixels"
        raise ImageSizeError(f"{name} in training fails on images of {size}: {first_line(error)}") from None
    h = _features(name, output)
    network.zero_grad()
    try:
        h.sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise RecipeError(f"{name} has no gradient: {first_line(error)}") from None
    unused = tuple(key for key, p in network.named_parameters() if p.requires_grad and p.grad is None)
    network.zero_grad(set_to_none=True)
    return unused


def _multiply_adds(network: nn.Module, images: Tensor) -> int:
    """Of one image forward, attention's products among them, which the counter knows one by one only."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(images)
    return int(counter.get_total_flops()) // (2 * len(images))


def _require_pooled(
    name: str, network: nn.Module, feature_dim: int, images: Callable[[int], Tensor], image_size: int
) -> None:
    """RecipeError where h grows with the image: then it is a map, laid flat."""
    try:
        with torch.no_grad():
            other = network(images(image_size + 32))
    except Exception:  # one that takes no other size
        return
    if isinstance(other, Tensor) and other[0].numel() != feature_dim:
        raise RecipeError(
            f"{name} gives {feature_dim} numbers for images of {image_size} pixels and {other[0].numel()} for those of "
            f"{image_size + 32}: a map laid flat, while f gives pooled features; take the mean over its places"
        )


def _recomputed(name: str, network: nn.Module, images: Tensor, activations: int) -> int | None:
    """The same with its own checkpointing: what is kept, and of the rest one block at a time."""
    library, _ = library_of(name)
    if not library.checkpoint(network, True):
        return None
    try:
        kept, count = kept_for_backward(network, images)
    finally:
        library.checkpoint(network, False)
    return kept + max(0, activations - kept) // max(1, count)


def _map_shapes(network: nn.Module, images: Tensor, feature_dim: int) -> tuple[tuple[int, int], ...]:
    try:
        with torch.no_grad():
            h, maps = maps_of(network, images)
    except Exception:  # a network may offer maps and not have four
        return ()
    square = len(maps) == STAGES and all(m.ndim == 4 and m.shape[2] == m.shape[3] for m in maps)
    return tuple((m.shape[1], m.shape[2]) for m in maps) if square and h.shape == (IMAGES, feature_dim) else ()


def _after_maps(network: nn.Module, images: Tensor, unused: set[str]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    network.train().zero_grad()
    maps_of(network, images)[1][-1].sum().backward()  # type: ignore[no-untyped-call]
    after = tuple(
        (key, tuple(p.shape))
        for key, p in network.named_parameters()
        if p.requires_grad and p.grad is None and key not in unused
    )
    network.zero_grad()
    return after


def _is_of_one_size(name: str, options: str) -> bool:
    library, rest = library_of(name)
    return bool(library.size_option(rest, json.loads(options)))


def _norms(network: nn.Module, images: Tensor) -> Norms:
    seen: list[tuple[int, int]] = []  # rows, numbers of a channel in all rows

    def look(_norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        seen.append((len(x), x.numel() // x.shape[1]))

    hooks = [m.register_forward_pre_hook(look) for m in network.modules() if isinstance(m, _BatchNorm)]
    with torch.no_grad():
        network.eval()(images)
    for hook in hooks:
        hook.remove()
    fewest = min((numbers for _, numbers in seen), default=0) // len(images)
    return Norms(len(seen), fewest, all(rows == len(images) for rows, _ in seen))


def _require_known_norms(name: str, network: nn.Module) -> None:
    """RecipeError for a norm over the batch that cannot be one over processes."""
    try:
        convert_global_batch_norm(network)
    except ValueError as error:
        raise RecipeError(f"{name} cannot be trained: {error}") from None
    for key, layer in network.named_modules():
        kind, statistics = type(layer).__name__, layer._buffers.get("running_var")
        if statistics is not None and not isinstance(layer, GlobalBatchNorm) and "Frozen" not in kind:
            raise RecipeError(
                f"{name} cannot be trained: {kind} ({key}) keeps statistics of the batch, and they cannot become those "
                "of all processes; take another norm (encoder.options)"
            )


@contextmanager
def _left_as_they_were() -> Iterator[None]:
    """Generator and warnings filter of the process are not this module's; gradients are measured under no_grad too."""
    import warnings

    with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def first_line(error: BaseException) -> str:
    """What a library says of its error, as part of a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
