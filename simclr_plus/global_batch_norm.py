"""Batch norm over the global batch: every process sees the statistics of all rows of all processes (paper, 2.3).

As in the authors' code the running variance keeps the biased batch variance (PyTorch's own layers store the unbiased
one). It runs on CPU with gloo as on GPUs; in a single process it is PyTorch's batch norm. Arguments, state dict and
modes are those of `torch.nn.BatchNorm2d`. The path of several GPUs was tried with its kernels written plainly on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from simclr_plus.distributed import all_gather, sum_over_processes, world_size


class GlobalBatchNorm(_BatchNorm):
    """Statistics of a training batch [rows, C, ...] over all processes; `center=False` leaves out the offset (beta).

    A process may hold other numbers of rows than the rest, or none. momentum=None averages over the batches seen.
    """

    dimensions: tuple[int, ...] = ()  # numbers of dimensions that are taken; (): two or more
    over_processes = True  # False: statistics of this process alone

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        center: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        if not center:
            self.register_parameter("bias", None)  # as of a torch.nn.BatchNorm2d with bias=False

    def forward(self, x: Tensor) -> Tensor:
        """[rows, C, ...] -> the same shape, normalised a channel."""
        self._check_input_dim(x)
        mean, variance, batches = self.running_mean, self.running_var, self.num_batches_tracked
        if not self.training:
            return F.batch_norm(x, mean, variance, self.weight, self.bias, mean is None, 0.0, self.eps)
        if not self.track_running_stats:
            mean = variance = batches = None
        return _normalised(
            x, self.weight, self.bias, mean, variance, batches, self.momentum, self.eps, self.over_processes
        )

    def __prepare_scriptable__(self) -> NoReturn:
        """Called by torch.jit.script, for which the processes are out of reach."""
        raise RuntimeError(
            f"torch.jit.script cannot compile {type(self).__name__}; use torch.compile, torch.export or torch.jit.trace"
        )

    def _check_input_dim(self, x: Tensor) -> None:
        _check_dimensions(x, type(self).__name__, self.dimensions)


class GlobalBatchNorm1d(GlobalBatchNorm):
    """Global batch norm of features [rows, C]."""

    dimensions = (2, 3)


class GlobalBatchNorm2d(GlobalBatchNorm):
    """Global batch norm of feature maps [rows, C, H, W]."""

    dimensions = (4,)


class GlobalBatchNorm3d(GlobalBatchNorm):
    """Global batch norm of volumes [rows, C, D, H, W]."""

    dimensions = (5,)


class _GlobalBatchNormAct(GlobalBatchNorm):
    """A norm of timm's that drops and activates what it has normalised."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        for name in ("drop", "act"):
            y = getattr(self, name)(y) if hasattr(self, name) else y
        return y


_SHAPES = {2: "[rows, C]", 3: "[rows, C, L]", 4: "[rows, C, H, W]", 5: "[rows, C, D, H, W]"}


# wrapped, so that torch.fx.symbolic_trace takes each as one step, as it does the layers of torch.nn


@torch.fx.wrap
def _check_dimensions(x: Tensor, name: str, dimensions: tuple[int, ...]) -> None:
    if x.ndim < 2 or (dimensions and x.ndim not in dimensions):
        shapes = " or ".join(_SHAPES[d] for d in dimensions) or "[rows, C, ...]"
        raise ValueError(f"{name} takes {shapes}, got {tuple(x.shape)}")


