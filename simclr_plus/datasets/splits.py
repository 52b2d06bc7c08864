"""Which folder of a data set is which part: train beside val or test, under their usual names in any case.

    root/train/CLASS/...   or training              root/val/CLASS/...   or valid, validation, else test, testing

Whatever could be a part and a class alike is refused by name: a part that is taken for a class ruins every result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from simclr_plus.datasets.file_list import folders_in, holds_image, listed_names, shown_name
from simclr_plus.errors import RecipeError

TRAIN_NAMES = frozenset({"train", "training"})
VALIDATION_NAMES = frozenset({"val", "valid", "validation"})
TEST_NAMES = frozenset({"test", "testing"})
PART_NAMES = TRAIN_NAMES | VALIDATION_NAMES | TEST_NAMES
_AROUND = "(set|split|data|image|images|img|imgs|photo|photos|picture|pictures|file|files|seg|x|a|b)*"
_LIKE_TRAIN = re.compile(f"{_AROUND}(train|training){_AROUND}")
_LIKE_TEST = re.compile(
    f"{_AROUND}(test|testing|val|valid|validation|eval|evaluation|dev|holdout|heldout|query|gallery){_AROUND}"
)


@dataclass(frozen=True)
class Parts:
    """The folders of the training and of the held-out images; the second may be missing."""

    train: Path
    held_out: Path | None
    left_out: tuple[str, ...] = ()  # folders beside them that hold images


def parts_of(root: Path) -> Parts | None:
    """The parts of a data set, or None where its folders are no parts; raises RecipeError where that is open."""
    names = folders_in(root)
    train, validation, test = (
        [name for name in names if name.casefold() in known] for known in (TRAIN_NAMES, VALIDATION_NAMES, TEST_NAMES)
    )
    for same in (train, validation, test):
        if len(same) > 1:
            raise RecipeError(
                f"{shown_name(root)} holds {listed_names(same, 9)}, which are names of one part; keep one of them"
            )
    held_out = validation or test
    others = [name for name in names if name.casefold() not in PART_NAMES]
    if train and held_out:
        return Parts(root / train[0], root / held_out[0], tuple(n for n in others if holds_image(root / n)))
    if train:
        classes = [name for name in others if holds_image(root / name)]
        if classes:
            raise RecipeError(
                f"{shown_name(root)} holds {shown_name(train[0])} beside {listed_names(classes)}: if all are classes, "
                f"rename {shown_name(train[0])}; if it is the training part, set data.root to it, or put the test "
                "images beside it in a folder called val or test"
            )
        return Parts(root / train[0], None)
    held = [name for name in (*validation, *test) if holds_image(root / name)]
    if held:
        raise RecipeError(
            f"{shown_name(root)} holds {listed_names(held)} but no train, so what is to be held out would be trained "
            "on; put the training images in a folder called train beside it, or rename it if it is a class"
        )
    _refuse_look_alikes(root, names)
    deeper = {name.casefold() for name in folders_in(root / names[0])} if len(names) == 1 else set()
    if deeper & TRAIN_NAMES and deeper & (VALIDATION_NAMES | TEST_NAMES):  # an archive in a folder of its own name
        raise RecipeError(
            f"{shown_name(root)} holds the folder {shown_name(names[0])} alone, whose folders are parts of a data set; "
            f"set data.root to {shown_name(root / names[0])}"
        )
    return None


def are_parts(names: tuple[str, ...]) -> bool:
    """Whether folders are all called as parts are, so that they are no classes."""
    return bool(names) and all(name.casefold() in PART_NAMES for name in names)


def _refuse_look_alikes(root: Path, names: list[str]) -> None:
    """train2017 and val2017, training_set and test_set, trainA and testA: parts, but who knows of what."""
    letters = {name: "".join(filter(str.isalpha, name.casefold())) for name in names}
    like_train = [name for name in names if _LIKE_TRAIN.fullmatch(letters[name])]
    like_test = [name for name in names if _LIKE_TEST.fullmatch(letters[name])]
    alike = [name for name in (*like_train, *like_test) if holds_image(root / name)]
    if like_train and like_test and alike:
        raise RecipeError(
            f"{shown_name(root)} holds {listed_names(alike, 9)}, which look like parts of a data set and not like "
            "classes; call them train and val (or test), or set data.root to one of them"
        )
