"""Where a recipe departs from the paper, from the authors' code and from Lightly: one line a choice. No torch.

The paper's column is its text; where that is silent, the code of March 2020 that made its numbers (marked "code"). The
authors' column is their TF2 program at commit 383d414. Lightly's is version 1.6: its parts with their defaults, or, so
marked, its ImageNet benchmark. What stands in brackets is a remark and does not count when two cells are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from simclr_plus.recipe.keys import Encoder
from simclr_plus.recipe.method_keys.moco import MoCoKeys
from simclr_plus.recipe.recipe import Recipe

SOURCES = ("paper", "authors", "lightly")
SMALL = 32  # pixels; up to here the authors have other values (CIFAR-10)

# choice: what paper, authors and Lightly do
_VIEWS = {
    "pixels go in as": ("[0, 1] (code)", "[0, 1]", "standardised by 0.485, 0.456, 0.406 (ImageNet's mean)"),
    "size of a crop": (
        "area uniform, 0.08 to 1 (code: as authors)",
        "height uniform, area 0.1 to 1",
        "area uniform, 0.08 to 1",
    ),
    "aspect of a crop": ("uniform, 3/4 to 4/3 (code)", "uniform, 3/4 to 4/3", "log-uniform, 3/4 to 4/3"),
    "where no crop fits": ("100 tries, then all (code)", "100 tries, then all", "10 tries, then the middle"),
    "last row and column": ("only in a full crop (code)", "only in a full crop", "like any other"),
    "resize": ("legacy bicubic (code)", "Keys bicubic (TF1: legacy)", "bilinear, smoothed"),
    "flip": ("0.5", "0.5", "0.5"),
    "colour strength": ("1", "1", "1"),
    "colour jitter": ("0.8", "0.8", "0.8"),
    "brightness": ("x + d (its PyTorch listing: x f)", "x f", "x f"),
    "contrast around": ("each channel's mean (code)", "each channel's mean", "the gray image's mean"),
    "saturation": ("HSV (code)", "HSV", "a blend with gray"),
    "order of the four": ("random (its listing: fixed)", "random", "random"),
    "colour arithmetic": ("float32, clipped after each (code)", "float32, clipped after each", "8 bits after each"),
    "gray": ("0.2", "0.2", "0.2"),
    "blur": ("0.5", "0.5", "0.5"),
    "blur kernel": (
        "Gaussian, zeros outside (zeros: code)",
        "Gaussian, zeros outside",
        "box approximation, edges repeated",
    ),
    "blur's sigma": ("one an image (code: one a device)", "one a device's batch", "one an image"),
    "further operations": ("none (in its studies)", "none", "none"),
    "crops of a pair": ("two", "two", "two"),
    "evaluation shows": ("the middle 0.875 (224 of 256)", "the middle 0.875", "the middle 0.875 (bilinear)"),
}
_NETWORK = {
    "f is": ("a ResNet", "a ResNet", "a ResNet"),
    "f starts from": ("noise", "noise", "noise"),
    "stem": ("7x7 and max-pool", "7x7 and max-pool", "7x7 and max-pool"),
    "kernels start with variance": ("1/fan-in, truncated (code)", "1/fan-in, truncated", "2/fan-out"),
    "a block's last norm starts at": ("0 (code)", "0", "1"),
    "max-pool is padded": ("behind (code)", "behind", "on both sides"),
    "group 1's shortcut": ("a projection (code)", "a projection", "the identity"),
    "batch norm sees": ("all processes", "all processes", "its process (benchmark: all GPUs)"),
    "running variance": ("biased (code)", "biased", "unbiased"),
    "views go through f": ("in one pass (code)", "in one pass", "one by one (benchmark: in one pass)"),
    "layers of g": ("2", "3", "2"),
    "dimensions of z": ("128", "128", "128"),
    "g's last norm has an offset": ("no (code)", "no", "yes"),
    "g's matrices start as": ("N(0, 0.01) (code)", "N(0, 0.01)", "PyTorch's uniform"),
}
_LOSS = {
    "loss": ("NT-Xent", "NT-Xent", "NT-Xent"),
    "temperature": ("0.1", "0.1", "0.5 (benchmark: 0.1)"),
    "z is normalised": ("yes", "yes", "yes"),
    "reduction": ("mean over 2N rows (code: the sum)", "sum of both views' means", "mean over 2N rows"),
    "negatives are": ("both views (Table 4: the other view)", "both views", "both views"),
    "negatives from": ("all processes", "all processes", "its process (gather_distributed=True: all)"),
    "logits are": ("float32 (code)", "float32", "half under autocast"),
}
_UPDATE = {
    "optimizer": ("LARS", "LARS", "SGD (benchmark: LARS)"),
    "peak learning rate": ("0.3 B/256", "0.075 sqrt(B)", "0.075 sqrt(B) (benchmark)"),
    "weight decay": ("1e-06", "0.0001 (default of its flag: 1e-06)", "1e-06 (benchmark)"),
    "momentum": ("0.9", "0.9", "0.9 (default of its LARS: 0)"),
    "LARS: learning rate is": ("inside the velocity (code)", "inside the velocity", "outside the velocity"),
    "LARS: trust ratio divides by": ("|g + wd w| (code)", "|g + wd w|", "|g| + wd |w| + 1e-8"),
    "LARS: weight decay 0": (
        "leaves the adaptation on (code)",
        "leaves the adaptation on",
        "switches the adaptation off",
    ),
    "LARS: norms and biases": ("neither decay nor adapt", "neither decay nor adapt", "neither decay nor adapt"),
    "LARS: adapts the probe": ("yes (code)", "no", "no"),
    "SGD: learning rate is": (
        "outside the velocity (code)",
        "inside the velocity (TF1: outside)",
        "outside the velocity",
    ),
    "gradient clipping": ("none", "none", "none"),
}
_LOOP = {
    "batch size": ("4096", "4096", "256 (benchmark)"),
    "epochs": ("1000 (100 in its studies)", "100", "100 (benchmark)"),
    "warm-up": ("10 epochs", "10 epochs", "10 epochs"),
    "first update's rate": ("0 (code)", "0", "peak / warm-up steps"),
    "the rate ends at": ("0 (code)", "0", "0.001 of the peak"),
    "steps": (
        "floor(images epochs / B) + 1 (code)",
        "whole checkpoint intervals (TF1: exact)",
        "whole batches of an epoch",
    ),
    "order of images": ("a shuffle buffer (code)", "a shuffle buffer (10 to 50 batches)", "a permutation an epoch"),
    "probe beside f": ("no (code)", "yes (TF1: no)", "yes (benchmark)"),
}
_PARTS = {"views": _VIEWS, "network": _NETWORK, "loss": _LOSS, "update": _UPDATE, "loop": _LOOP}

# what they do with small images, where it is something else (paper, B.9; README of the authors' code)
_SMALL = {
    "colour strength": ("0.5", "0.5", "1 (set by hand)"),
    "blur": ("0", "0", "0.5 (set by hand)"),
    "stem": ("3x3", "3x3", "7x7 and max-pool (set by hand)"),
    "temperature": ("0.5 (best of 0.1, 0.5, 1)", "0.5", "0.5"),
    "peak learning rate": ("1 B/256 (one of 0.5, 1, 1.5)", "1 B/256", "0.075 sqrt(B) (benchmark)"),
    "batch size": ("1024 (best of 256 to 4096)", "512", "256 (benchmark)"),
    "epochs": ("1000", "1000", "100 (benchmark)"),
}


@dataclass(frozen=True)
class Choice:
    """One choice: the recipe's key for it ("" where there is none), what the recipe does and what each source does."""

    part: str
    name: str
    key: str
    ours: str
    paper: str
    authors: str
    lightly: str

    def differs_from(self, source: str) -> bool:
        """Whether the recipe does something else than "paper", "authors" or "lightly"."""
        said: str = getattr(self, source)
        return self.ours != said.partition(" (")[0]


