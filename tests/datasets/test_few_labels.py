from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from simclr_plus.datasets import Images, open_folder
from simclr_plus.datasets.few_labels import as_list, listed_indices, share_indices
from simclr_plus.errors import NotFoundError, RecipeError, SimclrPlusError


def images(counts: list[int]) -> Images:
    labels = np.repeat(np.arange(len(counts)), counts)
    paths = tuple(Path(f"n{c:02}/n{c:02}_{i}.JPEG") for i, c in enumerate(labels))
    return Images("some", paths=paths, labels=labels, classes=tuple(f"n{c:02}" for c in range(len(counts))))


@pytest.mark.parametrize("counts", [[600] * 10, [130, 120, 97, 260], [1300] * 37])
@pytest.mark.parametrize("seed", [0, 1])
def test_shares_are_balanced_exact_in_number_and_nested(counts: list[int], seed: int) -> None:
    some = images(counts)
    parts = [share_indices(some, share, seed) for share in (0.01, 0.1, 0.5, 1.0)]
    for share, part in zip((0.01, 0.1, 0.5, 1.0), parts, strict=True):
        assert len(part) == len(set(part.tolist())) == max(len(counts), round(share * sum(counts)))
    for small, large in pairwise(parts):
        assert set(small.tolist()) <= set(large.tolist())
    assert some.labels is not None
    per_class = np.bincount(some.labels[parts[1]], minlength=len(counts))
    assert per_class.max() - per_class.min() <= 1


def test_imagenets_numbers_come_out() -> None:
    """1 % of 1,281,167 images in 1,000 classes: 811 classes of 13 and 189 of 12, as in the authors' list."""
    labels = np.repeat(np.arange(1000), [1281] * 833 + [1282] * 167)
    some = Images("some", paths=(Path("x.JPEG"),) * 1_281_167, labels=labels, classes=tuple(map(str, range(1000))))
    per_class = np.bincount(labels[share_indices(some, 12_811 / 1_281_167)])
    assert (per_class == 13).sum() == 811 and (per_class == 12).sum() == 189


def test_another_seed_takes_other_images_and_a_share_must_be_one() -> None:
    some = images([100] * 5)
    assert share_indices(some, 0.1, 0).tolist() != share_indices(some, 0.1, 1).tolist()
    for share in (0.0, 1.5):
        with pytest.raises(RecipeError, match="--share"):
            share_indices(some, share)


def test_a_list_names_images_as_the_authors_do(tmp_path: Path) -> None:
    some = images([5, 5])
    file = tmp_path / "1percent.txt"
    file.write_text("n01_7.JPEG\nn00_2.JPEG\n")
    assert listed_indices(some, file).tolist() == [2, 7]
    file.write_text(as_list(some, np.array([0, 9])))
    assert listed_indices(some, file).tolist() == [0, 9]
    file.write_text("n01_7.JPEG\nn03_1.JPEG\n")
    with pytest.raises(SimclrPlusError, match=r"1 of 2 images .* n03_1.JPEG"):
        listed_indices(some, file)
    with pytest.raises(NotFoundError, match="no readable list"):
        listed_indices(some, tmp_path / "none.txt")
    with pytest.raises(RecipeError, match="no file names"):
        listed_indices(Images("memory", np.zeros((2, 8, 8, 3), np.uint8), (), np.zeros(2, np.int64)), file)


def test_a_list_names_images_that_share_their_names_by_the_ends_of_their_paths(tmp_path: Path) -> None:
    root, file = tmp_path / "set", tmp_path / "list.txt"
    for name in ("a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg", "b/deep/0.jpg", "b/own.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    some = open_folder(root)
    order = [path.relative_to(root).as_posix() for path in some.paths]
    for text in ("a/0.jpg\nb/1.jpg\nown.jpg\n", "\ufeffset/a/0.jpg\r\nset/b/1.jpg\r\n\r\nelse/where/set/b/own.jpg\r\n"):
        file.write_text(text, encoding="utf-8")
        assert [order[i] for i in listed_indices(some, file)] == ["a/0.jpg", "b/1.jpg", "b/own.jpg"]
    for name in ("0.jpg", "deep.jpg", "c/0.jpg", "eep/0.jpg"):
        file.write_text(f"a/1.jpg\n{name}\n")
        with pytest.raises(SimclrPlusError, match=name):
            listed_indices(some, file)
    every = np.arange(len(some))
    file.write_text(as_list(some, every))
    assert listed_indices(some, file).tolist() == every.tolist()


def test_an_empty_list_is_an_error_that_names_it(tmp_path: Path) -> None:
    for text in ("", "\n  \n"):
        (tmp_path / "empty.txt").write_text(text)
        with pytest.raises(RecipeError, match=r"empty\.txt"):
            listed_indices(images([2, 2]), tmp_path / "empty.txt")


def test_a_list_holds_names_that_are_no_utf8(tmp_path: Path) -> None:
    root, file = tmp_path / "set", tmp_path / "list.txt"
    for folder in ("a", "b"):
        (root / folder).mkdir(parents=True)
        (root / folder / os.fsdecode(b"caf\xe9.jpg")).touch()
    file.write_bytes(b"b/caf\xe9.jpg\n")
    assert listed_indices(open_folder(root), file).tolist() == [1]
