"""Features that are no numbers become no figure and no file; images that could not be read are told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import in_processes
from PIL import Image
from torch import Tensor, nn

from simclr_plus.augmentations.law import simclr_law
from simclr_plus.cli import main
from simclr_plus.datasets.images import Images, open_folder, require_several_classes
from simclr_plus.encoders import ResNet
from simclr_plus.errors import NotFiniteError, SimclrPlusError, UnlabelledError, UnreadableImageError
from simclr_plus.evaluators.knn import evaluate_knn
from simclr_plus.evaluators.linear import evaluate_linear_fast
from simclr_plus.evaluators.logistic import fit_path
from simclr_plus.evaluators.subjects import RawPixels, Subject
from simclr_plus.features.cache import cached_features
from simclr_plus.features.extraction import features_of
from simclr_plus.features.metrics import knn_scores, mean_average_precision_11, summary
from simclr_plus.results.evaluate import evaluate_target
from simclr_plus.results.evaluate_on_sets import transfer
from simclr_plus.results.targets import open_target
from simclr_plus.weights.encoder_files import save_encoder

CPU = torch.device("cpu")
LAW = simclr_law(16, blur_prob=0.0)


class NanWhereDark(nn.Module):
    """Mean colours, of a dark image NaN."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(2, 3))
        return torch.where(mean.amax(dim=1, keepdim=True) < 0.1, torch.nan, mean)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of twenty pictures, apart in colour; 03.png of each is black."""
    generator = np.random.default_rng(0)
    for label, hue in (("blue", 2), ("red", 0)):
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(20):
            pixels = generator.integers(60, 120, (20, 20, 3), dtype=np.uint8)
            pixels[..., hue] += 100
            Image.fromarray(pixels * (i != 3)).save(tmp_path / "set" / label / f"{i:02}.png")
    return tmp_path / "set"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_encoder(ResNet(18, 1 / 8, stem="cifar"), tmp_path / "e.safetensors", {"image_size": "16"})
    return tmp_path / "e.safetensors"


def test_images_whose_features_are_no_numbers_are_named(folder: Path, tmp_path: Path) -> None:
    images = open_folder(folder)
    with pytest.raises(NotFiniteError, match=r"2 of 40 .*blue/03\.png, .*red/03\.png"):
        features_of(NanWhereDark(), images, LAW, device=CPU)
    with pytest.raises(NotFiniteError, match=r"2 of 40"):
        cached_features(NanWhereDark(), images, LAW, tmp_path / "cache", device=CPU)
    assert not (tmp_path / "cache").exists()
    dark = Images("dark", np.zeros((3, 20, 20, 3), np.uint8), (), np.array([0, 1, 0]), ("a", "b"))
    with pytest.raises(NotFiniteError, match="all 3 images of dark"):
        features_of(NanWhereDark(), dark, LAW, device=CPU)


def test_weights_that_are_no_numbers_give_no_accuracy_and_no_file(
    folder: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = ResNet(18, 1 / 8, stem="cifar")
    with torch.no_grad():
        broken.conv1.weight[0, 0, 0, 0] = torch.nan
    save_encoder(broken, encoder, {"image_size": "16"})
    for name, evaluator in (("knn", evaluate_knn), ("linear_fast", evaluate_linear_fast)):
        with pytest.raises(NotFiniteError):
            evaluate_target(open_target(str(encoder), tmp_path / "runs"), name, evaluator, {}, data=str(folder))
    monkeypatch.setattr("sys.argv", ["simclr-plus", "embed", str(encoder), str(folder), "-o", str(tmp_path / "f")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1 and not (tmp_path / "f").exists() and "not finite" in capsys.readouterr().err


def test_scores_that_are_no_numbers_have_no_accuracy() -> None:
    """The highest of [NaN, 0] counts as NaN, so that a classifier that diverged would know one class."""
    scores, labels = torch.tensor([[torch.nan, 0.0], [torch.nan, 1.0]]), torch.tensor([0, 0])
    with pytest.raises(NotFiniteError):
        summary(scores, labels)
    with pytest.raises(NotFiniteError):
        mean_average_precision_11(scores, torch.tensor([[0, 1], [1, 0]]))


def test_a_rate_that_diverges_gives_no_accuracy(folder: Path) -> None:
    images = open_folder(folder)
    with pytest.raises(NotFiniteError):
        evaluate_linear_fast(Subject("x", RawPixels(), LAW), images, images, device=CPU, learning_rate=1e38)


def test_what_has_no_answer_has_no_figure(folder: Path) -> None:
    images = open_folder(folder)
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 0, 1])
    with pytest.raises(SimclrPlusError, match="one class"):
        fit_path(x, torch.zeros(6, dtype=torch.long), 2, [1.0])
    with pytest.raises(UnlabelledError):
        fit_path(x, y - 1, 2, [1.0])
    with pytest.raises(NotFiniteError):
        fit_path(x / 0, y, 2, [1.0])
    with pytest.raises(UnlabelledError, match="3 of the 6"):
        knn_scores(x, x, y - 1, 2)
    renamed = Images("other", None, images.paths, images.labels, ("red", "blue"))
    with pytest.raises(SimclrPlusError, match="different classes"):
        evaluate_knn(Subject("x", RawPixels(), LAW), images, renamed, device=CPU)
    one = images.subset(np.arange(20))
    with pytest.raises(SimclrPlusError, match="one class alone"):
        require_several_classes(one)


def test_more_neighbours_than_images_are_all_of_them_and_the_result_says_so(folder: Path) -> None:
    images = open_folder(folder)
    subject = Subject("x", RawPixels(), LAW)
    found = [evaluate_knn(subject, images, images, device=CPU, k=k) for k in (40, 1000)]
    assert found[0] == found[1] and found[1]["k"] == 40


@pytest.mark.parametrize("again", [False, True])
def test_unreadable_images_are_left_out_on_request_and_named_in_the_result(
    folder: Path, encoder: Path, tmp_path: Path, again: bool
) -> None:
    """Also where the features come from the cache the second time."""
    bad = [folder / "blue" / "05.png", folder / "red" / "11.png"]
    for path in bad:
        path.write_bytes(b"no image")
    target = open_target(str(encoder), tmp_path / "runs")
    options = {"test": "", "relative_to": "sum", "seed": 0, "baselines": False}
    with pytest.raises(UnreadableImageError, match=r"05\.png|11\.png"):
        transfer(target, str(folder), "data", say=lambda _: None, **options)
    said: list[str] = []
    for _ in range(1 + again):
        result = transfer(target, str(folder), "data", say=said.append, skip_bad=True, **options)
    assert sorted(result["left_out"]) == [str(path) for path in bad]
    written = next((tmp_path / "runs").rglob("transfer*.json"))
    assert sorted(json.loads(written.read_text())["left_out"]) == [str(path) for path in bad]
    assert any("05.png" in text and "11.png" in text for text in said)
    knn, _ = evaluate_target(target, "knn", evaluate_knn, {}, data=str(folder), skip_bad=True)
    assert sorted(knn["left_out"]) == [str(path) for path in bad] and knn["results"]["encoder"]["k"] == 20


PROGRAM = """
import sys, torch, numpy as np
from pathlib import Path
from dataclasses import replace
from simclr_plus.augmentations.law import simclr_law
from simclr_plus.datasets import open_folder
from simclr_plus.distributed import rank, start, stop
from simclr_plus.errors import NotFiniteError
from simclr_plus.features.cache import cached_features
from simclr_plus.features.extraction import left_out