@torch.fx.wrap
def _normalised(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    momentum: float | None,
    eps: float,
    over_processes: bool,
) -> Tensor:
    """y in training; the running statistics, where there are any, take the batch's in."""
    y: Tensor
    if over_processes and world_size() > 1:
        y, mean, variance, rows = _NormaliseGlobally.apply(x, weight, bias, eps)
        if running_mean is not None and running_var is not None:
            seen = None
            if not x.numel():  # the other processes may have rows; without any, nothing changes
                seen = rows > 0
                mean, variance = torch.where(seen, mean, running_mean), torch.where(seen, variance, running_var)
            _take_in(running_mean, running_var, batches, momentum, mean, variance, seen)
        return y
    if running_mean is None or running_var is None:
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    # PyTorch's fused kernels hand out the batch's own statistics when momentum is 1, the variance unbiased
    mean, variance = torch.zeros_like(running_mean), torch.zeros_like(running_var)
    y = F.batch_norm(x, mean, variance, weight, bias, True, 1.0, eps)
    count = x.numel() // max(1, x.shape[1])
    if count:
        _take_in(running_mean, running_var, batches, momentum, mean, variance * ((count - 1) / count))
    return y


@torch.no_grad()
def _take_in(
    running_mean: Tensor,
    running_var: Tensor,
    batches: Tensor | None,
    momentum: float | None,
    mean: Tensor,
    variance: Tensor,
    seen: Tensor | None = None,
) -> None:
    """The running statistics move to the batch's by the momentum's share; without momentum they are plain averages."""
    if batches is not None:
        batches += 1 if seen is None else seen.to(batches.dtype)
    share: float | Tensor = 0.0 if momentum is None else momentum
    if momentum is None and batches is not None:
        share = batches.clamp_min(1).to(running_mean.dtype).reciprocal()
    running_mean.lerp_(mean.to(running_mean.dtype), share)
    running_var.lerp_(variance.to(running_var.dtype), share)


@contextmanager
def running_statistics_held(model: nn.Module) -> Iterator[None]:
    """Within, training batches leave the running statistics of a model's batch norms as they are."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, batches in kept:
        norm.momentum, norm.num_batches_tracked = 0.0, None if batches is None else torch.zeros_like(batches)
    try:
        yield
    finally:
        for norm, momentum, batches in kept:
            norm.momentum, norm.num_batches_tracked = momentum, batches


class _NormaliseGlobally(torch.autograd.Function):
    """(x, weight, bias, eps) -> y, global mean [C] and biased variance [C], rows of all; gradients flow through both.

    One collective forward, one backward. Nothing is read back from the device: the host never waits for it.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps):  # type: ignore[no-untyped-def]
        steps = _steps_for(x)
        x = steps.dense(x)
        mean, variance = steps.statistics(x, eps) if x.numel() else _no_statistics(x)
        count = mean.new_full((1,), x.numel() // max(1, x.shape[1]))
        of_processes = all_gather(torch.cat([mean, variance, count]))
        means, variances, counts = torch.tensor_split(of_processes, [len(mean), 2 * len(mean)], dim=1)
        rows = counts.sum()
        share = counts / rows.clamp_min(1)
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean) ** 2)).sum(0)
        inverse_std = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, weight, mean, inverse_std, counts)
        ctx.mark_non_differentiable(mean, variance, rows)
        y = steps.scaled(x, weight, bias, mean, inverse_std, eps) if x.numel() else torch.empty_like(x)
        return y, mean, variance, rows

    @staticmethod
    def backward(ctx, grad_y, _grad_mean, _grad_variance, _grad_rows):  # type: ignore[no-untyped-def]
        if torch.is_grad_enabled():
            raise RuntimeError(
                "batch norm over several processes has first derivatives only; for second ones (create_graph=True) set "
                "over_processes = False on the norms, or use one process"
            )
        x, weight, mean, inverse_std, counts = ctx.saved_tensors
        steps = _steps_for(x)
        sums, rest = steps.sums(grad_y, x, mean, inverse_std) if x.numel() else (mean.new_zeros(2, len(mean)), None)
        of_all = sum_over_processes(sums)  # a process without rows takes part
        grad_x = (
            torch.empty_like(x) if rest is None else steps.gradient(rest, x, weight, mean, inverse_std, of_all, counts)
        )
        needs = ctx.needs_input_grad
        return grad_x, sums[1] if needs[1] else None, sums[0] if needs[2] else None, None


