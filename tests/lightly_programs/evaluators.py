"""An encoder of ours in Lightly's LinearClassifier and KNNClassifier, on real images.

python evaluators.py ENCODER OUT: writes OUT/found.json.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightly.utils.benchmarking import KNNClassifier, LinearClassifier, MetricCallback
from torch.utils.data import DataLoader, TensorDataset

import simclr_plus
from simclr_plus.datasets import TEST, TRAIN, Images, open_images
from simclr_plus.datasets.batches import evaluation_batches
from simclr_plus.evaluators.knn import evaluate_knn
from simclr_plus.evaluators.subjects import Subject
from simclr_plus.recipe import load_recipe
from simclr_plus.recipe.keys import Data

TRAIN_IMAGES, TEST_IMAGES, NEIGHBOURS = 2000, 500, 20


def tensors(images: Images, law: Any) -> TensorDataset:
    assert images.labels is not None
    views = torch.cat([views for views, _ in evaluation_batches(images, law)])
    return TensorDataset(views, torch.from_numpy(images.labels))


def main(encoder_file: Path, out: Path) -> None:
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch")
    encoder, law = simclr_plus.load_encoder(encoder_file), load_recipe("demo").law
    splits = [(TRAIN, TRAIN_IMAGES), (TEST, TEST_IMAGES)]
    train, test = (open_images(Data(name="embedded"), split).subset(np.arange(n)) for split, n in splits)
    loaders = [DataLoader(tensors(images, law), 256) for images in (train, test)]
    settings: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": out}

    knn = KNNClassifier(
        encoder, num_classes=10, knn_k=NEIGHBOURS, knn_t=0.1, train_dataloader_idx=0, val_dataloader_idx=1
    )
    knn_metrics = pl.Trainer(max_epochs=1, **settings).validate(knn, loaders, verbose=False)
    ours = evaluate_knn(Subject("encoder", encoder, law), train, test, device=torch.device("cpu"), k=NEIGHBOURS)

    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    torch.manual_seed(0)
    linear = LinearClassifier(encoder, 256, lr=5.0, feature_dim=encoder.feature_dim, num_classes=10, topk=(1, 5))
    callback = MetricCallback()
    shuffled = DataLoader(loaders[0].dataset, 256, shuffle=True)
    pl.Trainer(max_epochs=10, callbacks=[callback], **settings).fit(linear, shuffled, loaders[1])
    unchanged = all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    with torch.no_grad():
        views, labels = loaders[1].dataset.tensors
        by_hand = (linear.classification_head(encoder.eval()(views)).argmax(1) == labels).float().mean().item()
    found = {
        "knn": [dict(m) for m in knn_metrics],
        "knn_ours": ours,
        "linear": [float(x) for x in callback.val_metrics["val_top1"]],
        "linear_by_hand": by_hand,
        "encoder_unchanged": unchanged,
    }
    (out / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
