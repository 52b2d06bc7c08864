"""The studies by name."""

from __future__ import annotations

from simclr_plus.errors import NotFoundError
from simclr_plus.studies.comparison.study import STUDIES as COMPARISONS
from simclr_plus.studies.paper import (
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


STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        augmentations.STUDY,
        color_strength.STUDY,
        projection_head.STUDY,
        what_h_keeps.STUDY,
        losses.STUDY,
        temperature.STUDY,
        batch_and_epochs.STUDY,
        model_size.STUDY,
        broader_augmentation.STUDY,
        supervised_augmentation.STUDY,
        *COMPARISONS,
    )
}
