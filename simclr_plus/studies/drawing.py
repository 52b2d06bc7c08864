"""Drawings that several studies share: lines with their spread, and groups of bars. Accuracies become percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simclr_plus.studies.findings import Spread

COLORS = ("#1f6feb", "#d29922", "#2da44e", "#cf222e", "#8250df", "#57606a", "#0598bc", "#bf3989")
MARKERS = "osD^vPX*"


def lines(
    figure: Any,
    x: Sequence[Any],
    series: Mapping[str, Sequence[Spread | None]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    axes: Any = None,
) -> None:
    """A line a series over equally spaced x, each point with its standard deviation over seeds."""
    axes = figure.subplots() if axes is None else axes
    for number, (name, values) in enumerate(series.items()):
        there = [(i, value) for i, value in enumerate(values) if value is not None]
        axes.errorbar(
            [i for i, _ in there],
            [100 * value.mean for _, value in there],
            yerr=[value.bar for _, value in there],
            label=name,
            color=COLORS[number % len(COLORS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            capsize=3,
        )
    axes.set_xticks(range(len(x)), [str(value) for value in x])
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.grid(alpha=0.3)
    legend(axes)


def bars(
    figure: Any,
    groups: Sequence[str],
    series: Mapping[str, Sequence[Spread | None]],
    *,
    xlabel: str,
    ylabel: str,
    lowest: float = 0.0,
) -> None:
    """Groups of bars, a color a series, with the standard deviation over seeds; the axis starts at `lowest` percent."""
    axes = figure.subplots()
    width = 0.8 / max(1, len(series))
    for number, (name, values) in enumerate(series.items()):
        there = [(i, value) for i, value in enumerate(values) if value is not None]
        axes.bar(
            [i + (number - (len(series) - 1) / 2) * width for i, _ in there],
            [100 * value.mean - lowest for _, value in there],
            width,
            bottom=lowest,
            yerr=[value.bar for _, value in there],
            label=name,
            color=COLORS[number % len(COLORS)],
            capsize=2,
            error_kw={"linewidth": 1},
        )
    axes.set_xticks(range(len(groups)), [str(group) for group in groups])
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3, axis="y")
    axes.set_axisbelow(True)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(5, len(series)))


def legend(axes: Any) -> None:
    """A small legend, where there is anything to name."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def floor_of(series: Mapping[str, Sequence[Spread | None]]) -> float:
    """A round percentage a little under all values and their spreads, for the axis of `bars`."""
    values = [100 * (value.mean - value.deviation) for row in series.values() for value in row if value is not None]
    return max(0.0, (min(values, default=0.0) - 5) // 10 * 10)
