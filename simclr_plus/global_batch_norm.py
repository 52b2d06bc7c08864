"""Batch norm over the global batch: every process sees the statistics of all rows of all processes (paper, 2.3).

As in the authors' code the running variance keeps the biased batch variance (PyTorch's own layers store the unbiased
one). It runs on CPU with gloo as on GPUs; in a single process it is PyTorch's batch norm.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from simclr_plus.distributed import all_gather, sum_over_processes, world_size


class _GlobalBatchNorm(_BatchNorm):
    """Statistics of a training batch over all processes; `center=False` leaves out the offset (beta)."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1, center: bool = True) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.over_processes = True  # False: statistics of this process alone
        if not center:
            del self.bias
            self.register_buffer("bias", torch.zeros(num_features), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, C, ...] -> the same shape, normalised a channel."""
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        y, mean, variance = self._normalise(x)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
            self.num_batches_tracked += 1
        return y

    def _normalise(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y, and mean and biased variance [C] over all rows of all processes."""
        processes = world_size() if self.over_processes else 1
        if processes > 1 and not x.is_cuda:
            y, mean, variance = _NormaliseGlobally.apply(x, self.weight, self.bias, self.eps)
            return y, mean, variance
        # PyTorch's fused kernels hand out the batch's own statistics when momentum is 1, the variance unbiased
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        if processes == 1:
            y = F.batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
        else:  # what torch.nn.SyncBatchNorm calls; that layer itself refuses a missing offset
            from torch.nn.modules._functions import SyncBatchNorm

            group = torch.distributed.group.WORLD
            y = SyncBatchNorm.apply(x, self.weight, self.bias, mean, variance, self.eps, 1.0, group, processes)
        count = processes * x.numel() // x.shape[1]
        return y, mean, variance * ((count - 1) / count)


class GlobalBatchNorm1d(_GlobalBatchNorm):
    """Global batch norm of features [rows, C]."""

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim not in (2, 3):
            raise ValueError(f"GlobalBatchNorm1d takes [rows, C] or [rows, C, L], got {tuple(x.shape)}")


class GlobalBatchNorm2d(_GlobalBatchNorm):
    """Global batch norm of feature maps [rows, C, H, W]."""

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim != 4:
            raise ValueError(f"GlobalBatchNorm2d takes [rows, C, H, W], got {tuple(x.shape)}")


class _NormaliseGlobally(torch.autograd.Function):
    """(x, weight, bias, eps) -> y, global mean [C], global biased variance [C]; gradients flow through both."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):  # type: ignore[no-untyped-def]
        rows = [d for d in range(x.ndim) if d != 1]
        wide = x if x.dtype == torch.float64 else x.float()
        variance, mean = torch.var_mean(wide, dim=rows, correction=0)
        count = mean.new_full((1,), x.numel() // x.shape[1])
        of_processes = all_gather(torch.cat([mean, variance, count]))
        means, variances, counts = torch.tensor_split(of_processes, [len(mean), 2 * len(mean)], dim=1)
        share = counts / counts.sum()
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean) ** 2)).sum(0)
        inverse_std = torch.rsqrt(variance + eps)
        shape = [1, -1] + [1] * (x.ndim - 2)
        ctx.save_for_backward(x, weight, mean, inverse_std)
        ctx.count = counts.sum()
        y = (wide - mean.view(shape)) * (inverse_std * weight).view(shape) + bias.view(shape)
        ctx.mark_non_differentiable(mean, variance)
        return y.to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx, grad_y, _grad_mean, _grad_variance):  # type: ignore[no-untyped-def]
        x, weight, mean, inverse_std = ctx.saved_tensors
        rows = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        wide = x if x.dtype == torch.float64 else x.float()
        normalised = (wide - mean.view(shape)) * inverse_std.view(shape)
        grad_y = grad_y.to(wide.dtype)
        grad_bias = grad_y.sum(rows)
        grad_weight = (grad_y * normalised).sum(rows)
        over_all = sum_over_processes(torch.stack([grad_bias, grad_weight])) / ctx.count
        grad_x = grad_y - over_all[0].view(shape) - normalised * over_all[1].view(shape)
        grad_x = (grad_x * (inverse_std * weight).view(shape)).to(x.dtype)
        return grad_x, grad_weight, grad_bias if ctx.needs_input_grad[2] else None, None


def convert_global_batch_norm(model: nn.Module) -> nn.Module:
    """Replace every BatchNorm1d, BatchNorm2d and SyncBatchNorm of a model by a global one; weights are kept."""
    for name, child in model.named_children():
        setattr(model, name, convert_global_batch_norm(child))
    if isinstance(model, nn.BatchNorm1d):
        return _converted(model, GlobalBatchNorm1d)
    if isinstance(model, nn.BatchNorm2d | nn.SyncBatchNorm):
        return _converted(model, GlobalBatchNorm2d)
    return model


def _converted(layer: _BatchNorm, kind: type[_GlobalBatchNorm]) -> _GlobalBatchNorm:
    if not layer.affine or not layer.track_running_stats or layer.momentum is None:
        raise ValueError(f"{layer} cannot become global: it needs affine weights, running statistics and a momentum")
    new = kind(layer.num_features, eps=layer.eps, momentum=layer.momentum)
    new.load_state_dict(layer.state_dict())
    new.weight, new.bias = layer.weight, layer.bias  # the same Parameter objects: optimizers stay valid
    return new.to(layer.weight.device, layer.weight.dtype).train(layer.training)
