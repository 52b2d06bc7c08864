"""Checkpoints of a run: begun by process 0, noted and thinned out when they are on disk."""

from __future__ import annotations

from pathlib import Path

from simclr_plus.training.state import Training
from simclr_plus.weights.checkpoints import checkpoint_header


def save(t: Training) -> None:
    """Begin to save a checkpoint; what the recipe does not keep is dropped when the file is there."""
    if t.is_main:
        note_saved(t, t.saver.wait())
        header = checkpoint_header(
            t.step, t.recipe, len(t.images), t.images.classes, listing=t.identity.listing, sizes=t.identity.sizes
        )
        t.saver.save(t.run.checkpoint_file(t.step), t.model, t.optimizer, header)


def note_saved(t: Training, path: Path | None) -> None:
    """Tell of a checkpoint that is on disk now, if one is, and drop those that the recipe does not keep."""
    if path is None:
        return
    t.run.log_event("checkpoint", step=_step_of(path), file=path.name)
    for old in t.run.checkpoint_files()[: -t.recipe.checkpoints.keep_last]:
        if not t.crossed(t.recipe.checkpoints.keep_every_epochs, step=_step_of(old)):
            old.unlink(missing_ok=True)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("step_"))
