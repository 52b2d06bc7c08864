"""Where the tests and their data lie, whatever folder the test that asks is in."""

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
GOLDEN_FOLDER = TESTS / "golden"  # arrays of the authors' code
