from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from simclr_plus import file_list
from simclr_plus.datasets import held_out_indices, open_folder
from simclr_plus.file_list import SUFFIXES, list_images

LONG_AGO = 1_000_000_000


def tree(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    settle(root)


def settle(root: Path) -> None:
    """As if nothing below had changed for long."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, (LONG_AGO, LONG_AGO))


def slowly(root: Path) -> list[Path]:
    """Every image by pathlib, in pathlib's order."""
    return sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The roots that were walked."""
    seen: list[Path] = []
    original = file_list._walk
    monkeypatch.setattr(file_list, "_walk", lambda root: seen.append(root) or original(root))
    monkeypatch.setattr(file_list, "WORTH_CACHING", 3)
    return seen


def test_paths_come_in_the_order_of_their_parts_and_only_images(tmp_path: Path) -> None:
    names = ["a-b/x.jpg", "a/x.JPG", "a/b/ü.png", "a/b-c.webp", "a/.hidden.jpg", "a/notes.txt", "z.gif", "a b/1.jpeg"]
    tree(tmp_path / "root", names)
    found = list_images(tmp_path / "root", tmp_path / "cache")
    assert list(found) == slowly(tmp_path / "root") and len(found) == 6
    assert found[-1] == tmp_path / "root" / "z.gif" and list(found[1:3]) == slowly(tmp_path / "root")[1:3]
    assert list(found.subset(np.array([4, 0])).subset(np.array([1]))) == [slowly(tmp_path / "root")[0]]
    with pytest.raises(IndexError):
        found[6]


def test_a_name_that_is_no_text_is_found_and_can_be_opened(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\xfe.jpg"
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"here")
    (found,) = list_images(tmp_path, tmp_path / "cache")
    assert found.read_bytes() == b"here"


def test_a_large_tree_is_walked_once(tmp_path: Path, walks: list[Path]) -> None:
    root, cache = tmp_path / "root", tmp_path / "cache"
    tree(root, [f"class{i:02}/deep{i % 3}/{j:03}.jpg" for i in range(20) for j in range(50)])
    first, second = list_images(root, cache), list_images(root, cache)
    assert len(walks) == 1 and list(first) == list(second) == slowly(root)
    images = open_folder(root)
    assert images.labels is not None
    assert [images.classes[label] for label in images.labels] == [p.relative_to(root).parts[0] for p in images.paths]


CHANGES = {
    "a new file": lambda root: (root / "b" / "new.jpg").touch(),
    "a file gone": lambda root: (root / "b" / "1.jpg").unlink(),
    "a file renamed": lambda root: (root / "b" / "1.jpg").rename(root / "b" / "one.jpg"),
    "a new folder": lambda root: ((root / "c").mkdir(), (root / "c" / "1.jpg").touch()),
    "a folder gone": lambda root: [p.unlink() for p in (root / "b").iterdir()] and (root / "b").rmdir(),
    "a folder renamed": lambda root: (root / "b").rename(root / "bb"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_folder_is_noticed(tmp_path: Path, walks: list[Path], change: str) -> None:
    root, cache = tmp_path / "root", tmp_path / "cache"
    tree(root, [f"{folder}/{i}.jpg" for folder in "ab" for i in range(4)])
    before = list(list_images(root, cache))
    CHANGES[change](root)
    after = list(list_images(root, cache))
    assert after == slowly(root) != before and len(walks) == 2


def test_a_folder_that_has_just_changed_is_not_cached(tmp_path: Path, walks: list[Path]) -> None:
    """It may change again within the same tick of the clock, and nobody would see."""
    tree(tmp_path / "root", [f"{i}.jpg" for i in range(4)])
    now = time.time()
    os.utime(tmp_path / "root", (now, now))
    for _ in range(2):
        list_images(tmp_path / "root", tmp_path / "cache")
    assert len(walks) == 2 and not (tmp_path / "cache").exists()


def test_folders_with_few_files_leave_no_cache(tmp_path: Path) -> None:
    tree(tmp_path / "root", [f"{i}.jpg" for i in range(4)])
    list_images(tmp_path / "root", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("how", ["empty", "cut off", "foreign", "no zip"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, walks: list[Path], how: str) -> None:
    root, cache = tmp_path / "root", tmp_path / "cache"
    tree(root, [f"{i}.jpg" for i in range(4)])
    list_images(root, cache)
    (file,) = cache.iterdir()
    if how == "foreign":
        with file.open("wb") as out:
            np.savez(out, something=np.arange(3))
    else:
        file.write_bytes({"empty": b"", "cut off": file.read_bytes()[:-300], "no zip": b"hello"}[how])
    assert list(list_images(root, cache)) == slowly(root) and len(walks) == 2
    assert list(list_images(root, cache)) == slowly(root) and len(walks) == 2


def test_a_place_that_cannot_hold_the_cache_does_no_harm(tmp_path: Path, walks: list[Path]) -> None:
    (tmp_path / "file").write_text("in the way")
    tree(tmp_path / "root", [f"{i}.jpg" for i in range(4)])
    for _ in range(2):
        assert list(list_images(tmp_path / "root", tmp_path / "file" / "cache")) == slowly(tmp_path / "root")
    assert len(walks) == 2


def test_the_cache_lies_where_the_environment_says(
    tmp_path: Path, walks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    tree(tmp_path / "root", [f"{i}.jpg" for i in range(4)])
    list_images(tmp_path / "root")
    assert len(list((tmp_path / "caches" / "simclr-plus" / "listings").glob("*.npz"))) == 1


def test_a_held_out_part_of_a_listed_folder_keeps_files_and_labels_together(tmp_path: Path) -> None:
    tree(tmp_path, [f"{folder}/{i}.jpg" for folder in "abc" for i in range(10)])
    images = open_folder(tmp_path)
    assert images.labels is not None
    held, kept = (images.subset(part) for part in held_out_indices(images.labels, 0.2))
    assert (len(held), len(kept)) == (6, 24) and not set(held.paths) & set(kept.paths)
    for part in (held, kept):
        assert part.labels is not None
        assert [part.classes[label] for label in part.labels] == [path.parent.name for path in part.paths]
