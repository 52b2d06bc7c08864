"""Ten networks of timm and torchvision, of ten families: trained, resumed, exported and evaluated by the real parts.

Among them are batch norms with an activation, layer norms and none, a table of positions on an odd grid, and images
that the encoder normalises, standardises or takes the lightness of.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from launching import in_processes
from parameters import rest_slow
from places import TESTS
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

from simclr_plus.checks.proof import Case, Finding, compare, untrained
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.errors import RecipeError
from simclr_plus.evaluators.knn import evaluate_knn
from simclr_plus.evaluators.subjects import Subject
from simclr_plus.results.evaluate import evaluate_target
from simclr_plus.results.targets import labelled_images, open_target
from simclr_plus.runs.folder import Run
from simclr_plus.training.trainer import train
from simclr_plus.weights.encoder_files import load_encoder
from simclr_plus.weights.export import export_encoder, export_timm

IMAGENET = ["encoder.mean=[0.485,0.456,0.406]", "encoder.std=[0.229,0.224,0.225]"]
ADAMW = ["optimizer.name=adamw", "optimizer.learning_rate=0.001"]
LARS = ["optimizer.name=lars", "optimizer.learning_rate=0.02"]
SLOWLY = ["optimizer.learning_rate=0.000001"]  # where gradients are so large that steps multiply what rounding makes
STEPS = 10


@dataclass(frozen=True)
class Trained:
    """A network: its name, the arguments of what builds it, the side of its images, what else its recipe says."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    size: int = 64
    keys: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return self.name.partition(":")[2]

    @property
    def case(self) -> Case:
        """Ten steps on photographs, every one kept, in float64: sums in another order then decide nothing."""
        options = ", ".join(f"{key} = {json.dumps(value)}" for key, value in self.options.items())
        network = [f"encoder.name={self.name}", f"encoder.options={{ {options} }}"]
        images = ["data.name=places", f"augmentation.image_size={self.size}", "training.probe=true"]
        keys = (*network, *images, "head.output_dim=8", *self.keys)
        return Case("sgd", steps=STEPS, learning_rate=0.002, batch=16, scale=1.0, overrides=keys)


# timm's own drops whole blocks at random, of which several processes draw others than one
SWIN = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 4, "drop_path_rate": 0}
NETWORKS = [
    Trained("timm:test_vit", size=48, keys=[*IMAGENET, *ADAMW]),  # positions of 3x3 patches
    Trained("timm:test_efficientnet", keys=IMAGENET),  # batch norm and activation in one layer
    Trained("timm:test_convnext", size=32, keys=ADAMW),  # layer norm
    Trained("timm:test_nfnet", size=32),  # no norm
    Trained("timm:test_resnet", keys=LARS),
    Trained("timm:test_byobnet", keys=["training.activation_checkpointing=true"]),
    Trained("timm:swin_tiny_patch4_window7_224", SWIN, keys=ADAMW),
    Trained("torchvision:mobilenet_v3_small", {"width_mult": 0.25, "reduced_tail": True}, keys=[*IMAGENET, *SLOWLY]),
    Trained("torchvision:squeezenet1_1", size=32, keys=['encoder.input="standardized"']),  # no norm
    Trained("torchvision:shufflenet_v2_x0_5", keys=['encoder.input="lightness"', *SLOWLY]),
]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The run of each, trained by the same two processes one after the other."""
    folder = tmp_path_factory.mktemp("of2")
    runs = {str(network): untrained(network.case, folder / str(network)) for network in NETWORKS}
    in_processes(TESTS / "train_in_turn.py", *(run.path for run in runs.values()))
    return runs


@pytest.fixture(scope="module")
def of_one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Runs that this process trained, filled by `trained`."""
    return {"": Run(tmp_path_factory.mktemp("of1"))}


def trained(network: Trained, of_one: dict[str, Run]) -> Run:
    if str(network) not in of_one:
        run = untrained(network.case, of_one[""].path / str(network))
        assert train(run, quiet=True) == "finished"
        of_one[str(network)] = run
    return of_one[str(network)]


