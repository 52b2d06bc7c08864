"""Graphs for other programs: ONNX and .pt2 files give the encoder's features, and spare the files of others."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from places import ROOT
from torch import Tensor

from simclr_plus.cli import main
from simclr_plus.encoders import ResNet
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.encoders.lab_pair import LabPair
from simclr_plus.encoders.patches import PatchEncoder
from simclr_plus.errors import EnvironmentNotAbleError, RecipeError, SimclrPlusError
from simclr_plus.recipe.reading import parse_recipe
from simclr_plus.weights import exchange_formats
from simclr_plus.weights.encoder_files import load_encoder, save_encoder
from simclr_plus.weights.exchange_formats import export_onnx, export_torch_export

NORMS = {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.1)}
SMALL_SWIN = {"embed_dim": 32, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]}
ENCODERS: dict[str, tuple[Callable[[], Encoder], int]] = {  # and the side of their images
    "imagenet stem": (lambda: ResNet(18, 0.125, **NORMS), 64),
    "selective kernels, odd sides": (lambda: ResNet(50, 0.125, selective_kernels=True), 65),
    "squeeze-excitation, reference": (lambda: ResNet(50, 0.125, se_ratio=0.25, flavor="reference"), 64),
    "lightness": (lambda: ResNet(18, 0.125, stem="cifar", input="lightness"), 32),
    "standardized, layer norm": (lambda: ResNet(18, 0.125, stem="cifar", input="standardized", norm="layer"), 32),
    "no norm": (lambda: ResNet(18, 0.125, norm="none"), 64),
    "patches": (lambda: PatchEncoder(ResNet(18, 0.125), 32, 16), 64),
    "lab pair": (lambda: LabPair(depth=18, width=0.125), 64),
    "ydbdr pair": (lambda: LabPair(depth=18, width=0.125, color_space="ydbdr"), 64),
    "vit": (lambda: ForeignEncoder("timm:test_vit", image_size=112, **NORMS), 112),
    "convnext": (lambda: ForeignEncoder("timm:test_convnext", image_size=64), 64),
    "efficientnet": (lambda: ForeignEncoder("timm:test_efficientnet", image_size=64), 64),
    "swin": (lambda: ForeignEncoder("timm:swin_tiny_patch4_window7_224", SMALL_SWIN, 96), 96),
    "normaliser-free": (lambda: ForeignEncoder("timm:test_nfnet", image_size=64), 64),
    "torchvision's regnet": (lambda: ForeignEncoder("torchvision:regnet_y_400mf", image_size=64, **NORMS), 64),
    "torchvision's mobilenet": (lambda: ForeignEncoder("torchvision:mobilenet_v3_small", image_size=64), 64),
    "torchvision's swin": (lambda: ForeignEncoder("torchvision:swin_t", image_size=64), 64),
    "squeezenet": (lambda: ForeignEncoder("torchvision:squeezenet1_1", image_size=64), 64),
}

IN_LONG_RUNS = {
    "selective kernels, odd sides",
    "lightness",
    "patches",
    "ydbdr pair",
    "vit",
    "convnext",
    "efficientnet",
    "swin",
}


def lived_in(encoder: Encoder) -> Encoder:
    """Norms, scales and biases have values of their own: no branch is switched off."""
    torch.manual_seed(0)
    for name, tensor in encoder.state_dict().items():
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor.normal_(std=0.1) if name.endswith(("bias", "running_mean")) else tensor.uniform_(0.5, 1.5)
    return encoder.eval()


def by_onnxruntime(path: Path) -> Callable[[Tensor], Tensor]:
    session = onnxruntime.InferenceSession(str(path))
    return lambda images: torch.from_numpy(session.run(["features"], {"images": images.numpy()})[0])


def by_torch(path: Path) -> Callable[[Tensor], Tensor]:
    module: Callable[[Tensor], Tensor] = torch.export.load(str(path)).module()
    return module


def require_same(run: Callable[[Tensor], Tensor], encoder: Encoder, size: int) -> None:
    for count in (1, 2, 7):
        images = torch.rand(count, 3, size, size)
        with torch.no_grad():
            h, features = encoder(images), run(images)
        assert features.shape == h.shape and h.abs().max() > 0
        torch.testing.assert_close(features, h, rtol=0, atol=1e-4 * float(h.abs().max()))


@dataclass(frozen=True)
class Written:
    """An encoder file, what was made of it, and the difference that each was said to have."""

    source: Path
    onnx: Path
    pt2: Path
    said: tuple[float | None, float | None]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A small ResNet of a run on photographs of this machine, exported without places."""
    folder = tmp_path_factory.mktemp("graphs")
    recipe = f'[data]\nname = "folder"\nroot = "{folder}/photos"\n[augmentation]\nimage_size = 32\n'
    header = {"recipe": recipe + "[training]\nepochs = 70", "data": f"folder {folder}/photos"}
    source = folder / "e.safetensors"
    save_encoder(lived_in(ResNet(18, 0.125, stem="cifar", **NORMS)), source, header)
    first = export_onnx(source, folder / "e.onnx", anonymous=True)
    second = export_torch_export(source, folder / "e.pt2", anonymous=True)
    return Written(source, folder / "e.onnx", folder / "e.pt2", (first.difference, second.difference))


def test_both_files_give_the_features_of_the_encoder_for_any_number_of_images(written: Written) -> None:
    encoder = load_encoder(written.source)
    require_same(by_onnxruntime(written.onnx), encoder, 32)
    require_same(by_torch(written.pt2), encoder, 32)
    assert all(difference is not None and difference < 1e-5 for difference in written.said)


