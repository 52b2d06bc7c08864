"""What verbs print: data to stdout, talk to stderr, and of several processes only the first one speaks.

Names and messages come from outside. They are printed as they are, never read as markup, and what would steer the
terminal is shown by its code.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import sys
from typing import Any

from simclr_plus.machine import torchrun

# C0 and C1 with DEL; what turns the direction of writing; separators of lines; halves of characters
UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
BOLD = re.compile(r"\*\*([^*]+)\*\*")  # a figure or a verdict that stands out
ANY_NAME = "simclr_plus.any_name"  # how stdout writes what its encoding lacks


def visible(text: str, *, lines: bool = False) -> str:
    r"""Text from outside as it may stand on a terminal; with `lines` its ends of lines and tabs are kept.

    >>> visible("a\x1b[2Jb\n")
    'a\\x1b[2Jb\\n'
    """
    return UNPRINTABLE.sub(lambda match: match[0] if lines and match[0] in "\n\t" else _code(match[0]), text)


def _code(character: str) -> str:
    """Its escape in Python; a byte that is no UTF-8 is shown as that byte."""
    number = ord(character)
    return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number <= 0xDCFF else ascii(character)[1:-1]


def take_any_name() -> None:
    """Let stdout write every name: one that is no UTF-8 as its own bytes, what the encoding lacks as escapes."""
    codecs.register_error(ANY_NAME, _encoded)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=ANY_NAME)


def _encoded(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    codes = (ord(character) for character in lacking)
    parts = (bytes([n - 0xDC00]) if 0xDC80 <= n <= 0xDCFF else _escape(n) for n in codes)
    return b"".join(parts), error.end


def _escape(number: int) -> bytes:
    return ascii(chr(number))[1:-1].encode("ascii")


def say(text: str) -> None:
    """A line for people, to stderr."""
    if _first_process():
        print(visible(text, lines=True), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """One JSON document."""
    if _first_process():
        print(json.dumps(value, indent=2))


def print_table(columns: list[str], rows: list[list[str]], title: str = "", *, grouped: int = 0) -> None:
    """A table as wide as the terminal; figures between two stars are bold. grouped: so many leading columns tell which
    group a row belongs to; what they repeat is left blank, and a line parts the groups of the first.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not _first_process():
        return
    table = Table()
    for column in columns:
        table.add_column(Text(visible(column)), overflow="fold")
    before: list[str] = []
    for row in rows:
        same = next((i for i in range(grouped) if row[: i + 1] != before[: i + 1]), grouped)
        if grouped and before and not same:
            table.add_section()
        texts = [*[""] * same, *row[same:]]
        table.add_row(*(_cell(text) for text in texts))
        before = row
    console = Console() if sys.stdout.isatty() else Console(width=160)
    if title:  # above the table, not within its width
        console.print(Text(visible(title), "italic"))
    console.print(table)


def _cell(text: str) -> Any:
    from rich.text import Text

    bold = BOLD.fullmatch(text)
    return Text(bold[1], "bold") if bold else Text(visible(text))


def _first_process() -> bool:
    return torchrun.is_first()
