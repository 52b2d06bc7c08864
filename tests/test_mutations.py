"""Every constant of the law is held by a test that fails when it changes (mutations.txt); a third in a long run."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from parameters import slow_or_soak
from places import ROOT, TESTS

PACKAGE = ROOT / "simclr_plus"


def listed() -> list[list[Any]]:
    code = "import json, mutations; print(json.dumps([list(vars(m).values()) for m in mutations.all_mutations()]))"
    out = subprocess.run([sys.executable, "-c", code], cwd=TESTS, capture_output=True, text=True, check=True).stdout
    return list(json.loads(out))


def test_each_mutation_still_has_its_place_and_its_test() -> None:
    mutations = listed()
    assert len(mutations) > 150
    for file, tests, old, new in mutations:
        assert (PACKAGE / file).read_text().count(old) == 1 and old != new, (file, old)
        for test in tests:
            path, _, name = test.partition("::")
            assert f"def {name}" in (TESTS / path).read_text(), test


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("share", slow_or_soak(["1/3", "2/3", "3/3"], ["2/3", "3/3"]))
def test_every_mutation_is_noticed(share: str) -> None:
    command = [sys.executable, str(TESTS / "mutations.py"), "--share", share]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_change_that_means_nothing_survives_and_is_told() -> None:
    """So that a mutation counted as noticed was noticed, and did not just break the import."""
    code = (
        "import mutations as m\n"
        "test = ('test_schedules.py::test_every_rate_is_that_of_the_authors',)\n"
        "same = m.Mutation('schedules.py', test, 'base * batch_size / 256', 'base / 256 * batch_size')\n"
        "print(*m.survivors([same]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TESTS, capture_output=True, text=True, check=True)
    assert "base / 256 * batch_size" in done.stdout