def _no_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    nothing = x.new_zeros(x.shape[1], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    return nothing, nothing


def _steps_for(x: Tensor) -> type[_Plainly] | type[_WithKernels]:
    return _WithKernels if x.is_cuda else _Plainly


class _Plainly:
    """What is done to the rows of this process, in operations that every device has."""

    @staticmethod
    def dense(x: Tensor) -> Tensor:
        return x

    @staticmethod
    def statistics(x: Tensor, _eps: float) -> tuple[Tensor, Tensor]:
        """Mean and biased variance [C]."""
        wide, rows, _ = _Plainly._wide(x)
        variance, mean = torch.var_mean(wide, dim=rows, correction=0)
        return mean, variance

    @staticmethod
    def scaled(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, inverse_std: Tensor, _eps: float
    ) -> Tensor:
        """y."""
        wide, _, shape = _Plainly._wide(x)
        factor = inverse_std if weight is None else inverse_std * weight
        y = (wide - mean.view(shape)) * factor.view(shape)
        y = y if bias is None else y + bias.view(shape)
        return y.to(x.dtype)

    @staticmethod
    def sums(grad_y: Tensor, x: Tensor, mean: Tensor, inverse_std: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """[2, C], of the gradient and of its product with the normalised x; and these two."""
        wide, rows, shape = _Plainly._wide(x)
        normalised = (wide - mean.view(shape)) * inverse_std.view(shape)
        grad_y = grad_y.to(wide.dtype)
        return torch.stack([grad_y.sum(rows), (grad_y * normalised).sum(rows)]), (grad_y, normalised)

    @staticmethod
    def gradient(
        rest: Any,
        x: Tensor,
        weight: Tensor | None,
        _mean: Tensor,
        inverse_std: Tensor,
        of_all: Tensor,
        counts: Tensor,
    ) -> Tensor:
        """Of x, from the sums over all processes."""
        grad_y: Tensor = rest[0]
        normalised: Tensor = rest[1]
        _, _, shape = _Plainly._wide(x)
        over_all = of_all / counts.sum()
        grad_x = grad_y - over_all[0].view(shape) - normalised * over_all[1].view(shape)
        factor = inverse_std if weight is None else inverse_std * weight
        return (grad_x * factor.view(shape)).to(x.dtype)

    @staticmethod
    def _wide(x: Tensor) -> tuple[Tensor, list[int], list[int]]:
        """x in float32 (or float64), the dimensions of a channel's numbers, the shape of a number a channel."""
        wide = x if x.dtype == torch.float64 else x.float()
        return wide, [d for d in range(x.ndim) if d != 1], [1, -1] + [1] * (x.ndim - 2)


class _WithKernels:
    """The same on a GPU, by the kernels that torch.nn.SyncBatchNorm calls."""

    @staticmethod
    def dense(x: Tensor) -> Tensor:
        """In one of the layouts that the kernels take."""
        return x.contiguous(memory_format=_layout(x))

    @staticmethod
    def statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        mean, inverse_std = torch.batch_norm_stats(x, eps)
        return mean, (inverse_std.pow(-2) - eps).clamp_min(0)

    @staticmethod
    def scaled(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, inverse_std: Tensor, eps: float
    ) -> Tensor:
        if weight is not None:  # the kernels take both or none
            weight = weight.to(mean.dtype)
            bias = torch.zeros_like(weight) if bias is None else bias.to(mean.dtype)
        y: Tensor = torch.batch_norm_elemt(x, weight, bias, mean, inverse_std, eps)
        return y

    @staticmethod
    def sums(grad_y: Tensor, x: Tensor, mean: Tensor, inverse_std: Tensor) -> tuple[Tensor, Tensor]:
        grad_y = grad_y.contiguous(memory_format=_layout(x))
        total, with_x, _, _ = torch.batch_norm_backward_reduce(grad_y, x, mean, inverse_std, None, True, False, False)
        return torch.stack([total, with_x * inverse_std]), grad_y

    @staticmethod
    def gradient(
        grad_y: Any,
        x: Tensor,
        weight: Tensor | None,
        mean: Tensor,
        inverse_std: Tensor,
        of_all: Tensor,
        counts: Tensor,
    ) -> Tensor:
        weight = None if weight is None else weight.to(mean.dtype)
        total, with_x = of_all[0], of_all[1] / inverse_std
        rows = counts.flatten().int()
        grad_x: Tensor = torch.batch_norm_backward_elemt(grad_y, x, mean, inverse_std, weight, total, with_x, rows)
        return grad_x


def _layout(x: Tensor) -> torch.memory_format:
    for layout in (torch.channels_last, torch.channels_last_3d):
        if x.is_contiguous(memory_format=layout):
            return layout
    return torch.contiguous_format


# conversion


def convert_global_batch_norm(model: nn.Module) -> nn.Module:
    """Make every batch norm of a model global, in place; weights, statistics, settings and hooks stay as they are.

    Takes the layers that torch.nn.SyncBatchNorm.convert_sync_batchnorm takes, SyncBatchNorm itself, and timm's norms
    with an activation. Raises ValueError, and changes nothing, for a layer that does something else of its own.
    """
    kinds = {name: (layer, _global_kind(layer, name or "the model")) for name, layer in model.named_modules()}
    for layer, kind in kinds.values():
        if kind is not None:
            layer.__class__ = kind  # all that a norm is lies in its attributes
    return model


_KINDS: dict[type[nn.Module], type[GlobalBatchNorm]] = {
    nn.BatchNorm1d: GlobalBatchNorm1d,
    nn.BatchNorm2d: GlobalBatchNorm2d,
    nn.BatchNorm3d: GlobalBatchNorm3d,
    nn.SyncBatchNorm: GlobalBatchNorm,
}
_KINDS_OF_TIMM = ("BatchNormAct2d", "SyncBatchNormAct")
_OF_A_NORM = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
# what a class of its own may say without computing anything else
_HARMLESS = {"__init__", "__module__", "__qualname__", "__doc__", "__annotations__", "__constants__", "extra_repr"}
_HARMLESS |= {"__firstlineno__", "__static_attributes__", "__annotate__", "__parameters__", "_check_input_dim"}


def _global_kind(layer: nn.Module, name: str) -> type[GlobalBatchNorm] | None:
    """What that layer becomes; None: it stays as it is."""
    if isinstance(layer, torch.jit.ScriptModule) and "BatchNorm" in layer.original_name:
        raise _refusal(layer.original_name, name, "it is compiled; convert before torch.jit")
    if isinstance(layer, GlobalBatchNorm) or not isinstance(layer, _BatchNorm):
        return None
    kind = type(layer)
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        raise _refusal(kind.__name__, name, "its size is not known yet; show the model a batch first")
    if getattr(layer, "process_group", None) not in (None, _all_processes()):
        raise _refusal(kind.__name__, name, "it has a process group of its own, and statistics would be those of all")
    if kind.__module__.startswith("timm.") and kind.__name__ in _KINDS_OF_TIMM:
        return _GlobalBatchNormAct
    parent = next((parent for parent in _KINDS if isinstance(layer, parent)), None)
    if parent is None or _says_more(layer, parent):
        raise _refusal(kind.__name__, name, "it does more than PyTorch's batch norms, which would be lost; replace it")
    return _KINDS[parent]


def _says_more(layer: nn.Module, parent: type[nn.Module]) -> bool:
    """Whether a layer or its class has parts of its own, beside those of a batch norm of PyTorch."""
    between = type(layer).__mro__[: type(layer).__mro__.index(parent)]
    of_class = set().union(*map(vars, between)) - _HARMLESS
    of_layer = {*layer._modules, *layer._parameters, *layer._buffers} - _OF_A_NORM
    return bool(of_class or of_layer or "forward" in vars(layer))


def _refusal(kind: str, name: str, why: str) -> ValueError:
    return ValueError(f"{kind} ({name}) cannot become global: {why}")


def _all_processes() -> object:
    distributed = torch.distributed
    return distributed.group.WORLD if distributed.is_available() and distributed.is_initialized() else None
