"""Whether compiled loops can be kept for the next process, which then loads them in a second instead of compiling.

Numba keeps them in __pycache__ beside the source, or where that is read-only in the user's own cache folder, or in
NUMBA_CACHE_DIR.
"""

from __future__ import annotations

from numba import njit


def _nothing() -> None:
    """A function of this folder, to ask for a place."""


def _has_a_place() -> bool:
    try:
        njit(cache=True)(_nothing)
    except RuntimeError:  # a read-only installation and no home: each process compiles for itself
        return False
    return True


KEPT = _has_a_place()