def test_both_files_say_what_they_are_and_name_no_place_of_this_machine(written: Written) -> None:
    session = onnxruntime.InferenceSession(str(written.onnx))
    images, features = session.get_inputs()[0], session.get_outputs()[0]
    assert (images.name, images.shape) == ("images", ["batch", 3, 32, 32])
    assert (features.name, features.shape) == ("features", ["batch", 64])
    with zipfile.ZipFile(written.pt2) as archive:
        inside = b"".join(archive.read(name) for name in archive.namelist())
    extra = {"simclr_plus.json": ""}
    torch.export.load(str(written.pt2), extra_files=extra)
    for said in (session.get_modelmeta().custom_metadata_map, json.loads(extra["simclr_plus.json"])):
        assert json.loads(said["architecture"])["stem"] == "cifar" and said["image_size"] == "32"
        assert parse_recipe(said["recipe"]).training.epochs == 70 and said["data"] == "folder"
    for place in (str(written.source.parent), str(ROOT), sys.prefix):
        assert place.encode() not in inside and place.encode() not in written.onnx.read_bytes()


@pytest.mark.parametrize("export", [export_onnx, export_torch_export])
def test_a_file_of_another_kind_is_never_overwritten(
    tmp_path: Path, written: Written, export: Callable[..., object]
) -> None:
    photo = tmp_path / "a.png"
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(photo)
    (tmp_path / "other.zip").write_bytes(written.pt2.read_bytes()[:2000])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "another's", [], [])), str(tmp_path / "other.onnx"))
    others = [photo, tmp_path / "other.zip", tmp_path / "other.onnx", written.source]
    others += [written.pt2 if export is export_onnx else written.onnx]
    before = {path: path.read_bytes() for path in others}
    for path in others:
        with pytest.raises(RecipeError, match=path.name):
            export(written.source, path)
    assert {path: path.read_bytes() for path in others} == before


def test_the_command_prints_the_path_alone_and_replaces_a_file_of_its_kind(
    tmp_path: Path, written: Written, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "e.pt2"
    target.write_bytes(written.pt2.read_bytes())
    arguments = [str(written.source), "-o", str(target), "--format", "torch_export"]
    monkeypatch.setattr("sys.argv", ["simclr-plus", "export", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert not ended.value.code and said.out == f"{target}\n"
    assert "torch.export.load" in said.err and "0.0e+00" in said.err
    assert target.read_bytes() != written.pt2.read_bytes()  # this one names the folder


@pytest.mark.parametrize("name", ["onnx", "onnxscript"])
def test_without_the_extra_it_is_named_and_nothing_is_written(
    tmp_path: Path, written: Written, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EnvironmentNotAbleError, match=r"simclr-plus\[onnx\]"):
        export_onnx(written.source, tmp_path / "e.onnx")
    assert not list(tmp_path.iterdir())


def test_what_one_file_of_onnx_cannot_hold_is_refused(
    tmp_path: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_formats, "LARGEST_ONNX", 100_000)
    with pytest.raises(RecipeError, match="torch_export"):
        export_onnx(written.source, tmp_path / "e.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_with_other_features_is_not_put_in_place(
    tmp_path: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.export, "load", lambda _: ResNetOfOthers())
    target = tmp_path / "e.pt2"
    target.write_bytes(written.pt2.read_bytes())
    with pytest.raises(SimclrPlusError, match="would differ"):
        export_torch_export(written.source, target)
    assert target.read_bytes() == written.pt2.read_bytes() and list(tmp_path.iterdir()) == [target]


class ResNetOfOthers:
    """What torch.export.load gives, with other weights."""

    def module(self) -> ResNet:
        torch.manual_seed(1)
        return ResNet(18, 0.125, stem="cifar").eval()


WILFUL = """
from torch import nn

class Wilful(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        h = self.layer(x).mean(dim=(2, 3))
        return h if float(x.mean()) > 0.5 else 2 * h
"""


def test_a_network_that_the_exporter_cannot_follow_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wilful_network.py").write_text(WILFUL)
    monkeypatch.syspath_prepend(tmp_path)
    save_encoder(ForeignEncoder("python:wilful_network:Wilful", image_size=32), tmp_path / "e.safetensors")
    with pytest.raises(SimclrPlusError, match="wilful_network") as failed:
        export_torch_export(tmp_path / "e.safetensors", tmp_path / "new" / "e.pt2")
    assert "\n" not in str(failed.value) and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in IN_LONG_RUNS else pytest.mark.soak) for n in ENCODERS]
)
def test_graphs_of_all_kinds_of_encoders_give_their_features(tmp_path: Path, name: str) -> None:
    make, size = ENCODERS[name]
    save_encoder(lived_in(make()), tmp_path / "e.safetensors", {"image_size": str(size)})
    encoder = load_encoder(tmp_path / "e.safetensors")
    assert export_torch_export(tmp_path / "e.safetensors", tmp_path / "e.pt2").image_size == size
    require_same(by_torch(tmp_path / "e.pt2"), encoder, size)
    export_onnx(tmp_path / "e.safetensors", tmp_path / "e.onnx")
    require_same(by_onnxruntime(tmp_path / "e.onnx"), encoder, size)


@pytest.mark.slow
def test_without_onnxruntime_the_file_is_written_and_nothing_compared(
    tmp_path: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "onnxruntime", None)
        assert export_onnx(written.source, tmp_path / "e.onnx").difference is None
    require_same(by_onnxruntime(tmp_path / "e.onnx"), load_encoder(written.source), 32)
