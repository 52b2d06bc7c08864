"""README's table of continued training: from ImageNet weights and from noise at equal budget, three seeds each.

    python tests/continue_figures.py FOLDER [WEIGHTS]     trains what FOLDER does not hold yet, in turn

WEIGHTS: a file of timm's tf_efficientnet_lite0; without it timm's own are taken, which fetches them where they are in
no cache. Each run is the recipe `places` with SETTINGS; of each start every rate is tried with seed 0, and the better
one of the test pieces is trained with the other seeds. Weights alone and random weights are measured beside.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from simclr_plus.importers import with_normalisation
from simclr_plus.importers.pretrained import load_pretrained
from simclr_plus.recipe.reading import load_recipe
from simclr_plus.training.model import build_encoder
from simclr_plus.weights.encoder_files import encoder_metadata, save_encoder

RATES = ("0.0003", "0.001", "0.003", "0.01")
SEEDS = (0, 1, 2)
STARTS = ("ImageNet weights", "noise")
SETTINGS = [
    "encoder.name=timm:tf_efficientnet_lite0",
    "optimizer.name=adamw",
    "optimizer.weight_decay=0.05",
    "training.epochs=4",
    "checkpoints.every_epochs=4",
    "monitor.knn_every_epochs=0",
]


def simclr_plus(*words: str) -> bytes:
    """What a command prints."""
    command = [sys.executable, "-m", "simclr_plus.cli", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def knn(target: Path, *more: str) -> dict[str, float]:
    """Top-1 in percent of what is evaluated, kept beside it."""
    file = target.with_name(f"{target.name}.knn.json")
    if not file.exists():
        file.write_bytes(simclr_plus("evaluate", "knn", str(target), "--data", "places", "--json", *more))
    results: dict[str, Any] = json.loads(file.read_text())["results"]
    return {name: 100 * result["top1"] for name, result in results.items()}


def trained(folder: Path, start: str, weights: list[str], rate: str, seed: int) -> float:
    """kNN of a run, which is trained where FOLDER does not hold it."""
    name = f"{start.split()[0].lower()}-{rate}-{seed}"
    if not (folder / name / "encoder.safetensors").exists():
        changes = [f"optimizer.learning_rate={rate}", f"training.seed={seed}", *SETTINGS]
        simclr_plus("run", "places", *changes, *weights, "--name", name, "--runs", str(folder))
    return knn(folder / name)["encoder"]


def in_words(values: list[float]) -> str:
    """Mean and sample standard deviation."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f} %{spread}"


def main(folder: Path, weights: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    told = [f"encoder.pretrained={weights}"] if weights else ["encoder.pretrained=true", "encoder.download=true"]
    untrained = folder / "untrained.safetensors"
    if not untrained.exists():
        recipe = with_normalisation(load_recipe("places", [*SETTINGS, *told]))
        encoder = build_encoder(recipe)
        load_pretrained(encoder, recipe)
        save_encoder(encoder, untrained, encoder_metadata(recipe, 0))
    alone = knn(untrained, "--baselines")
    print("| f, 4 epochs on 4,224 pieces of photographs | rate | kNN |\n|---|---|---|")
    for start in STARTS:
        of_start = told if start != "noise" else []
        first = {rate: trained(folder, start, of_start, rate, SEEDS[0]) for rate in RATES}
        best = max(first, key=lambda rate: first[rate])
        for rate in RATES:
            seeds = SEEDS[1:] if rate == best else ()
            values = [first[rate], *(trained(folder, start, of_start, rate, seed) for seed in seeds)]
            print(f"| from {start} | {rate} | {in_words(values)} |")
    for name, value in alone.items():
        print(f"| {'ImageNet weights alone' if name == 'encoder' else name}, not trained | | {value:.1f} % |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
