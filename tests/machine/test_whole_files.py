"""Files appear whole, also where several write the same one at the same time with the same process id."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from simclr_plus.errors import EnvironmentNotAbleError
from simclr_plus.machine import locks, whole_files
from simclr_plus.machine.whole_files import remove_unfinished, write_text_whole, write_whole

HALF = 1000


def write_in_halves(path: Path, letter: bytes, meet: threading.Barrier) -> None:
    def write(aside: Path) -> None:
        with aside.open("wb", buffering=0) as file:
            file.write(letter * HALF)
            meet.wait(20)  # both have begun
            file.write(letter * HALF)

    write_whole(path, write)


def test_two_writers_of_one_process_do_not_mix_their_bytes(tmp_path: Path) -> None:
    path, meet = tmp_path / "x", threading.Barrier(2)
    threads = [threading.Thread(target=write_in_halves, args=(path, letter, meet)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in (b"a" * 2 * HALF, b"b" * 2 * HALF)
    assert list(tmp_path.iterdir()) == [path]


def test_two_containers_with_equal_process_ids_do_not_mix_their_bytes(tmp_path: Path) -> None:
    inside = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs leave to make process namespaces")
    code = f"""
import os, sys, time
from pathlib import Path
from simclr_plus.machine.whole_files import write_whole
folder, letter = Path(sys.argv[1]), sys.argv[2]
def write(aside):
    with aside.open("wb", buffering=0) as file:
        file.write(letter.encode() * {HALF})
        (folder / ("begun." + letter)).write_text(str(os.getpid()))
        while len(list(folder.glob("begun.*"))) < 2:
            time.sleep(0.01)
        file.write(letter.encode() * {HALF})
write_whole(folder / "x", write)
"""
    both = [subprocess.Popen([*inside, sys.executable, "-c", code, str(tmp_path), letter]) for letter in "ab"]
    assert [process.wait(60) for process in both] == [0, 0]
    assert (tmp_path / "begun.a").read_text() == (tmp_path / "begun.b").read_text()
    assert (tmp_path / "x").read_bytes() in (b"a" * 2 * HALF, b"b" * 2 * HALF)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("has_locks", [True, False])
def test_cleaning_up_leaves_what_a_living_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_locks: bool
) -> None:
    left = tmp_path / ".x.12345.part"
    left.write_bytes(b"half")
    os.utime(left, (time.time() - 3600,) * 2)
    if not has_locks:
        monkeypatch.setattr(whole_files, "lock_at_once", lambda *_, **__: None)

    def write(aside: Path) -> None:
        aside.write_bytes(b"whole")
        remove_unfinished(tmp_path)
        assert aside.exists() and not left.exists()

    write_whole(tmp_path / "x", write)
    assert (tmp_path / "x").read_bytes() == b"whole" and list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_a_writer_whose_file_is_cleaned_up_before_it_is_locked_takes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def lock_at_once(descriptor: int, **_: bool) -> bool | None:
        asked.append(descriptor)
        if len(asked) == 1:
            remove_unfinished(tmp_path)
        return locks.lock_at_once(descriptor)

    monkeypatch.setattr(whole_files, "lock_at_once", lock_at_once)
    write_text_whole(tmp_path / "x", "whole")
    assert (tmp_path / "x").read_text() == "whole" and list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text_whole(tmp_path / "x", "")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path: Path) -> None:
    write_text_whole(tmp_path / "x", os.fsdecode(b"caf\xe9.jpg") + "\n")
    assert (tmp_path / "x").read_bytes() == b"caf\xe9.jpg\n"


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text_whole(tmp_path / "x", "old")

    def write(aside: Path) -> None:
        aside.write_text("new")
        raise OSError(28, "No space left on device")

    with pytest.raises(EnvironmentNotAbleError):
        write_whole(tmp_path / "x", write)
    assert (tmp_path / "x").read_text() == "old" and list(tmp_path.iterdir()) == [tmp_path / "x"]
