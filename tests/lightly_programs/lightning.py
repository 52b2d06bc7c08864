"""A LightningModule of Lightly's parts under DDP on two CPU processes, with each of ours in place of its own.

python lightning.py OUT: writes OUT/NAME.RANK.pt; Lightning starts the second process by running this program again.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from parts import BATCH, SWAPPED, SimCLR, criterion, kept, loader, optimizer, write_images
from torch import Tensor

STEPS, PROCESSES = 4, 2


class Module(pl.LightningModule):
    def __init__(self, swapped: tuple[str, ...]) -> None:
        super().__init__()
        self.swapped = swapped
        self.model = SimCLR(swapped)
        self.criterion = criterion(swapped, gather=True)
        self.losses: list[float] = []
        self.first_views: Tensor | None = None
        self.start = kept(self.model)
        self.after_one: dict[str, Tensor] = {}

    def training_step(self, batch: Any, _index: int) -> Tensor:
        (x0, x1), _, _ = batch
        if self.first_views is None:
            self.first_views = torch.stack([x0, x1])
        loss: Tensor = self.criterion(self.model(x0), self.model(x1))
        self.losses.append(loss.item())
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        if not self.after_one:
            self.after_one = kept(self.model)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer(self.model, self.swapped)


def train(swapped: tuple[str, ...], out: Path) -> tuple[Module, int]:
    pl.seed_everything(0)
    module = Module(swapped)
    pl.seed_everything(1)  # whatever the parts have drawn, the views are the same
    trainer = pl.Trainer(
        strategy="ddp",
        accelerator="cpu",
        devices=PROCESSES,
        max_steps=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=out,
    )
    trainer.fit(module, loader(out / "images", swapped, BATCH // PROCESSES))
    return module, trainer.global_rank


def main(out: Path) -> None:
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch")
    torch.set_num_threads(1)
    if not (out / "images").exists():
        write_images(out / "images")
    for name, swapped in SWAPPED.items():
        module, rank = train(swapped, out)
        states = {"start": module.start, "after_one": module.after_one, "end": kept(module.model)}
        torch.save({"losses": module.losses, "views": module.first_views, **states}, out / f"{name}.{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
