"""mkdocs: README, CHANGELOG and CONTRIBUTING are pages of the site; their links are made those of its pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

OF_THE_ROOT = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page; one that stands for a file of the root gets that file's."""
    for file, name in OF_THE_ROOT.items():
        if page.file.src_uri == name:
            markdown = Path(file).read_text(encoding="utf-8").replace("](docs/", "](")
    for file, name in OF_THE_ROOT.items():
        markdown = markdown.replace(f"]({file})", f"]({name})").replace(f"](../{file})", f"]({name})")
    return markdown
