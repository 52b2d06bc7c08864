"""Pictures: a grid of augmented views, the learning curves of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr_plus.augmentations.central_crop import central_parameters
from simclr_plus.augmentations.draws import draw_views
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.augmentations.views import ViewMaker
from simclr_plus.errors import SimclrPlusError
from simclr_plus.machine.whole_files import write_whole
from simclr_plus.runs.folder import Run

GAP = 4  # white pixels between the pictures of a grid


def preview_grid(image: NDArray[np.uint8], law: ViewLaw, *, pairs: int, seed: int) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: the image's middle at the left, then `pairs` columns of two views each."""
    epochs, indices = np.arange(pairs), np.zeros(pairs, dtype=np.int64)
    parameters = draw_views(seed, epochs, indices, heights=image.shape[0], widths=image.shape[1], law=law)
    views = np.empty((2, pairs, 3, law.size, law.size), dtype=np.float32)
    middle = np.empty((1, 1, 3, law.size, law.size), dtype=np.float32)
    maker = ViewMaker(law)
    for b in range(pairs):
        maker.fill(image, parameters[b], views, b)
    if law.operations:
        views = _operated(views, law, seed, epochs, indices)
    maker.fill(image, central_parameters(image.shape[0], image.shape[1], law), middle, 0)
    tile = law.size + GAP
    grid = np.full((2 * tile + GAP, (pairs + 1) * tile + GAP, 3), 255, dtype=np.uint8)
    _paste(grid, middle[0, 0], GAP + tile // 2, GAP)
    for v in range(2):
        for b in range(pairs):
            _paste(grid, views[v, b], GAP + v * tile, GAP + (b + 1) * tile)
    return grid


def _operated(
    views: NDArray[np.float32], law: ViewLaw, seed: int, epochs: NDArray[np.int64], indices: NDArray[np.int64]
) -> NDArray[np.float32]:
    import torch  # seconds; plain previews do without it

    from simclr_plus.augmentations.further_operations import apply_operations

    return apply_operations(torch.from_numpy(views), law, seed=seed, epochs=epochs, indices=indices).numpy()


def _paste(grid: NDArray[np.uint8], view: NDArray[np.float32], top: int, left: int) -> None:
    size = view.shape[1]
    grid[top : top + size, left : left + size] = np.rint(view.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)


def save_png(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write uint8 [H, W, 3] as PNG."""
    from PIL import Image

    write_whole(path, lambda aside: Image.fromarray(pixels).save(aside, format="PNG"))


def draw_curves(run: Run, path: Path) -> None:
    """Write `curves_figure` as PNG, SVG or PDF."""
    figure = curves_figure(run)
    kind = path.suffix.lstrip(".") or "png"
    write_whole(path, lambda aside: figure.savefig(aside, format=kind, dpi=110))
    from matplotlib import pyplot

    pyplot.close(figure)


def curves_figure(run: Run) -> Any:
    """Loss with its chance level, and the accuracies, by epoch; raises SimclrPlusError without metrics."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = run.metrics()
    if not lines:
        raise SimclrPlusError(f"run {run.path} has no metrics yet")
    recipe = run.recipe()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    title, chance = recipe.method.loss_title(recipe), recipe.method.chance_loss(recipe)
    left.plot([x["epoch"] for x in lines], [x["loss"] for x in lines], color="#1f6feb", label=title)
    if chance is not None:
        label = f"chance, ln {round(math.exp(chance))} = {chance:.2f}"
        left.axhline(chance, color="#8b949e", linestyle="--", linewidth=1, label=label)
    left.set(xlabel="epoch", ylabel="loss")
    left.set_title(run.name, parse_math=False)  # a name may hold dollars
    for key, label, color in (
        *((figure.column, f"{figure.title}, training batch", "#1f6feb") for figure in recipe.method.figures(recipe)),
        (
            "probe_accuracy",
            f"{'classifier' if recipe.method.learns_labels else 'online linear probe'}, training batch",
            "#d29922",
        ),
        ("knn_accuracy", "kNN, held-out images", "#2da44e"),
    ):
        points = [(x["epoch"], 100 * x[key]) for x in lines if x.get(key) is not None]
        if points:
            style = {"marker": "o", "markersize": 4} if key == "knn_accuracy" else {}
            right.plot(*zip(*points, strict=True), label=label, color=color, **style)
    right.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 100))
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.3)
    return figure
