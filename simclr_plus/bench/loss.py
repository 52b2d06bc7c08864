"""NT-Xent beside Lightly's: time and peak memory of forward and backward, and how far the gradients differ."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simclr_plus import lightly_parts
from simclr_plus.bench.rounds import (
    Report,
    clock_for,
    compare,
    hardware,
    in_turns,
    peak_memory,
    times_as_fast,
    torch_threads,
)
from simclr_plus.losses.contrastive import NTXentLoss

OURS, LIGHTLYS = "SimCLR+ nt_xent", "Lightly NTXentLoss"


def bench_loss(
    *, images: int, dimensions: int, temperature: float, rounds: int, threads: int, device: torch.device
) -> Report:
    """Two views of `images` images [N, D] in float32, on one process."""
    generator = torch.Generator().manual_seed(0)
    z0 = torch.randn(images, dimensions, generator=generator)
    z1 = z0 + torch.randn(images, dimensions, generator=generator)
    z0, z1 = z0.to(device), z1.to(device)
    losses = {
        LIGHTLYS: lightly_parts.nt_xent_loss(temperature),
        OURS: NTXentLoss(temperature, gather_distributed=False),
    }
    turns = {name: lambda loss=loss: _gradients(loss, z0, z1) for name, loss in losses.items()}
    with torch_threads(threads):
        ours, theirs = turns[OURS](), turns[LIGHTLYS]()
        difference = float((ours - theirs).abs().max() / theirs.abs().max())
        seconds = in_turns(turns, rounds, clock=clock_for(threads, device))
        peaks = {name: peak_memory(turn, device) for name, turn in turns.items()}
    ratios = {"times_lightly": times_as_fast(seconds, OURS, LIGHTLYS), "gradient_difference": difference}
    memory = ""
    our_peak, their_peak = peaks[OURS], peaks[LIGHTLYS]
    if our_peak is not None and their_peak:
        ratios["memory_of_lightly"] = our_peak / their_peak
        memory = f" with {our_peak / their_peak:.0%} of its peak memory"
    return Report(
        name="loss",
        settings={
            "images": images,
            "dimensions": dimensions,
            "temperature": temperature,
            "rounds": rounds,
            "threads": threads,
            "device": str(device),
        },
        comparisons=[
            compare(
                f"NT-Xent forward and backward, N = {images}, D = {dimensions}",
                seconds,
                base=LIGHTLYS,
                items="losses/s",
                peaks=peaks,
            )
        ],
        ratios=ratios,
        verdicts=[
            f"NT-Xent takes {1 / ratios['times_lightly']:.2f} of Lightly's time{memory}; "
            f"the gradients differ by {difference:.1g} of the largest element at most"
        ],
        machine=hardware(device),
    )


def _gradients(loss: nn.Module, z0: Tensor, z1: Tensor) -> Tensor:
    a, b = z0.clone().requires_grad_(), z1.clone().requires_grad_()
    loss(a, b).backward()
    assert a.grad is not None and b.grad is not None
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    return torch.cat([a.grad, b.grad])
