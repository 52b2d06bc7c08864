"""The code that the pages of the methods show: parts alone, in a loop of one's own."""

from __future__ import annotations

import re

import pytest
from places import ROOT

PAGES = sorted((ROOT / "docs" / "methods").glob("*.md"))
BLOCKS = [(page.stem, block) for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[page for page, _ in BLOCKS])
def test_the_code_of_a_method_s_page_runs(page: str, block: str) -> None:
    exec(compile(block, f"docs/methods/{page}.md", "exec"), {})
