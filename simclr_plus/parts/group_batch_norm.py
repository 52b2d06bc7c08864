"""Batch norm over groups of consecutive rows: what many processes with batch norms of their own compute, in one.

MoCo needs it: keys go through their network in groups other than those of the queries, so that statistics do not tell
which key belongs to a query (He et al. 2019, section 3.3). Groups of 32 rows are those of the authors' 8 GPUs with 256
images, whatever the number of processes here, and no process waits for another.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr_plus.distributed import sum_over_processes, world_size
from simclr_plus.global_batch_norm import GlobalBatchNorm, _GlobalBatchNormAct, _take_in, convert_global_batch_norm


class GroupBatchNorm(GlobalBatchNorm):
    """In training each group of `rows` consecutive rows is normalised by itself; state dict as of torch.nn.BatchNorm2d.

    The running statistics take in the average over the groups of this process: `average_running_statistics` makes them
    those of all processes. Evaluation reads them, whatever the number of rows. rows = 0: global batch norm.
    """

    rows = 0

    def forward(self, x: Tensor) -> Tensor:
        """[G rows, C, ...] -> the same shape; raises ValueError where the rows are no whole groups."""
        if not (self.training and self.rows):
            return super().forward(x)
        self._check_input_dim(x)
        if not len(x) or len(x) % self.rows:
            raise ValueError(
                f"batch norm in groups of {self.rows} rows takes whole groups, got {len(x)} rows; give a multiple of "
                f"{self.rows}, or group_batch_norm(model, {len(x) or 1})"
            )
        parts = torch.split(x, self.rows)
        if self.running_mean is None or self.running_var is None:
            return torch.cat(
                [F.batch_norm(part, None, None, self.weight, self.bias, True, 0.0, self.eps) for part in parts]
            )
        # PyTorch's kernels hand out the batch's own statistics when momentum is 1, the variance unbiased
        shape = (len(parts), *self.running_mean.shape)
        means, variances = self.running_mean.new_zeros(shape), self.running_var.new_zeros(shape)
        outputs = [
            F.batch_norm(part, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
            for part, mean, variance in zip(parts, means, variances, strict=True)
        ]
        count = self.rows * x[0, 0].numel()
        biased = variances.mean(0) * ((count - 1) / count)
        _take_in(self.running_mean, self.running_var, self.num_batches_tracked, self.momentum, means.mean(0), biased)
        return torch.cat(outputs)


class _GroupBatchNormAct(_GlobalBatchNormAct, GroupBatchNorm):
    """The same of a norm of timm's that drops and activates what it has normalised."""


def group_batch_norm(model: nn.Module, rows: int) -> nn.Module:
    """Make every batch norm of a model one over groups of `rows` rows, in place; 0: over the global batch.

    Weights, statistics, settings and hooks stay as they are. Raises ValueError for what
    `convert_global_batch_norm` refuses, and for rows < 0.
    """
    if rows < 0:
        raise ValueError(f"rows = {rows}; groups have 1 row or more, 0 is the global batch")
    for layer in convert_global_batch_norm(model).modules():
        if isinstance(layer, GlobalBatchNorm):
            with_activation = type(layer).forward is _GlobalBatchNormAct.forward
            if not with_activation and type(layer).forward not in (GlobalBatchNorm.forward, GroupBatchNorm.forward):
                raise ValueError(f"{type(layer).__name__} does more than a batch norm, which would be lost; replace it")
            layer.dimensions = layer.dimensions  # of the class that it had
            layer.__class__ = _GroupBatchNormAct if with_activation else GroupBatchNorm
    for layer in model.modules():
        if isinstance(layer, GroupBatchNorm):
            layer.rows = rows
    return model


@torch.no_grad()
def average_running_statistics(model: nn.Module) -> None:
    """Give all processes the mean of the running statistics of their groups, by one collective for the whole model.

    What the running statistics take in is linear in them, so that it may be called after every step, or only before
    they are read: the outcome is the same.
    """
    running = [
        buffer
        for layer in model.modules()
        if isinstance(layer, GroupBatchNorm) and layer.rows
        for buffer in (layer.running_mean, layer.running_var)
        if buffer is not None
    ]
    if world_size() == 1 or not running:
        return
    mean = sum_over_processes(torch.cat(running)) / world_size()
    for buffer, value in zip(running, torch.split(mean, [len(buffer) for buffer in running]), strict=True):
        buffer.copy_(value)