def choices(recipe: Recipe) -> list[Choice]:
    """Every choice that the recipe meets, in the order in which an image meets it."""
    small = _SMALL if recipe.augmentation.image_size <= SMALL else {}
    ours = {name: (key, value) for name, key, value in _ours(recipe)}
    return [
        Choice(part, name, *ours[name], *small.get(name, sources))
        for part, rows in _PARTS.items()
        for name, sources in rows.items()
        if name in ours
    ]


def _ours(r: Recipe) -> Iterator[tuple[str, str, str]]:
    """(choice, key, what the recipe does); choices that mean nothing to it are left out."""
    yield from _our_views(r)
    yield from _our_network(r)
    yield from _our_update(r)
    yield from _our_loss(r)
    t = r.training
    yield "batch size", "training.batch_size", str(t.batch_size)
    yield "epochs", "training.epochs", f"{t.epochs:g}"
    yield "warm-up", "training.warmup_epochs", f"{t.warmup_epochs:g} epochs"
    yield "first update's rate", "training.warmup_epochs", "0" if t.warmup_epochs else "the peak"
    yield "the rate ends at", "", "0"
    exact, whole = "floor(images epochs / B) + 1", "whole checkpoint intervals"
    yield "steps", "training.round_up_to_checkpoint", whole if t.round_up_to_checkpoint else exact
    yield "order of images", "", "a permutation an epoch"
    if not r.method.learns_labels:
        yield "probe beside f", "training.probe", _yes(t.probe)


