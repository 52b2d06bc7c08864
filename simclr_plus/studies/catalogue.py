"""The studies by name."""

from __future__ import annotations

from simclr_plus.errors import NotFoundError
from simclr_plus.studies import (
    augmentations,
    batch_and_epochs,
    broader_augmentation,
    color_strength,
    losses,
    model_size,
    projection_head,
    supervised_augmentation,
    temperature,
    what_h_keeps,
)
from simclr_plus.studies.study import Study


def find_study(name: str) -> Study:
    """A study by name; raises NotFoundError listing them."""
    if name not in STUDIES:
        raise NotFoundError(f"no study {name!r}; there are {', '.join(STUDIES)}")
    return STUDIES[name]


STUDIES = {
    module.STUDY.name: module.STUDY
    for module in (
        augmentations,
        color_strength,
        projection_head,
        what_h_keeps,
        losses,
        temperature,
        batch_and_epochs,
        model_size,
        broader_augmentation,
        supervised_augmentation,
    )
}
