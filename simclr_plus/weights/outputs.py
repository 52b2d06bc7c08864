"""Files that a verb is asked to write: no input is replaced, nor a file of another kind. Asked before the work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from simclr_plus.errors import CheckpointError, RecipeError
from simclr_plus.weights.tensor_files import read_header


def format_in_header(path: Path) -> str | None:
    """What a safetensors file says it is; None for any other file."""
    try:
        return read_header(path).get("format")
    except CheckpointError:
        return None


def require_output(
    target: Path,
    format: str,
    *,
    inputs: Iterable[Path] = (),
    format_of: Callable[[Path], str | None] = format_in_header,
) -> None:
    """Raises RecipeError unless `target` is free, or a file of this format that is none of the inputs."""
    if target.is_dir():
        raise RecipeError(f"--output {target} is a folder; name a file in it")
    if not target.exists():
        return
    require_no_input(target, inputs)
    if format_of(target) != format:
        raise RecipeError(
            f"--output {target} is there already and is no file of this kind ({format}); name another, or remove it"
        )


def require_no_input(target: Path, inputs: Iterable[Path]) -> None:
    """Raises RecipeError where `target` is a file that is read."""
    if target.exists() and any(path.exists() and path.samefile(target) for path in inputs):
        raise RecipeError(f"--output {target} is the file that is read; name another, so that both are there")
