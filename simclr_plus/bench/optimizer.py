"""A step of LARS on a ResNet's parameters beside SGD's and Lightly's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim import SGD, Optimizer

from simclr_plus import lightly_parts
from simclr_plus.bench.rounds import Report, clock_for, compare, hardware, in_turns, times_as_fast, torch_threads
from simclr_plus.encoders.resnet import ResNet
from simclr_plus.lars import LARS, parameter_groups

OURS, LIGHTLYS, FOREACH, DEFAULT = "SimCLR+ LARS", "Lightly LARS", "torch SGD, foreach", "torch SGD, default"


def bench_optimizer(*, depth: int, rounds: int, threads: int, device: torch.device) -> Report:
    """One update of all parameters of a ResNet of that depth."""
    encoder = ResNet(depth).to(device)
    for parameter in encoder.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    weights = list(encoder.parameters())
    optimizers: dict[str, Optimizer] = {
        FOREACH: SGD(weights, lr=1e-4, momentum=0.9, weight_decay=1e-6, foreach=True),
        DEFAULT: SGD(weights, lr=1e-4, momentum=0.9, weight_decay=1e-6),
        LIGHTLYS: lightly_parts.lars(weights, 1e-4, momentum=0.9, weight_decay=1e-6),
        OURS: LARS(parameter_groups(encoder, 1e-6), lr=1e-4),
    }
    with torch_threads(threads):
        seconds = in_turns(
            {name: _step(optimizer, device) for name, optimizer in optimizers.items()},
            rounds,
            clock=clock_for(threads, device),
        )
    ratios = {
        "of_sgd_foreach": 1 / times_as_fast(seconds, OURS, FOREACH),
        "of_sgd_default": 1 / times_as_fast(seconds, OURS, DEFAULT),
        "of_lightly": 1 / times_as_fast(seconds, OURS, LIGHTLYS),
    }
    millions = sum(w.numel() for w in weights) / 1e6
    return Report(
        name="optimizer",
        settings={"depth": depth, "rounds": rounds, "threads": threads, "device": str(device)},
        comparisons=[
            compare(
                f"one update of ResNet-{depth}, {millions:.1f} M parameters", seconds, base=FOREACH, items="steps/s"
            )
        ],
        ratios=ratios,
        verdicts=[
            f"a step of LARS takes {ratios['of_sgd_foreach']:.2f} of the time of SGD with foreach, "
            f"{ratios['of_sgd_default']:.2f} of SGD as PyTorch chooses it, {ratios['of_lightly']:.2f} of Lightly's LARS"
        ],
        machine=hardware(device),
    )


def _step(optimizer: Optimizer, device: torch.device) -> Callable[[], None]:
    def step() -> None:
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step