def _our_views(r: Recipe) -> Iterator[tuple[str, str, str]]:
    a, e = r.augmentation, r.encoder
    plain = not any(e.mean) and all(x == 1 for x in e.std)
    standardised = "standardised as its weights were" if r.normalisation_is_open else f"standardised by {_mean(e)}"
    yield "pixels go in as", "encoder.mean", "[0, 1]" if plain and not r.normalisation_is_open else standardised
    yield "size of a crop", "augmentation.min_scale", f"height uniform, area {max(0.1, a.min_scale):g} to 1"
    usual = a.aspect == (3 / 4, 4 / 3)
    aspect = "3/4 to 4/3" if usual else f"{a.aspect[0]:g} to {a.aspect[1]:g}"
    yield "aspect of a crop", "augmentation.aspect", f"uniform, {aspect}"
    yield "where no crop fits", "", "100 tries, then all"
    yield "last row and column", "", "only in a full crop"
    yield "resize", "augmentation.resize", "legacy bicubic" if a.resize == "bicubic_legacy" else "Keys bicubic"
    one_draw = ", one draw an image" if a.same_flip and r.method.view_count > 1 else ""
    yield "flip", "augmentation.flip_prob", f"{a.flip_prob:g}{one_draw}"
    yield "colour jitter", "augmentation.jitter_prob", f"{a.jitter_prob:g}"
    if a.jitter_prob:
        strength = ", ".join(f"{x:g}" for x in a.colors) or f"{a.strength:g}"
        yield "colour strength", "augmentation.colors" if a.colors else "augmentation.strength", strength
        yield "brightness", "augmentation.brightness_law", "x + d" if a.brightness_law == "additive" else "x f"
        yield "contrast around", "", "each channel's mean"
        yield "saturation", "", "HSV"
        yield "order of the four", "augmentation.random_order", "random" if a.random_order else "fixed"
        inexact = a.augment_on != "cpu" and a.device_crops != "float32"
        clipped = f"{a.device_crops} crops, then float32" if inexact else "float32, clipped after each"
        yield "colour arithmetic", "augmentation.device_crops", clipped
    how = [
        *(["the mean of R, G, B"] if a.gray_law == "mean" else []),
        *(["before the jitter"] if a.gray_first and a.jitter_prob else []),
        *(["one draw an image"] if a.gray_shared and r.method.view_count > 1 else []),
    ]
    yield "gray", "augmentation.gray_prob", ", ".join([f"{a.gray_prob:g}", *(how if a.gray_prob else [])])
    yield "blur", "augmentation.blur_prob", f"{a.blur_prob:g}"
    if a.blur_prob:
        yield "blur kernel", "", "Gaussian, zeros outside"
        yield (
            "blur's sigma",
            "augmentation.blur_sigma_group",
            "one a device's batch" if a.blur_sigma_group else "one an image",
        )
    where = f", each with {a.operation_prob:g}" * (a.operation_prob < 1) + ", first view" * (a.operations_on == "first")
    yield "further operations", "augmentation.operations", (", ".join(a.operations) + where) if a.operations else "none"
    if r.method.view_count == 2:
        yield "crops of a pair", "augmentation.same_crop", "one" if a.same_crop else "two"
    if a.image_size > SMALL:
        yield "evaluation shows", "augmentation.evaluation_crop", f"the middle {a.evaluation_crop:g}"


