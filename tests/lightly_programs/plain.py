"""Lightly's loop in plain PyTorch, once with its own parts and once for each of ours in place of its own.

python plain.py OUT [NAME ...]: writes OUT/NAME.pt of each with the losses, the model at the start, after a step and at
the end. Those named train for two epochs, the others for one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from parts import BATCH, SWAPPED, SimCLR, criterion, kept, loader, optimizer, write_images


def train(swapped: tuple[str, ...], folder: Path, epochs: int) -> dict[str, object]:
    torch.manual_seed(0)
    model = SimCLR(swapped)
    start = kept(model)
    loss_of, update = criterion(swapped, gather=False), optimizer(model, swapped)
    torch.manual_seed(1)
    losses, after_one, seen = [], {}, None
    for _ in range(epochs):
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


def main(out: Path, longer: list[str]) -> None:
    torch.set_num_threads(1)
    write_images(out / "images")
    for name, swapped in SWAPPED.items():
        torch.save(train(swapped, out / "images", 2 if name in longer else 1), out / f"{name}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
