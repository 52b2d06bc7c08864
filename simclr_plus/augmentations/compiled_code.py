"""Loops compiled by Numba, kept for the next process where there is a place to keep them.

Numba keeps them in __pycache__ beside the source, or where that is read-only in the user's own cache folder, or in
NUMBA_CACHE_DIR. Loading takes a second, compiling half a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with these options, its code kept if it can be: the one decision, for each file where it lies."""

    def compile_it(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # a read-only installation and no home: each process compiles for itself
            return njit(**options)(function)

    return compile_it