@pytest.mark.parametrize("network", rest_slow(NETWORKS, 1), ids=str)
def test_it_trains_and_resumes_bit_for_bit(tmp_path: Path, of_one: dict[str, Run], network: Trained) -> None:
    unbroken = trained(network, of_one)
    files = unbroken.checkpoint_files()
    assert len(files) == STEPS
    first, last = load_file(files[0]), load_file(files[-1])
    still = [key for key in first if key.endswith("weight") and torch.equal(first[key], last[key])]
    assert not still, still
    resumed = untrained(network.case, tmp_path / "resumed")
    resumed.checkpoints.mkdir(exist_ok=True)
    shutil.copy(files[STEPS // 2 - 1], resumed.checkpoints)
    assert train(resumed, quiet=True) == "finished"
    assert resumed.events()[0]["from_step"] == STEPS // 2
    for file in files[STEPS // 2 :]:
        assert (resumed.checkpoints / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_two_processes_train_what_one_does(of_one: dict[str, Run], of_two: dict[str, Run], network: Trained) -> None:
    run = of_two[str(network)]
    assert run.events()[0]["processes"] == 2
    findings: list[Finding] = compare(trained(network, of_one), run, network.case)
    assert {"loss", "weights"} <= {finding.kind for finding in findings}
    for finding in findings:
        assert finding.equal, f"{finding.kind}: {finding.difference:.1e} at {finding.where}"


@pytest.mark.parametrize("network", rest_slow(NETWORKS, 1), ids=str)
def test_its_weights_are_the_librarys_own_and_are_evaluated(
    tmp_path: Path, of_one: dict[str, Run], network: Trained
) -> None:
    run, file = trained(network, of_one), tmp_path / "e.safetensors"
    export_encoder(run.checkpoint_files()[-1], file)
    encoder, images = load_encoder(file), torch.rand(4, 3, network.size, network.size)
    assert isinstance(encoder, ForeignEncoder)
    library, _, name = network.name.partition(":")
    theirs = nn.Sequential(
        encoder.normalize, of_timm(network, file) if library == "timm" else OfTorchvision(network, file)
    )
    expected = encoder(images)
    nearly = 1e-5 * float(expected.detach().abs().max())
    assert (theirs(images) - expected).abs().max() < nearly < expected.std(0).max()
    folder = tmp_path / "for_timm"
    if library == "timm":
        export_timm(file, folder)
        reloaded = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
        mean, std = (torch.tensor(reloaded.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
        assert (reloaded((images - mean) / std) - expected).abs().max() < nearly
    else:
        with pytest.raises(RecipeError, match=name):
            export_timm(file, folder)
    target = open_target(str(file), tmp_path / "runs")
    result, _ = evaluate_target(target, "knn", evaluate_knn, {"k": 5}, data="places", labels=600)
    train_images, held_out = labelled_images(run.recipe().data, "", "")
    subject = Subject("theirs", theirs.eval(), run.recipe().law)
    again = evaluate_knn(subject, train_images.first(600), held_out, device=torch.device("cpu"), k=5)
    assert result["results"]["encoder"]["top1"] == pytest.approx(again["top1"], abs=0.003)


def of_timm(network: Trained, file: Path) -> nn.Module:
    """timm's own network of normalised images."""
    name, size = network.name.partition(":")[2], {"img_size": network.size}
    for_size = size if timm.models.get_pretrained_cfg(name).fixed_input_size else {}
    model: nn.Module = timm.create_model(name, num_classes=0, **for_size, **network.options)
    model.load_state_dict(load_file(file))
    return model.eval()


class OfTorchvision(nn.Module):
    """What the last layer of torchvision's own classifier is given, as a mean over places where it has any."""

    def __init__(self, network: Trained, file: Path) -> None:
        super().__init__()
        self.classifier = models.get_model(network.name.partition(":")[2], weights=None, **network.options).eval()
        absent, unknown = self.classifier.load_state_dict(load_file(file), strict=False)
        layers = [(k, m) for k, m in self.classifier.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        key, last = layers[-1]
        assert not unknown and set(absent) == {f"{key}.weight", f"{key}.bias"}
        self.seen = torch.empty(0)
        last.register_forward_pre_hook(lambda _, inputs: setattr(self, "seen", inputs[0]))

    def forward(self, images: Tensor) -> Tensor:
        self.classifier(images)
        return self.seen.mean((2, 3)) if self.seen.ndim == 4 else self.seen
