"""Parts of a data set are never taken for classes, whatever they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr_plus.datasets.images import PRETRAIN, TEST, TRAIN, notes_of, open_folder, open_images, require_labels
from simclr_plus.errors import RecipeError, UnlabelledError
from simclr_plus.recipe.keys import Data


def pictures(root: Path, *names: str) -> Data:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(root / name)
    return Data(name="folder", root=str(root))


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Test"), ("TRAIN", "VAL"), ("training", "testing"), ("Training", "Validation"), ("train", "valid")],
)
def test_parts_are_known_by_their_usual_names_in_any_case(tmp_path: Path, train: str, test: str) -> None:
    data = pictures(
        tmp_path, f"{train}/a/1.png", f"{train}/b/2.png", f"{train}/b/3.png", f"{test}/a/4.png", f"{test}/b/5.png"
    )
    sizes = [len(open_images(data, split)) for split in (PRETRAIN, TRAIN, TEST)]
    assert sizes == [3, 3, 2] and open_images(data, TEST).classes == ("a", "b")


def test_validation_images_come_before_test_images(tmp_path: Path) -> None:
    data = pictures(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/2.png", "Val/a/3.png", "Val/b/4.png")
    assert [path.name for path in open_images(data, TEST).paths] == ["3.png", "4.png"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("train/a/1.png", "Train/a/1.png", "val/a/1.png"), ("train", "Train")),
        (("train/a/1.png", "val/a/1.png", "valid/a/1.png"), ("val", "valid")),
        (("train/1.png", "ship/1.png", "plane/1.png"), ("train", "plane")),  # three classes, or one part?
        (("test/1.png", "cat/1.png", "dog/1.png"), ("test", "train")),
        (("val/a/1.png", "test/a/1.png"), ("val", "test")),
        (("train2017/1.png", "val2017/1.png"), ("train2017", "val2017")),
        (("training_set/a/1.png", "test_set/a/1.png"), ("training_set", "test_set")),
        (("trainA/1.png", "trainB/1.png", "testA/1.png", "testB/1.png"), ("trainA", "testB")),
        (("set/train/a/1.png", "set/test/a/1.png"), ("set",)),  # a folder too high
        (("seg_train/a/1.png", "seg_test/a/1.png"), ("seg_train", "seg_test")),
    ],
)
def test_what_could_be_a_part_and_a_class_is_refused_by_name(
    tmp_path: Path, names: tuple[str, ...], told: tuple[str, ...]
) -> None:
    data = pictures(tmp_path, *names)
    for split in (PRETRAIN, TRAIN, TEST):
        with pytest.raises(RecipeError) as caught:
            open_images(data, split)
        assert all(name in str(caught.value) for name in told)


@pytest.mark.parametrize("names", [("train station/1.png", "test tube/2.png"), ("contest/1.png", "brain/2.png")])
def test_classes_whose_names_only_sound_like_parts_are_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert len(open_images(pictures(tmp_path, *names), PRETRAIN).classes) == 2


def test_a_class_called_train_is_one_inside_a_part(tmp_path: Path) -> None:
    names = [f"{part}/{kind}/1.png" for part in ("train", "val") for kind in ("plane", "train", "test")]
    assert open_images(pictures(tmp_path, *names), TEST).classes == ("plane", "test", "train")


def test_folders_without_images_beside_the_parts_do_not_matter_and_others_are_told(tmp_path: Path) -> None:
    data = pictures(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png")
    (tmp_path / "annotations").mkdir()
    assert not open_images(data, TRAIN).notes
    pictures(tmp_path, "extra/1.png")
    assert any("extra" in note for note in open_images(data, PRETRAIN).notes)


def test_parts_are_no_classes_where_a_folder_is_opened_by_itself(tmp_path: Path) -> None:
    pictures(tmp_path, "Train/a/1.png", "Test/a/1.png")
    images = open_folder(tmp_path)
    assert len(images) == 2 and images.labels is None and images.classes == ()


def test_a_stray_picture_beside_class_folders_is_named(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/1.png", "dog/1.png", "montage.png")
    images = open_folder(tmp_path)
    with pytest.raises(UnlabelledError, match=r"montage\.png"):
        require_labels(images)
    assert len(images) == 3 and any("montage.png" in note for note in notes_of(images))
