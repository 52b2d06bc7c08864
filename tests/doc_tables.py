"""The tables of docs/ that the code itself says: recipe keys, layers, files. `python tests/doc_tables.py` writes them.

A table stands in its page between `<!-- NAME -->` and `<!-- end of NAME -->`; what is written around it is by hand.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from test_layers import LAYERS

import simclr_plus
from simclr_plus.cli.app import app
from simclr_plus.cli.first_look import GROUPS
from simclr_plus.recipe import documented_keys

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OTHER_NAMES = {  # public too, beside those of the package itself
    "augmentations.operations": (
        *("crop_and_resize", "adjust_brightness", "add_brightness", "adjust_contrast", "adjust_saturation"),
        *("adjust_hue", "to_grayscale", "gaussian_blur"),
    ),
    "losses.contrastive": ("nt_xent",),
    "lars": ("parameter_groups",),
    "schedules": ("peak_learning_rate", "warmup_cosine"),
    "datasets.decoding": ("decode_image",),
    "weights.head_files": ("load_head",),
}
SOURCES = {"simclr_plus": ROOT / "simclr_plus", "tui": ROOT / "tui"}


def key_table() -> str:
    """Every key of a recipe, a table a section."""
    tables: dict[str, list[str]] = {}
    for key, kind, default, meaning in documented_keys():
        section = key.partition(".")[0]
        title = f"## {section}" if "." in key else "## At the top of the file"
        head = [title, "", "| key | type | default | meaning |", "|---|---|---|---|"]
        row = [f"`{key}`", _cell(kind), f"`{json.dumps(default)}`", _cell(meaning)]
        tables.setdefault(section, head).append(f"| {' | '.join(row)} |")
    return "\n\n".join("\n".join(lines) for lines in tables.values())


def command_table() -> str:
    """Every command under its heading, with its words and options."""
    group = typer.main.get_group(app)
    context = typer.Context(group, info_name="simclr-plus")
    parts = []
    for heading, names in GROUPS.items():
        parts.append(f"## {heading}")
        for name in names:
            parts += _command_text(group.get_command(context, name), f"simclr-plus {name}")
    return "\n\n".join(parts)


def _command_text(command: Any, words: str) -> list[str]:
    """A command with its tables of words and options; of a group its commands."""
    inner = getattr(command, "commands", {})
    given = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join([words, *(_metavar(p) for p in given)])
    text = [f"### {words}", command.help, "" if inner else f"`{usage}`"]
    rows = [f"| `{_metavar(p)}` | {_cell(p.help or '')} | |" for p in given]
    rows += [f"| `{', '.join(p.opts)}` | {_cell(p.help or '')} | {_default(p)} |" for p in options]
    text.append("\n".join(["| word or option | meaning | default |", "|---|---|---|", *rows]) if rows else "")
    for name, command in inner.items():
        text += _command_text(command, f"{words} {name}")
    return [part for part in text if part]


def _metavar(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    name = name if argument.required or name.startswith("[") else f"[{name}]"
    return f"{name}..." if argument.nargs == -1 and not name.endswith("...") else name


def _default(option: Any) -> str:
    """As one types it; nothing for a flag and for what is empty."""
    is_said = option.default is not None and str(option.default) != "" and not option.is_flag
    return f"`{option.default}`" if is_said else ""


def name_table() -> str:
    """The public names, as mkdocstrings writes them out."""
    paths = [f"simclr_plus.{simclr_plus._HOME[name]}.{name}" for name in simclr_plus.__all__]
    paths += [f"simclr_plus.{module}.{name}" for module, names in OTHER_NAMES.items() for name in names]
    return "\n\n".join(f"::: {path}" for path in paths)


def layer_table() -> str:
    """The layers of tests/test_layers.py from the lowest on, with what each package says of itself."""
    lines = ["| layer | package or file | what it answers |", "|---|---|---|"]
    for number, names in enumerate(LAYERS.split("\n")[1:-1], 1):
        lines += [f"| {number} | `{_shown(name)}` | {_cell(_caption(_source(name)))} |" for name in names.split()]
    return "\n".join(lines)


def file_table() -> str:
    """Every module below its package, with the first sentence of its docstring."""
    parts = []
    for top, folder in SOURCES.items():
        for package in sorted({path.parent for path in folder.rglob("*.py")}):
            name = "/".join((top, *package.relative_to(folder).parts))
            files = [path for path in sorted(package.glob("*.py")) if path.name != "__init__.py"]
            rows = [f"| `{path.name}` | {_cell(_caption(path))} |" for path in files]
            table = ["| file | what it is |", "|---|---|", *rows, ""] if rows else []
            parts += [f"### {name}/", "", _cell(_caption(package / "__init__.py")), "", *table]
    return "\n".join(parts).rstrip()


def _caption(path: Path) -> str:
    """The first sentence of a file's docstring, or as much of it as stands in the first line."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def _source(name: str) -> Path:
    """The file of a name of the table of layers that says what it is."""
    folder = ROOT if name in ("tui", "recipes") else ROOT / "simclr_plus"
    return folder / name / "__init__.py" if (folder / name).is_dir() else folder / f"{name}.py"


def _shown(name: str) -> str:
    return f"{name}/" if _source(name).name == "__init__.py" else f"{name}.py"


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)


TABLES = {
    "recipes.md": {"keys": key_table},
    "commands.md": {"commands": command_table},
    "api.md": {"names": name_table},
    "architecture.md": {"layers": layer_table, "files": file_table},
}


def pages() -> Iterator[tuple[Path, str]]:
    """Each page with its tables as they should be."""
    for page, tables in TABLES.items():
        text = (DOCS / page).read_text()
        for name, table in tables.items():
            before, begin, rest = text.partition(f"<!-- {name} -->\n")
            _, end, after = rest.partition(f"<!-- end of {name} -->\n")
            assert begin and end, f"docs/{page} has no place for the table {name}"
            text = f"{before}{begin}\n{table()}\n\n{end}{after}"
        yield DOCS / page, text


if __name__ == "__main__":
    for page, text in pages():
        page.write_text(text)
