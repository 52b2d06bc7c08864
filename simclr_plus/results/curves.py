"""Pictures: a grid of augmented views, the learning curves of a run."""

from __future__ import annotations

import math
from itertools import cycle
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

BLUE, SHARES = "#1f6feb", ("#1f6feb", "#8957e5", "#cf222e")
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
    """Loss with its chance level, accuracies and the method's own numbers by epoch.

    Raises SimclrPlusError without metrics.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = run.metrics()
    if not lines:
        raise SimclrPlusError(f"run {run.path} has no metrics yet")
    recipe = run.recipe()
    figures = [f for f in recipe.method.figures(recipe) if _points(lines, f.column)]
    numbers = [f for f in figures if not f.share]
    wide = 2 + len(numbers)
    figure, axes = pyplot.subplots(1, wide, figsize=(5 * wide, 3.6), constrained_layout=True)
    left, right, *rest = axes
    title, chance = recipe.method.loss_title(recipe), recipe.method.chance_loss(recipe)
    left.plot(*zip(*_points(lines, "loss"), strict=True), color=BLUE, label=title)
    if chance is not None:
        left.axhline(chance, color="#8b949e", linestyle="--", linewidth=1, label=_chance_in_words(chance))
    left.set(xlabel="epoch", ylabel="loss")
    left.set_title(run.name, parse_math=False)  # a name may hold dollars
    probe = "classifier" if recipe.method.learns_labels else "online linear probe"
    for key, label, color in (
        *((f.column, f"{f.title}, training batch", c) for f, c in zip([f for f in figures if f.share], cycle(SHARES))),
        ("probe_accuracy", f"{probe}, training batch", "#d29922"),
        ("knn_accuracy", "kNN, held-out images", "#2da44e"),
    ):
        points = _points(lines, key)
        if points:
            style = {"marker": "o", "markersize": 4} if key == "knn_accuracy" else {}
            epochs, shares = zip(*points, strict=True)
            right.plot(epochs, [100 * share for share in shares], label=label, color=color, **style)
    right.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 100))
    for place, number in zip(rest, numbers, strict=True):
        place.plot(*zip(*_points(lines, number.column), strict=True), color=BLUE, label=number.title)
        if number.chance is not None:
            place.axhline(
                number.chance, color="#8b949e", linestyle="--", linewidth=1, label=f"chance, {number.chance:.3g}"
            )
        place.set(xlabel="epoch", ylabel=number.title)
    for place in axes:
        if place.get_legend_handles_labels()[1]:
            place.legend(frameon=False, fontsize=8)
        place.grid(alpha=0.3)
    return figure


def _points(lines: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(epoch, value) of the lines that have one."""
    return [(line["epoch"], line[key]) for line in lines if line.get(key) is not None]


def _chance_in_words(chance: float) -> str:
    """As the logarithm of a number of candidates, where it is that of a whole one."""
    candidates = math.exp(min(chance, 20.0))
    is_count = 2 <= round(candidates) < 1e7 and abs(candidates - round(candidates)) < 1e-6 * candidates
    return f"chance, ln {round(candidates)} = {chance:.2f}" if is_count else f"chance, {chance:.2f}"
