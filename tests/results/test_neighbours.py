"""The picture of nearest neighbours: which images stand in it, in which order, and which have a frame."""

from __future__ import annotations

import numpy as np
import torch

from simclr_plus.augmentations.law import simclr_law
from simclr_plus.datasets import Images
from simclr_plus.evaluators.subjects import RawPixels, Subject
from simclr_plus.results.neighbours import FRAME, GAP, RIGHT, SHADE, nearest, neighbours_picture

CPU, SIDE = torch.device("cpu"), 8
LAW = simclr_law(size=SIDE, evaluation_crop=1.0)
COLORS = np.array([[255, 0, 0], [250, 30, 0], [0, 255, 0], [0, 0, 255], [30, 0, 250]], dtype=np.uint8)


def flat(colors: np.ndarray, labels: list[int]) -> Images:
    pixels = np.broadcast_to(colors[:, None, None], (len(colors), SIDE, SIDE, 3)).copy()
    return Images("flat", pixels=pixels, labels=np.asarray(labels), classes=("warm", "cold"))


BANK, QUERIES = flat(COLORS, [0, 1, 1, 1, 1]), flat(np.array([[240, 10, 0], [10, 0, 240]], dtype=np.uint8), [0, 1])


def test_the_nearest_come_first_and_say_whether_their_class_is_right() -> None:
    indices, right = nearest(Subject("raw pixels", RawPixels(), LAW), BANK, QUERIES, k=2, device=CPU)
    assert indices.tolist() == [[0, 1], [3, 4]] and right.tolist() == [[True, False], [True, True]]
    assert nearest(Subject("raw pixels", RawPixels(), LAW), BANK, QUERIES, k=9, device=CPU)[0].shape == (2, 5)


def test_the_picture_shows_queries_neighbours_and_frames() -> None:
    subject = Subject("raw pixels", RawPixels(), LAW)
    picture = neighbours_picture([subject, subject], BANK, QUERIES, k=2, device=CPU, side=SIDE)
    tile = SIDE + 2 * FRAME + GAP
    middle = GAP + FRAME + SIDE // 2
    assert picture.shape == (2 * tile + GAP, 5 * tile + 4 * GAP, 3)
    assert picture[middle, middle].tolist() == [240, 10, 0] and picture[middle + tile, middle].tolist() == [10, 0, 240]
    for start in (tile + GAP, 3 * tile + 2 * GAP):  # of each subject
        assert picture[0, start].tolist() == list(SHADE)
        first, second = (start + 2 * GAP + place * tile for place in range(2))
        assert picture[middle, first + FRAME + 4].tolist() == COLORS[0].tolist()
        assert picture[middle, second + FRAME + 4].tolist() == COLORS[1].tolist()
        assert picture[middle, first].tolist() == list(RIGHT) and picture[middle, second].tolist() == [255] * 3
