"""Paths as a recipe records them: whole, with `~` and `$NAME` replaced."""

from __future__ import annotations

import os
import re
from pathlib import Path

from simclr_plus.errors import RecipeError


def whole_path(text: str, key: str) -> str:
    """A path from the root of the file system, `~` and `$NAME` replaced; raises RecipeError naming the key."""
    if not text.strip():
        raise RecipeError(f"{key} is empty; give the path of a folder or file, or . for the working directory")
    if "\0" in text:
        raise RecipeError(f"{key} = {text!r}: no path has such a character; take it out")
    path = Path(text)
    if not (path.is_absolute() and path.exists()):  # whatever is in its name then
        path = Path(re.sub(r"\$(?:([A-Za-z_]\w*)|\{(\w+)\})", lambda name: _variable(name, key), text))
        try:
            path = path.expanduser()
        except RuntimeError:
            raise RecipeError(f"{key} = {text!r}: there is no such home folder; give the whole path") from None
    whole = os.path.join(_working_directory(key), path)  # noqa: PTH118 (pathlib keeps no "..", or asks the disk)
    plain = os.path.normpath(whole)
    whole = plain if os.path.realpath(plain) == os.path.realpath(whole) else whole  # a link may stand before ".."
    try:
        whole.encode()
    except UnicodeEncodeError:
        readable = os.fsencode(whole).decode("utf-8", "backslashreplace")
        raise RecipeError(
            f"{key} = {readable}: a recipe is UTF-8 text, which this name is not; rename the folder, or link to it"
        ) from None
    return whole


def _variable(name: re.Match[str], key: str) -> str:
    value = os.environ.get(name[1] or name[2], "")
    if not value:
        raise RecipeError(f"{key} holds {name[0]}, which is not set or empty; set it, or give the path")
    return value


def _working_directory(key: str) -> str:
    try:
        return str(Path.cwd())
    except OSError:
        raise RecipeError(f"{key}: the working directory is gone; go to one that exists") from None
