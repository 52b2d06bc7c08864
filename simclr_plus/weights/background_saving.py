"""Checkpoints written while training goes on: a thread copies weights and momenta to buffers, then writes the file.

Between two updates weights and momenta stand still, so the thread may copy them while the next forward and backward
pass run; only what a forward pass changes (batch-norm statistics) is copied at once, and the next update waits for the
copy. One checkpoint is under way at a time; a save waits for the one before.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from simclr_plus.weights.checkpoints import checkpoint_tensors
from simclr_plus.weights.tensor_files import write_tensors

Tensors = dict[str, Tensor]


class CheckpointSaver:
    """Writes checkpoints in a thread; `with` it: leaving waits for the file under way.

    What goes wrong in the thread (a full disk) is raised by the next `save`, `finished` or `wait`.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._buffers: Tensors = {}
        self._device: torch.device | None = None  # where the weights lie, if on a CUDA device
        self._copying: Future[torch.cuda.Event | None] | None = None
        self._writing: Future[Path] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)

    def save(self, path: Path, model: nn.Module, optimizer: Optimizer, header: dict[str, str]) -> None:
        """Begin a checkpoint; the file at `path` appears, whole, some time later.

        Call `before_update` before anything changes weights or momenta.
        """
        self.wait()
        steady = checkpoint_tensors(model, optimizer)
        moving = {name: steady.pop(name) for name, _ in model.named_buffers() if name in steady}
        self._keep(moving)
        self._device = next((tensor.device for tensor in steady.values() if tensor.is_cuda), None)
        ready = None if self._device is None else torch.cuda.current_stream(self._device).record_event()
        self._copying = self._thread.submit(self._copy, steady, ready)
        self._writing = self._thread.submit(self._write, path, [*steady, *moving], header, self._copying)

    def before_update(self) -> None:
        """Wait until weights and momenta are copied (on CUDA the device waits, not the host)."""
        copying, self._copying = self._copying, None
        copied = copying.result() if copying is not None else None
        if copied is not None:
            torch.cuda.current_stream(self._device).wait_event(copied)

    def finished(self) -> Path | None:
        """The file that was completed since the last call, if any."""
        return self.wait() if self._writing is not None and self._writing.done() else None

    def wait(self) -> Path | None:
        """Wait for the file under way and return its path; None when nothing is."""
        self.before_update()
        writing, self._writing = self._writing, None
        return None if writing is None else writing.result()

    def _keep(self, tensors: Tensors) -> None:
        """Copy to the buffers, which have the tensors' memory layouts, are made once, and are pinned for CUDA."""
        for name, tensor in tensors.items():
            if name not in self._buffers:
                self._buffers[name] = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._buffers[name].copy_(tensor.detach(), non_blocking=True)

    def _copy(self, steady: Tensors, ready: torch.cuda.Event | None) -> torch.cuda.Event | None:
        if ready is None:
            self._keep(steady)
            return None
        with torch.cuda.device(self._device):  # CUDA's current device is a thread's own, and this is another thread
            side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_event(ready)
            with torch.cuda.stream(side):
                self._keep(steady)
            copied: torch.cuda.Event = side.record_event()
        return copied

    def _write(
        self, path: Path, names: list[str], header: dict[str, str], copying: Future[torch.cuda.Event | None]
    ) -> Path:
        copied = copying.result()
        if copied is not None:
            copied.synchronize()
        write_tensors(path, {name: self._buffers[name] for name in names}, header)
        return path
