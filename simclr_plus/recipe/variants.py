"""Where the three published forms of SimCLR differ, as recipe keys. No torch.

"paper" is the paper's first version and the authors' code of March 2020, "tf1" and "tf2" are the two programs of their
last commit (383d414, May 2023). Learning rate and weight decay are those of the README's ImageNet command of each: the
default of TF2's flag is 1e-6, but its README passes 1e-4. What the forms share is in the defaults of the recipe.
"""

from __future__ import annotations

from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {
        "augmentation.resize": "bicubic_legacy",
        "augmentation.brightness_law": "additive",
        "head.num_layers": 2,
        "optimizer.learning_rate": 0.3,
        "optimizer.learning_rate_scaling": "linear",
        "optimizer.weight_decay": 1e-6,
        "optimizer.sgd_momentum": "rate_outside",
        "optimizer.adapt_probe": True,
        "training.probe": False,
        "training.round_up_to_checkpoint": False,
    },
    "tf1": {
        "augmentation.resize": "bicubic_legacy",
        "augmentation.brightness_law": "multiplicative",
        "head.num_layers": 3,
        "optimizer.learning_rate": 0.075,
        "optimizer.learning_rate_scaling": "sqrt",
        "optimizer.weight_decay": 1e-4,
        "optimizer.sgd_momentum": "rate_outside",
        "optimizer.adapt_probe": False,
        "training.probe": False,
        "training.round_up_to_checkpoint": False,
    },
    "tf2": {
        "augmentation.resize": "bicubic",
        "augmentation.brightness_law": "multiplicative",
        "head.num_layers": 3,
        "optimizer.learning_rate": 0.075,
        "optimizer.learning_rate_scaling": "sqrt",
        "optimizer.weight_decay": 1e-4,
        "optimizer.sgd_momentum": "rate_inside",
        "optimizer.adapt_probe": False,
        "training.probe": True,
        "training.round_up_to_checkpoint": True,
    },
}


def fill_in(values: dict[str, Any]) -> None:
    """Give the recipe `values` the keys of its `variant` that it does not set itself."""
    for key, value in VARIANTS.get(str(values.get("variant")), {}).items():
        section, name = key.split(".")
        table = values.setdefault(section, {})
        if isinstance(table, dict):
            table.setdefault(name, value)


def forget(values: dict[str, Any]) -> None:
    """Drop the keys that a variant sets, so that another variant can set them."""
    for key in {key for keys in VARIANTS.values() for key in keys}:
        section, name = key.split(".")
        if isinstance(values.get(section), dict):
            values[section].pop(name, None)
