"""How many numbers a network keeps between its forward and its backward pass; they need not be there themselves."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


def kept_for_backward(network: nn.Module, images: Tensor) -> tuple[int, int]:
    """Numbers an image that stay in memory for the backward pass, and in how many tensors."""
    weights = {t.untyped_storage()._cdata for t in (*network.parameters(), *network.buffers(), images)}
    gc.freeze()  # what was there before need not be searched for what is held by circles
    with _attention_as_on_devices(), _Storages() as storages:
        h = network(images)
    gc.collect()
    gc.unfreeze()
    kept = storages.alive(without=weights | {h.untyped_storage()._cdata})
    return sum(kept) // len(images), len(kept)


class _Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers, without keeping it, the memory of each tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._made: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._made[storage._cdata] = _weak(storage), storage.nbytes() // tensor.element_size()
        return result

    def alive(self, without: set[int]) -> list[int]:
        """Numbers in each that is still held."""
        return [n for key, (storage, n) in self._made.items() if key not in without and not storage.expired()]


def _weak(storage: Any) -> Any:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


@contextmanager
def _attention_as_on_devices() -> Iterator[None]:
    """Without numbers PyTorch's attention is written out and keeps its matrix; on devices it is one step without it.

    Where what is added to the matrix is learnt, the matrix is kept on a CPU as well.
    """
    written_out = F.scaled_dot_product_attention

    def attention(  # the arguments are PyTorch's
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        learnt = attn_mask is not None and (attn_mask.requires_grad or attn_mask.dtype == torch.bool)
        if learnt or dropout_p or enable_gqa or not query.is_meta or query.ndim != 4:
            settings: dict[str, Any] = {"is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
            return written_out(query, key, value, attn_mask, dropout_p, **settings)
        one_step: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        result: Tensor = one_step(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]
        return result

    try:
        F.scaled_dot_product_attention = attention
        yield
    finally:
        F.scaled_dot_product_attention = written_out
