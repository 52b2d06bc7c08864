"""A picture of nearest neighbours: test images, and the labelled images that each subject's features find for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from simclr_plus.datasets.images import Images, require_same_classes
from simclr_plus.evaluators.subjects import Subject
from simclr_plus.features.extraction import features_of, labels_of

GAP, FRAME = 6, 3  # pixels between the images, and of the frame of those of the right class
RIGHT = (0, 150, 60)
SHADE = (225, 225, 225)  # between the queries and each subject's neighbours


def nearest(
    subject: Subject, bank: Images, queries: Images, *, k: int, device: torch.device
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The k most similar images of the bank for each query [Q, k], by the cosine of h, and which are of its class.

    Raises UnreadableImageError for an image that cannot be read: leaving it out would shift the numbers of the others.
    """
    require_same_classes(bank, queries)
    bank, queries = replace(bank, skip_bad=False), replace(queries, skip_bad=False)
    h, bank = features_of(subject.encoder, bank, subject.law, device=device)
    h_queries, queries = features_of(subject.encoder, queries, subject.law, device=device)
    similarities = F.normalize(h_queries.to(device), dim=1) @ F.normalize(h.to(device), dim=1).T
    indices = similarities.topk(min(k, len(bank)), dim=1).indices.cpu()
    return indices.numpy(), (labels_of(bank)[indices] == labels_of(queries)[:, None]).numpy()


def neighbours_picture(
    subjects: Sequence[Subject], bank: Images, queries: Images, *, k: int, device: torch.device, side: int = 64
) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: a row a query; at the left the query, then the k neighbours that each subject finds.

    Neighbours of the query's class have a green frame. All images are scaled to `side`.
    """
    tile = side + 2 * FRAME + GAP
    grid = np.full((len(queries) * tile + GAP, (1 + len(subjects) * k) * tile + (2 + len(subjects)) * GAP, 3), 255)
    neighbours = [nearest(subject, bank, queries, k=k, device=device) for subject in subjects]
    for row in range(len(queries)):
        top = GAP + row * tile
        _place(grid, queries.read(row), top, GAP, side, framed=False)
        for column, (indices, right) in enumerate(neighbours):
            start = (1 + column * k) * tile + (1 + column) * GAP
            grid[:, start : start + GAP] = SHADE
            for place, index in enumerate(indices[row]):
                left = start + 2 * GAP + place * tile
                _place(grid, bank.read(int(index)), top, left, side, framed=bool(right[row, place]))
    return grid.astype(np.uint8)


def _place(grid: NDArray[np.int64], image: NDArray[np.uint8], top: int, left: int, side: int, *, framed: bool) -> None:
    from PIL import Image

    if framed:
        grid[top : top + side + 2 * FRAME, left : left + side + 2 * FRAME] = RIGHT
    scaled = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    grid[top + FRAME : top + FRAME + side, left + FRAME : left + FRAME + side] = np.asarray(scaled)
