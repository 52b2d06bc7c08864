"""What makes each method tiny with a network by name, and which networks tests take: overrides of the recipe `demo`."""

from __future__ import annotations

from method_settings import TINY

# networks of timm that are made for tests: batch norms with an activation in them, and none at all
NETWORKS = {"batch_norm": "timm:test_byobnet", "transformer": "timm:test_vit"}
PATCHES = ["method.crop=60", "method.jitter=4"]  # of 16 pixels
ANY_SIZE = "encoder.options={ dynamic_img_size = true, dynamic_img_pad = true }"
METHODS = [name for name in TINY if name != "cmc"]  # which refuses such networks
OF_THE_METHOD: dict[str, list[str]] = {"relative_patch": PATCHES, "jigsaw": PATCHES}
SEVERAL_SIZES = ("relative_patch", "jigsaw", "pirl")


def settings(method: str, network: str) -> list[str]:
    """On top of tiny_recipe.TINY."""
    keys = [f"method.name={method}", *TINY[method], f"encoder.name={NETWORKS[network]}", "augmentation.image_size=64"]
    several = [ANY_SIZE] if network == "transformer" and method in SEVERAL_SIZES else []
    return [*keys, *OF_THE_METHOD.get(method, []), *several]