class Nan(torch.nn.Module):
    def forward(self, images):
        mean = images.mean(dim=(2, 3))
        return torch.where(mean.amax(dim=1, keepdim=True) < 0.1, torch.nan, mean)

class Mean(torch.nn.Module):
    def forward(self, images):
        return images.mean(dim=(2, 3))

device, law, folder = start("cpu"), simclr_law(16, blur_prob=0.0), Path(sys.argv[1])
images = replace(open_folder(folder), skip_bad=True)
try:
    cached_features(Nan(), images, law, folder / "cache", device=device)
    told = "nothing"
except NotFiniteError as error:
    told = str(error)
h, _ = cached_features(Mean(), images, law, None, device=device)
Path(sys.argv[2], f"{rank()}.txt").write_text("\\n".join([told, str(len(h)), *left_out([images], device)]))
stop()
"""


@pytest.mark.slow
def test_all_processes_refuse_what_is_not_finite_on_one_and_know_what_each_could_not_read(
    folder: Path, tmp_path: Path
) -> None:
    for path in (folder / "blue" / "04.png", folder / "red" / "07.png"):  # an even and an odd place
        path.write_bytes(b"no image")
    (tmp_path / "program.py").write_text(PROGRAM)
    for processes in (1, 2):
        out = tmp_path / f"out{processes}"
        out.mkdir()
        in_processes(tmp_path / "program.py", folder, out, processes=processes)
        told = [(out / f"{rank}.txt").read_text().splitlines() for rank in range(processes)]
        for error, count, *files in told:
            assert "2 of 38" in error and "blue/03.png" in error and "red/03.png" in error and count == "38"
            assert files == [str(folder / "blue" / "04.png"), str(folder / "red" / "07.png")]
    assert not (folder / "cache").exists()