def _our_network(r: Recipe) -> Iterator[tuple[str, str, str]]:
    e, h = r.encoder, r.head
    if not e.is_resnet:
        yield "f is", "encoder.name", e.name
    if e.pretrained or r.training.init_from:
        yield "f starts from", "encoder.pretrained" if e.pretrained else "training.init_from", "given weights"
    if e.is_resnet:
        yield from _our_resnet(e)
    if not e.is_resnet or e.norm == "batch":
        yield "batch norm sees", *_what_norms_see(r)
        yield "running variance", "", "biased"
    if "head" not in r.method.reads:
        return
    yield "views go through f", "", "in one pass"
    yield "layers of g", "head.num_layers", str(h.num_layers)
    if h.num_layers:
        yield "dimensions of z", "head.output_dim", str(h.output_dim)
        yield "g's last norm has an offset", "", "no"
        yield "g's matrices start as", "", "N(0, 0.01)"


def _our_resnet(e: Encoder) -> Iterator[tuple[str, str, str]]:
    reference = e.flavor == "reference"
    yield "stem", "encoder.stem", "3x3" if e.stem == "cifar" else "7x7 and max-pool"
    yield "kernels start with variance", "", "1/fan-in, truncated"
    yield "a block's last norm starts at", "", "0"
    if e.stem == "imagenet":
        yield "max-pool is padded", "encoder.flavor", "behind" if reference else "on both sides"
    if e.depth < 50:
        yield "group 1's shortcut", "encoder.flavor", "a projection" if reference else "the identity"


def _what_norms_see(r: Recipe) -> tuple[str, str]:
    """The key that says so, and what it says."""
    if isinstance(r.method, MoCoKeys) and r.method.norm_group:
        return "method.norm_group", f"groups of {r.method.norm_group}"
    return "training.global_batch_norm", "all processes" if r.training.global_batch_norm else "its process"


def _our_loss(r: Recipe) -> Iterator[tuple[str, str, str]]:
    o = r.loss
    yield "loss", "loss.name" if "loss" in r.method.reads else "method.name", r.method.loss_title(r)
    yield "logits are", "", "float64" if r.training.precision == "float64" else "float32"
    if "loss" not in r.method.reads:
        return
    if o.name != "margin":
        yield "temperature", "loss.temperature", f"{o.temperature:g}"
    yield "z is normalised", "loss.normalize", _yes(o.normalize)
    doubled = o.name == "nt_xent" and o.reduction == "reference"
    yield "reduction", "loss.reduction", "sum of both views' means" if doubled else "mean over 2N rows"
    views = "both views" if o.negatives == "both_views" else "the other view"
    yield "negatives are", "loss.negatives", f"one of {views}, semi-hard" if o.semi_hard else views
    yield "negatives from", "", "all processes"


def _our_update(r: Recipe) -> Iterator[tuple[str, str, str]]:
    o = r.optimizer
    rule = {"linear": "B/256", "sqrt": "sqrt(B)", "none": "at any B"}[o.learning_rate_scaling]
    yield "optimizer", "optimizer.name", {"lars": "LARS", "sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[o.name]
    yield "peak learning rate", "optimizer.learning_rate", f"{o.learning_rate:g} {rule}"
    yield "weight decay", "optimizer.weight_decay", f"{o.weight_decay:g}"
    if o.name not in ("adam", "adamw"):
        yield "momentum", "optimizer.momentum", f"{o.momentum:g}"
    if o.name == "lars":
        yield "LARS: learning rate is", "", "inside the velocity"
        yield "LARS: trust ratio divides by", "", "|g + wd w|"
        yield "LARS: weight decay 0", "", "leaves the adaptation on"
        yield "LARS: norms and biases", "", "neither decay nor adapt"
        if r.training.probe or r.method.learns_labels:
            yield "LARS: adapts the probe", "optimizer.adapt_probe", _yes(o.adapt_probe)
    if o.name == "sgd":
        where = "inside" if o.sgd_momentum == "rate_inside" else "outside"
        yield "SGD: learning rate is", "optimizer.sgd_momentum", f"{where} the velocity"
    yield "gradient clipping", "optimizer.gradient_clip", f"to {o.gradient_clip:g}" if o.gradient_clip else "none"


def _mean(e: Encoder) -> str:
    return ", ".join(f"{x:g}" for x in e.mean)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
