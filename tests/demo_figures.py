"""The README's table of results: the demo with three seeds, mean and sample standard deviation.

    python tests/demo_figures.py FOLDER     runs `simclr-plus demo` with the seeds that FOLDER has no answer of, in turn

FOLDER/seedN.json are the answers of the command; the training's minutes are those of events.jsonl.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2)


def answer(folder: Path, seed: int) -> dict[str, Any]:
    """What the demo says with a seed; it is run where no answer lies there."""
    file = folder / f"seed{seed}.json"
    if not file.exists():
        command = [sys.executable, "-m", "simclr_plus.cli", "demo", "--seed", str(seed), "--json", "--runs", "runs"]
        out = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE).stdout
        file.write_bytes(out)
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def minutes(run: Path) -> float:
    """Of the training, from its first to its last line of metrics."""
    times = [json.loads(line)["time"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    return (times[-1] - times[0]) / 60


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    answers = [answer(folder, seed) for seed in SEEDS]
    columns = [f"{e['evaluator']}, {e['train_images']:,} labels" for e in answers[0]["evaluations"]]
    print("| features | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for subject in answers[0]["evaluations"][0]["results"]:
        cells = []
        for column in range(len(columns)):
            tops = [100 * a["evaluations"][column]["results"][subject]["top1"] for a in answers]
            spread = statistics.stdev(tops)
            cells.append(f"{statistics.mean(tops):.1f} %" + (f" ± {spread:.1f}" if spread else ""))
        print(f"| {subject} | " + " | ".join(cells) + " |")
    print("minutes of training:", ", ".join(f"{minutes(folder / a['run']):.1f}" for a in answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
