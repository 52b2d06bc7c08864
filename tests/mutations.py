"""The mutation check: every constant of the law in mutations.txt, when changed, fails the test named there.

    python tests/mutations.py [WORD ...]      all of them, or those whose line holds a word; exit code 1 if one survives
    python tests/mutations.py --share 2/3     every third, from the second on

A forked process imports the package with one piece of one file changed and runs the tests; nothing on disk is touched.
Compiled loops run as plain Python there, except those of the draws, which are compiled anew.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "simclr_plus"
COMPILED = "augmentations/draws.py"  # thousands of draws in plain Python would take minutes
AT_ONCE = 2  # processes
ONCE_FOR_ALL_FORKS = "hypothesis lightly.loss numba pydantic pytest safetensors.torch timm torch torchvision"


@dataclass(frozen=True)
class Mutation:
    """`old` in `file`, where it stands once, becomes `new`; `tests` must then fail."""

    file: str
    tests: tuple[str, ...]
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.file}: {self.old}  =>  {self.new}"


def all_mutations() -> list[Mutation]:
    """Those of mutations.txt."""
    found: list[Mutation] = []
    file, tests = "", tuple[str, ...]()
    for line in (TESTS / "mutations.txt").read_text().splitlines():
        if line.startswith("[") and ".py] " in line:
            file, tests = line[1 : line.index("]")], tuple(line[line.index("]") + 1 :].split())
        elif line and not line.startswith("#"):
            old, _, new = line.partition("  =>  ")
            found.append(Mutation(file, tests, old, new))
    return found


class _Changed(importlib.abc.MetaPathFinder):
    """Finds one module in a file elsewhere."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_file_location(fullname, self.path) if fullname == self.name else None


@dataclass(frozen=True)
class Trial:
    """Tests running under a mutation, or under none, in a process of their own."""

    mutation: Mutation | None
    process: int
    printed: int

    @classmethod
    def start(cls, tests: Sequence[str], mutation: Mutation | None) -> Trial:
        read, write = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(read)
            text = io.StringIO()
            with redirect_stdout(text), redirect_stderr(text):
                code = _run(tests, mutation)
            os.write(write, text.getvalue().encode()[-3000:])
            os._exit(code)
        os.close(write)
        return cls(mutation, process, read)

    def failed(self) -> tuple[bool, str]:
        """Whether a test failed, and what pytest printed; RuntimeError where the tests did not run."""
        with os.fdopen(self.printed) as pipe:
            text = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        if code not in (0, 1):
            raise RuntimeError(f"{self.mutation or 'unchanged'}: pytest ended with {code}\n{text}")
        return code == 1, text


def _run(tests: Sequence[str], mutation: Mutation | None) -> int:
    import numba
    import pytest
    import torch

    torch.set_num_threads(1)
    folder = tempfile.mkdtemp()
    try:
        if mutation:
            text = (PACKAGE / mutation.file).read_text()
            assert text.count(mutation.old) == 1, f"{mutation.old!r} stands {text.count(mutation.old)} times"
            changed = Path(folder) / Path(mutation.file).name
            changed.write_text(text.replace(mutation.old, mutation.new))
            name = f"simclr_plus.{mutation.file.removesuffix('.py').replace('/', '.')}"
            sys.meta_path.insert(0, _Changed(name, changed))
            numba.config.DISABLE_JIT = mutation.file.startswith("augmentations/") and mutation.file != COMPILED
        options = [
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "--assert=plain",
            "--no-header",
            "--rootdir",
            str(TESTS.parent),
        ]
        return int(pytest.main([*options, *(str(TESTS / test) for test in tests)]))
    except BaseException as error:
        print(repr(error))
        return 70
    finally:
        shutil.rmtree(folder)


def survivors(mutations: Sequence[Mutation]) -> Iterator[Mutation]:
    """Mutations that no test notices, as they are found; raises RuntimeError where the tests fail without any."""
    for package in ONCE_FOR_ALL_FORKS.split():
        importlib.import_module(package)
    failed, printed = Trial.start(sorted({test for m in mutations for test in m.tests}), None).failed()
    if failed:
        raise RuntimeError(f"the tests fail without a mutation:\n{printed}")
    under_way: deque[Trial] = deque()
    for mutation in mutations:
        if len(under_way) == AT_ONCE:
            yield from _if_it_survived(under_way.popleft())
        under_way.append(Trial.start(mutation.tests, mutation))
    for trial in under_way:
        yield from _if_it_survived(trial)


def _if_it_survived(trial: Trial) -> Iterator[Mutation]:
    if trial.mutation and not trial.failed()[0]:
        yield trial.mutation


def main(words: Sequence[str]) -> int:
    if words[:1] == ["--share"]:
        number, shares = map(int, words[1].split("/"))
        chosen = all_mutations()[number - 1 :: shares]
    else:
        chosen = [m for m in all_mutations() if not words or any(word in f"{m} {m.tests}" for word in words)]
    alive = 0
    for mutation in survivors(chosen):
        alive += 1
        print(f"SURVIVED  {mutation}", flush=True)
    print(f"{len(chosen) - alive} of {len(chosen)} mutations were noticed")
    return 1 if alive or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
