from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from simclr_plus.datasets import file_list, held_out_indices, open_folder
from simclr_plus.datasets.file_list import SUFFIXES, list_images, shown_name
from simclr_plus.errors import EnvironmentNotAbleError

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


def names_in(root: Path) -> list[str]:
    return [os.fsdecode(list_images(root).name(i)) for i in range(len(list_images(root)))]


def test_a_link_that_leads_back_lists_no_image_twice(tmp_path: Path) -> None:
    tree(tmp_path / "root", ["a/1.jpg", "b/2.jpg"])
    for place, target in {"a/back": "..", "a/up": "../..", "b/itself": ".", "loop": "loop", "z": "a"}.items():
        (tmp_path / "root" / place).symlink_to(target)
    (tmp_path / "elsewhere.jpg").touch()
    assert names_in(tmp_path / "root") == ["a/1.jpg", "b/2.jpg"]
    assert any("loop" in note for note in list_images(tmp_path / "root").notes)


def test_a_folder_keeps_its_own_name_before_that_of_a_link_to_it(tmp_path: Path) -> None:
    tree(tmp_path / "root", ["b/1.jpg", "c/2.jpg"])
    (tmp_path / "root" / "a").symlink_to("b")
    tree(tmp_path / "store", ["d/3.jpg", "d/deep/4.jpg"])
    for name in ("y", "x"):
        (tmp_path / "root" / name).symlink_to(tmp_path / "store" / "d")
    (tmp_path / "root" / "w").symlink_to(tmp_path / "store" / "d" / "deep")
    assert names_in(tmp_path / "root") == ["b/1.jpg", "c/2.jpg", "w/4.jpg", "x/3.jpg"]


@pytest.mark.parametrize(
    "hidden", [".ipynb_checkpoints", "@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", "lost+found"]
)
def test_hidden_folders_are_left_out_and_named(tmp_path: Path, hidden: str) -> None:
    tree(tmp_path / "root", ["a/1.jpg", f"a/{hidden}/1.jpg", f"{hidden}/2.jpg", "b/3.jpg", f"{hidden}/deep/4.jpg"])
    images = open_folder(tmp_path / "root")
    assert names_in(tmp_path / "root") == ["a/1.jpg", "b/3.jpg"] and images.classes == ("a", "b")
    assert any(hidden in note for note in images.notes)


def test_only_files_are_images(tmp_path: Path) -> None:
    tree(tmp_path, ["1.jpg", "folder.jpg/2.jpeg", "3.JPeG"])
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("pipe.jpg")
    assert names_in(tmp_path) == ["1.jpg", "3.JPeG", "folder.jpg/2.jpeg"]
    assert any("pipe.jpg" in note and "link.jpg" in note for note in list_images(tmp_path).notes)


def test_a_link_that_leads_nowhere_is_told_and_a_list_with_it_is_not_kept(tmp_path: Path, walks: list[Path]) -> None:
    root, cache = tmp_path / "root", tmp_path / "cache"
    tree(root, [f"a/{i}.jpg" for i in range(4)])
    (root / "b").symlink_to(tmp_path / "store")
    (root / "gone.jpg").symlink_to(tmp_path / "store" / "0.jpg")
    settle(root)
    first = list_images(root, cache)
    assert len(first) == 5 and any("b, gone.jpg" in note for note in first.notes)  # reading gone.jpg will name it
    tree(tmp_path / "store", ["0.jpg"])
    assert len(list_images(root, cache)) == 6


def test_several_names_of_one_file_are_told(tmp_path: Path, walks: list[Path]) -> None:
    root = tmp_path / "root"
    tree(root, ["a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"])
    os.link(root / "a/1.jpg", root / "b/hard.jpg")
    (root / "b/soft.jpg").symlink_to("../a/2.jpg")
    settle(root)
    fresh, kept = (list_images(root, tmp_path / "cache") for _ in range(2))
    assert len(walks) == 1 and kept.notes == fresh.notes and len(fresh) == 6
    (note,) = fresh.notes
    assert note.startswith("2 images") and {"hard.jpg" in note or "a/1.jpg" in note} == {True}


def test_a_folder_that_cannot_be_read_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, ["a/1.jpg", "locked/2.jpg"])
    scandir = os.scandir

    def refuse(path: bytes) -> object:
        if b"locked" in path:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(EnvironmentNotAbleError, match="locked"):
        list_images(tmp_path)


def test_pictures_of_kinds_that_are_not_read_are_counted(tmp_path: Path) -> None:
    tree(tmp_path, ["1.jpg", "2.HEIC", "3.heic", "notes.txt", ".4.heic"])
    assert any("2 .heic" in note for note in list_images(tmp_path).notes)


def test_names_with_line_ends_and_other_bytes_can_be_shown_and_opened(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9\n\x1b[31m.jpg"
    with open(odd, "wb") as file:  # noqa: PTH123
        file.write(b"here")
    (path,) = list_images(tmp_path, tmp_path / "cache")
    assert path.read_bytes() == b"here"
    assert shown_name(path).encode().endswith(rb"/caf\xe9\n\x1b[31m.jpg") and shown_name(path).isprintable()


def test_joined_names_are_those_of_the_list(tmp_path: Path) -> None:
    tree(tmp_path, [f"{folder}/{i}.jpg" for folder in ("a", "bb") for i in range(12)])
    found = list_images(tmp_path)
    for part in (found, found.subset(np.array([20, 3, 3])), found[:0]):
        blob, lengths = part.joined_names()
        ends = np.cumsum(lengths)
        assert [blob[e - n : e] for e, n in zip(ends, lengths, strict=True)] == [part.name(i) for i in range(len(part))]
