"""The code that the pages of the methods show: parts alone, in a loop of one's own."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from places import ROOT

PAGES = sorted((ROOT / "docs" / "methods").glob("*.md"))
BLOCKS = [(page.stem, block) for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[page for page, _ in BLOCKS])
def test_the_code_of_a_method_s_page_gives_a_loss_that_its_parts_learn_from(page: str, block: str) -> None:
    names: dict[str, Any] = {}
    exec(compile(block, f"docs/methods/{page}.md", "exec"), names)
    loss = names["loss"]
    assert torch.isfinite(loss) and loss.ndim == 0 and loss.grad_fn is not None
