"""Lightly's loop in plain PyTorch, once with its own parts and once for each of ours in place of its own.

python plain.py OUT: writes OUT/NAME.pt with the losses, the model at the start, after a step and at the end.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from parts import BATCH, PARTS, SimCLR, criterion, kept, loader, optimizer, write_images

STEPS = 8


def train(swapped: tuple[str, ...], folder: Path) -> dict[str, object]:
    torch.manual_seed(0)
    model = SimCLR(swapped)
    start = kept(model)
    loss_of, update = criterion(swapped, gather=False), optimizer(model, swapped)
    torch.manual_seed(1)
    losses, after_one, seen = [], {}, None
    while len(losses) < STEPS:
        # the order is drawn anew for each epoch; workers only where the views are ours: those of Lightly hang on them
        for (x0, x1), _, _ in loader(folder, swapped, BATCH, workers=2 if "transform" in swapped else 0):
            loss = loss_of(model(x0), model(x1))
            loss.backward()
            update.step()
            update.zero_grad()
            losses.append(loss.item())
            if len(losses) == 1:
                after_one, seen = kept(model), torch.stack([x0, x1])
    return {"losses": losses, "start": start, "after_one": after_one, "end": kept(model), "views": seen}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    write_images(out / "images")
    for name, swapped in [("none", ()), *((part, (part,)) for part in PARTS), ("all", PARTS)]:
        torch.save(train(swapped, out / "images"), out / f"{name}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
