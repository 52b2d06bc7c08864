"""Whether two checkouts train the same network: every digit of losses, weights and checkpoints, with 1 and 2 processes.

    python tests/same_digits.py train PYTHON FOLDER     PYTHON is a checkout's own, e.g. ../old/.venv/bin/python
    python tests/same_digits.py compare FOLDER FOLDER

For a change that is to move no number: `train` once with the checkout before it, once with the one after it, on one
machine, then `compare`. Each case is 21 or more updates on images of the embedded set.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

SMALL = (
    "data.limit=640 augmentation.image_size=20 encoder.stem=cifar encoder.width=0.125 head.output_dim=16 "
    "training.batch_size=32 training.epochs=1 training.warmup_epochs=0.5 training.precision=float32 data.threads=1 "
    "monitor.log_every_steps=1 monitor.knn_every_epochs=0.5 checkpoints.every_epochs=0.5 checkpoints.keep_last=9"
)
CASES = {
    "nt_xent": "",
    "nt_xent_of_the_other_view": "loss.negatives=other_view",
    "nt_xent_as_the_authors_reduce_it": "loss.reduction=reference optimizer.name=sgd",
    "nt_logistic": "loss.name=nt_logistic loss.semi_hard=true",
    "margin": "loss.name=margin loss.semi_hard=true loss.negatives=other_view",
    "supervised": "loss.name=cross_entropy",
    "adam_without_a_probe": "optimizer.name=adam optimizer.learning_rate=0.001 training.probe=false",
    "clipped_with_operations": "optimizer.gradient_clip=1 head.num_layers=3 augmentation.operations=['crop','sobel']",
    "imagenet_stem_in_bfloat16": "encoder.stem=imagenet training.precision=bfloat16 loss.temperature=0.5",
}
OF_THE_CLOCK = {"time", "images_per_second", "data_wait"}  # what no two runs share


def train(python: str, folder: Path) -> None:
    """Train every case with 1 and 2 processes; what is trained there already is left as it is."""
    python = str(Path(python).absolute())
    folder.mkdir(parents=True, exist_ok=True)
    for name, keys in CASES.items():
        for processes in (1, 2):
            run = f"{name}-of-{processes}"
            if (folder / "runs" / run / "encoder.safetensors").exists():
                continue
            words = ["run", "demo", *SMALL.split(), *keys.split(), "--nproc", str(processes), "--name", run]
            print(run, flush=True)
            subprocess.run([python, "-m", "simclr_plus.cli", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def compare(a: Path, b: Path) -> list[str]:
    """What differs, a line each; empty where nothing does."""
    names = sorted(path.name for path in (a / "runs").iterdir() if path.name != ".features")
    differences = [] if names else [f"{a} holds no runs"]
    for name in names:
        one, other = a / "runs" / name, b / "runs" / name
        if not other.is_dir():
            differences.append(f"{name}: not in {b}")
            continue
        for i, (x, y) in enumerate(zip(*map(lines, (one, other)), strict=True)):
            differences += [
                f"{name}: line {i + 1}, {key}: {x.get(key)} {y.get(key)}"
                for key in sorted(x | y)
                if x.get(key) != y.get(key)
            ]
        files = [*sorted((one / "checkpoints").glob("*.safetensors")), one / "encoder.safetensors"]
        for file in files:
            x, y = load_file(file), load_file(other / file.relative_to(one))
            differences += [
                f"{name}: {file.name}, {key}"
                for key in sorted(x.keys() | y.keys())
                if key not in x or key not in y or not equal(x[key], y[key])
            ]
        tensors = sum(map(len, map(load_file, files)))
        print(f"{name}: {len(lines(one))} lines, {len(files)} files of {tensors} tensors")
    return differences


def lines(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock says; floats are kept as they were written."""
    text = (run / "metrics.jsonl").read_text()
    read = [json.loads(line, parse_float=str) for line in text.splitlines()]
    return [{key: value for key, value in line.items() if key not in OF_THE_CLOCK} for line in read]


def equal(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> bool:
    """Type, shape and bytes."""
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["train", python, folder]:
            train(python, Path(folder))
        case ["compare", a, b]:
            found = compare(Path(a), Path(b))
            print("\n".join(found) or "every digit is the same")
            sys.exit(bool(found))
        case _:
            sys.exit(__doc__)
