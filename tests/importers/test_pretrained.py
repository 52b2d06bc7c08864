"""Weights from anywhere as the start of f: loaded as by their library, found without a network, refused by name."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models
from typer.testing import CliRunner

from simclr_plus.cli.app import app
from simclr_plus.encoders import ResNet
from simclr_plus.encoders.build import build
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.errors import CheckpointError, NotFoundError, RecipeError
from simclr_plus.importers import load_pretrained, with_normalisation
from simclr_plus.importers.pretrained import load_file
from simclr_plus.recipe import load_recipe
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.training.trainer import train
from simclr_plus.weights.checkpoints import load_checkpoint, save_checkpoint
from simclr_plus.weights.encoder_files import load_encoder, save_encoder
from simclr_plus.weights.export import export_encoder, recipe_of

IMAGENET = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
SQUEEZENET = "squeezenet1_1-b8a52dc0.pth"  # torchvision's name of its weights
RUN = [
    *("data.limit=64", "augmentation.image_size=32", "augmentation.blur_prob=0", "head.output_dim=16"),
    *("training.batch_size=32", "training.epochs=1", "training.warmup_epochs=0", "monitor.knn_every_epochs=0"),
    *("optimizer.name=sgd", "optimizer.learning_rate=1e-12", "checkpoints.every_epochs=0.5", "checkpoints.keep_last=9"),
]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever would touch the network fails."""

    def touched(*_: Any, **__: Any) -> None:
        pytest.fail("the network was touched")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, touched)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, touched)


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Empty caches: of Hugging Face's hub and of PyTorch's."""
    hub, torch_home = tmp_path / "hf" / "hub", tmp_path / "torch"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    return hub, torch_home / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    """A network of timm for images of 160 pixels, with a classifier of 10 classes."""
    torch.manual_seed(3)
    return timm.create_model("test_vit", num_classes=10).eval()


def recipe(name: str, pretrained: str, *more: str, size: int = 32) -> Recipe:
    value = f'"{pretrained}"' if pretrained != "true" else pretrained
    keys = [f"encoder.name={name}", f"encoder.pretrained={value}", f"augmentation.image_size={size}"]
    return load_recipe("demo", [*keys, *more])


def started(recipe: Recipe) -> Encoder:
    """f as a run begins with it."""
    recipe = with_normalisation(recipe)
    torch.manual_seed(0)
    encoder = build(recipe.network)
    load_pretrained(encoder, recipe)
    return encoder.eval()


def h(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        features: Tensor = network(images)
    return features


def state(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.state_dict())


def lay_out(hub: Path, repository: str, file: str, tensors: dict[str, Tensor]) -> Path:
    """A file in a cache of the hub, as the hub lays it out."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    path = folder / "snapshots" / "0123abcd" / file
    path.parent.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abcd")
    (save_file if file.endswith("safetensors") else torch.save)(tensors, path)
    return path


def test_f_begins_with_timms_features_at_another_image_size(tmp_path: Path, vit: nn.Module) -> None:
    torch.save({"state_dict": state(vit)}, tmp_path / "w.pth")
    images = torch.rand(2, 3, 48, 48)
    overlay = {"file": str(tmp_path / "w.pth"), "num_classes": 10}
    theirs = timm.create_model("test_vit", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=48)
    encoder = started(recipe("timm:test_vit", str(tmp_path / "w.pth"), size=48))
    assert torch.allclose(h(encoder, images), h(theirs.eval(), (images - 0.5) / 0.5), rtol=0, atol=1e-5)


def test_f_begins_with_torchvisions_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs, seen = models.mobilenet_v3_small(num_classes=7).eval(), []
    torch.save({"model": {f"module.{name}": x for name, x in state(theirs).items()}}, tmp_path / "w.pth")
    theirs.classifier[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = torch.rand(2, 3, 32, 32)
    h(theirs, (images - IMAGENET[0]) / IMAGENET[1])
    encoder = started(recipe("torchvision:mobilenet_v3_small", str(tmp_path / "w.pth")))
    assert torch.allclose(h(encoder, images), seen[0], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_positions_and_earlier_names_of_torchvisions_transformer_are_fitted(tmp_path: Path) -> None:
    from torchvision.models.vision_transformer import interpolate_embeddings

    theirs = models.vit_b_16(num_classes=3).eval()
    earlier = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): x
        for name, x in state(theirs).items()
    }
    assert len(earlier.keys() - state(theirs).keys()) == 48
    torch.save(earlier, tmp_path / "w.pth")
    small = models.vit_b_16(num_classes=3, image_size=32).eval()
    small.load_state_dict(interpolate_embeddings(32, 16, theirs.state_dict()))
    small.heads = nn.Identity()
    images = torch.rand(2, 3, 32, 32)
    encoder = started(recipe("torchvision:vit_b_16", str(tmp_path / "w.pth")))
    assert torch.allclose(h(encoder, images), h(small, (images - IMAGENET[0]) / IMAGENET[1]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["bare", "headless", "wrapped", "copies", "encoder", "checkpoint", "float16"])
def test_whatever_a_file_wraps_them_in_the_weights_are_found(tmp_path: Path, vit: nn.Module, kind: str) -> None:
    file, tensors = tmp_path / "w.safetensors", state(vit)
    source = ForeignEncoder("timm:test_vit", {}, 64, mean=(0.5,) * 3, std=(0.5,) * 3)
    torch.save(tensors, tmp_path / "source.pth")
    load_file(source, tmp_path / "source.pth")
    if kind == "bare":
        save_file(tensors, file)
    elif kind == "headless":
        save_file({name: x for name, x in tensors.items() if not name.startswith("head.")}, file)
    elif kind == "wrapped":
        wrapped = {f"model.module.{name}": x for name, x in tensors.items()} | {"head_of_another.weight": torch.ones(3)}
        torch.save({"epoch": 3, "state_dict": wrapped, "optimizer": {"state": {0: torch.ones(2)}}}, file)
    elif kind == "copies":
        torch.save({"state_dict": tensors, "state_dict_ema": {name: x + 1 for name, x in tensors.items()}}, file)
    elif kind == "float16":
        torch.save({name: x.half() for name, x in tensors.items()}, file)
    elif kind == "encoder":
        save_encoder(source, file)
    else:
        copy = ForeignEncoder("timm:test_vit", {}, 64)
        model = nn.ModuleDict({"encoder": source, "head": nn.Linear(64, 4), "key_encoder": copy})
        mean_and_std = ["encoder.mean=[0.5,0.5,0.5]", "encoder.std=[0.5,0.5,0.5]"]
        before = load_recipe("demo", ["encoder.name=timm:test_vit", "augmentation.image_size=64", *mean_and_std])
        save_checkpoint(file, model, torch.optim.SGD(model.parameters(), 0.1), step=1, recipe=before)
    images = torch.rand(2, 3, 64, 64)
    encoder = started(recipe("timm:test_vit", str(file), size=64))
    tolerance = 0.02 if kind == "float16" else 1e-6
    assert torch.allclose(h(encoder, images), h(source.eval(), images), rtol=0, atol=tolerance)


def test_names_of_the_first_authors_are_understood_as_timm_understands_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("test_convnext", num_classes=5).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.05)
    renamed = {}
    for name, tensor in state(theirs).items():
        for ours, first in (
            (r"^stem\.", "downsample_layers.0."),
            (r"^stages\.(\d)\.blocks\.(\d)", r"stages.\1.\2"),
            (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
            ("conv_dw", "dwconv"),
            (r"mlp\.fc", "pwconv"),
            (r"^head\.norm", "norm"),
            (r"^head\.fc", "head"),
        ):
            name = re.sub(ours, first, name)
        renamed[name] = tensor
    torch.save({"model": renamed}, tmp_path / "w.pth")
    theirs.reset_classifier(0)
    images = torch.rand(2, 3, 32, 32)
    encoder = started(recipe("timm:test_convnext", str(tmp_path / "w.pth")))
    assert torch.allclose(h(encoder, images), h(theirs, (images - 0.5) / 0.5), rtol=0, atol=1e-5)


def test_an_encoder_of_patches_begins_with_them_inside(tmp_path: Path, vit: nn.Module) -> None:
    torch.save(state(vit), tmp_path / "w.pth")
    single = with_normalisation(recipe("timm:test_vit", str(tmp_path / "w.pth")))
    patches = build({"family": "patches", "encoder": single.network, "side": 32, "stride": 16})
    load_pretrained(patches, single)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(h(patches.eval(), images), h(started(single), images))


def test_the_normalisation_is_that_of_the_file_else_the_librarys_and_never_overrules_the_recipe(
    tmp_path: Path, vit: nn.Module
) -> None:
    torch.save(state(vit), tmp_path / "w.pth")
    save_encoder(ForeignEncoder("timm:test_vit", {}, 32, mean=(0.1, 0.2, 0.3)), tmp_path / "ours.safetensors")
    save_encoder(ResNet(18), tmp_path / "resnet.safetensors")

    def numbers(name: str, file: str, *more: str) -> tuple[Any, Any]:
        encoder = with_normalisation(recipe(name, str(tmp_path / file), *more)).encoder
        return encoder.mean, encoder.std

    assert numbers("timm:test_vit", "w.pth") == ((0.5,) * 3, (0.5,) * 3)
    assert numbers("timm:test_vit", "w.pth", "encoder.mean=[0,0,0]") == ((0,) * 3, (0.5,) * 3)
    assert numbers("timm:test_vit", "ours.safetensors") == ((0.1, 0.2, 0.3), (1.0,) * 3)
    assert numbers("torchvision:resnet18", "resnet.safetensors") == ((0.0,) * 3, (1.0,) * 3)
    assert numbers("torchvision:googlenet", "w.pth") == ((0.5,) * 3, (0.5,) * 3)
    told = with_normalisation(recipe("timm:test_vit", str(tmp_path / "w.pth"))).to_toml()
    (tmp_path / "told.toml").write_text(told)
    (tmp_path / "w.pth").unlink()
    assert not load_recipe(str(tmp_path / "told.toml"), []).normalisation_is_open


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.usefixtures("offline")
def test_weights_of_timm_come_from_the_hubs_cache(caches: tuple[Path, Path], vit: nn.Module, file: str) -> None:
    path = lay_out(caches[0], "timm/test_vit.r160_in1k", file, state(vit))
    encoder, images = started(recipe("timm:test_vit", "true")), torch.rand(2, 3, 32, 32)
    assert torch.equal(h(encoder, images), h(started(recipe("timm:test_vit", str(path))), images))


@pytest.mark.usefixtures("offline")
def test_weights_of_torchvision_come_from_pytorchs_cache(caches: tuple[Path, Path]) -> None:
    theirs = models.squeezenet1_1()
    caches[1].mkdir(parents=True)
    torch.save(state(theirs), caches[1] / SQUEEZENET)
    encoder = started(recipe("torchvision:squeezenet1_1", "true"))
    assert torch.equal(state(encoder)["network.features.0.weight"], state(theirs)["features.0.weight"])
    torch.save({**state(theirs), "x": Planted(caches[1] / "ran")}, caches[1] / SQUEEZENET)
    with pytest.raises(CheckpointError, match=SQUEEZENET):
        started(recipe("torchvision:squeezenet1_1", "true"))
    assert not (caches[1] / "ran").exists()


@pytest.mark.usefixtures("offline")
def test_weights_that_are_not_there_are_asked_of_no_network(caches: tuple[Path, Path]) -> None:
    for name, place in (
        ("timm:test_vit", caches[0]),
        ("timm:resnet18.tv_in1k", caches[1] / "resnet18-f37072fd.pth"),
        ("torchvision:squeezenet1_1", caches[1] / SQUEEZENET),
    ):
        with pytest.raises(NotFoundError) as error:
            started(recipe(name, "true"))
        assert str(place) in str(error.value) and "encoder.download = true" in str(error.value)
    for name in ("timm:test_vit.of_nobody", "timm:test_vi", "torchvision:squeezenet9"):
        with pytest.raises(NotFoundError, match=r"test_vit|squeezenet1_1"):
            with_normalisation(recipe(name, "true"))


def test_weights_are_fetched_where_the_recipe_says_so_and_it_is_told_from_where(
    caches: tuple[Path, Path], vit: nn.Module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched = []

    def from_hub(repository: str, file: str, *, revision: str | None) -> str:
        fetched.append((repository, file, revision))
        if file == "model.safetensors":
            raise EntryNotFoundError("only pickled there")
        return str(lay_out(caches[0], repository, file, state(vit)))

    def from_url(url: str, path: str, digest: str | None, *, progress: bool) -> None:
        fetched.append((url, Path(path).name, digest))
        torch.save(state(models.squeezenet1_1()), path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", from_hub)
    monkeypatch.setattr(torch.hub, "download_url_to_file", from_url)
    for name, address in (
        ("timm:test_vit", "timm/test_vit.r160_in1k"),
        ("torchvision:squeezenet1_1", "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"),
    ):
        for times in ("first", "again"):
            started(recipe(name, "true", "encoder.download=true"))
            assert (address in capsys.readouterr().err) == (times == "first")
    files = [file for _, file, _ in fetched]
    assert files == ["model.safetensors", "pytorch_model.bin", SQUEEZENET] and fetched[-1][2] == "b8a52dc0"


def test_a_hub_that_cannot_be_reached_is_asked_once(caches: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unreachable(repository: str, file: str, **_: Any) -> str:
        asked.append(file)
        raise LocalEntryNotFoundError("no way there")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(NotFoundError, match="no way there"):
        started(recipe("timm:test_vit", "true", "encoder.download=true"))
    assert len(asked) == 1


class Planted:
    """What a pickled file of a stranger may hold: opening it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("kind", ["missing", "unknown", "shape", "broken", "code", "another", "lenient"])
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path: Path, vit: nn.Module, kind: str) -> None:
    name, tensors, told = "timm:test_vit", state(vit), "blocks.1.norm1.weight"
    if kind == "missing":
        del tensors[told]
    elif kind == "unknown":
        tensors[told := "blocks.9.norm1.weight"] = torch.ones(64)
    elif kind == "shape":
        tensors[told] = torch.ones(63)
    elif kind == "broken":
        tensors[told] = torch.full((64,), torch.nan)
    elif kind == "code":
        tensors[told] = Planted(tmp_path / "ran")  # type: ignore[assignment]
        told = "refused"
    elif kind == "another":
        name, told = "torchvision:mobilenet_v3_small", "features.0.0.weight"
    else:  # of which timm lets tensors be left out
        name, tensors = "timm:dla46x_c", state(timm.create_model("dla46x_c"))
        del tensors[told := "base_layer.0.weight"]
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as error:
        started(recipe(name, str(tmp_path / "w.pth")))
    assert str(tmp_path / "w.pth") in str(error.value) and told in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_file_of_ours_with_another_network_is_refused(tmp_path: Path) -> None:
    save_encoder(ForeignEncoder("timm:test_resnet", {}, 32), tmp_path / "other.safetensors")
    save_encoder(ResNet(18, 0.125, stem="cifar"), tmp_path / "resnet.safetensors")
    standardized = ForeignEncoder("timm:test_vit", {}, 32, input="standardized")
    save_encoder(standardized, tmp_path / "input.safetensors")
    for file, told in (("other", "test_resnet"), ("resnet", "cifar stem"), ("input", "encoder.input")):
        with pytest.raises(CheckpointError, match=told):
            started(recipe("timm:test_vit", str(tmp_path / f"{file}.safetensors")))


def test_a_network_of_ones_own_starts_from_a_file_that_comes_with_mean_and_std(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_network_of_a_test.py").write_text(
        "from torch import nn\n\n\n"
        "def small() -> nn.Module:\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    theirs = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    torch.save(state(theirs), tmp_path / "w.pth")
    name, images = "python:own_network_of_a_test:small", torch.rand(2, 3, 32, 32)
    with pytest.raises(RecipeError, match=r"encoder\.mean"):
        with_normalisation(recipe(name, str(tmp_path / "w.pth")))
    encoder = started(recipe(name, str(tmp_path / "w.pth"), "encoder.mean=[0.5,0.5,0.5]", "encoder.std=[1,1,1]"))
    assert torch.allclose(h(encoder, images), h(theirs, images - 0.5), atol=1e-6)
    with pytest.raises(RecipeError, match=r"encoder\.pretrained = true"):
        recipe(name, "true")
    sys.modules.pop("own_network_of_a_test")


def trained(folder: Path, keys: list[str], name: str = "run") -> Run:
    run = create_run(with_normalisation(load_recipe("demo", keys)), folder, name)
    train(run, quiet=True)
    return run


def test_a_run_begins_with_the_weights_records_their_normalisation_and_resumes_without_them(
    tmp_path: Path, vit: nn.Module
) -> None:
    torch.save(state(vit), tmp_path / "w.pth")
    keys = [*RUN, "encoder.name=timm:test_vit", f"encoder.pretrained={tmp_path / 'w.pth'}", "training.epochs=2"]
    run = trained(tmp_path, keys)
    images, first = torch.rand(2, 3, 32, 32), load_encoder(run.checkpoint_files()[0])
    assert torch.allclose(h(first, images), h(started(run.recipe()), images), rtol=0, atol=1e-5)
    recorded = run.recipe().encoder
    assert recorded.mean == recorded.std == (0.5, 0.5, 0.5) and not run.recipe().normalisation_is_open
    notes = [event["message"] for event in run.events() if event["event"] == "note"]
    assert any(str(tmp_path / "w.pth") in note and "sha256" in note for note in notes)
    unbroken = run.checkpoint_files()[-1].read_bytes()
    for file in (*run.checkpoint_files()[2:], run.path / "encoder.safetensors", tmp_path / "w.pth"):
        file.unlink()
    train(run, quiet=True)
    assert run.checkpoint_files()[-1].read_bytes() == unbroken
    export_encoder(run.latest_checkpoint(), tmp_path / "e.safetensors", anonymous=True)
    assert recipe_of(tmp_path / "e.safetensors").encoder.pretrained == "w.pth"


def test_a_copy_that_follows_f_begins_with_the_weights_too(tmp_path: Path, vit: nn.Module) -> None:
    torch.save(state(vit), tmp_path / "w.pth")
    moco = ["method.name=moco", "method.queue=64", "method.output_dim=16", "training.batch_size=64"]
    keys = [*RUN, *moco, "encoder.name=timm:test_vit", f"encoder.pretrained={tmp_path / 'w.pth'}"]
    run = trained(tmp_path, keys)
    copy = load_checkpoint(run.latest_checkpoint()).part("key_encoder")
    assert torch.allclose(copy["network.norm.weight"], state(vit)["norm.weight"], atol=1e-6)
    assert torch.allclose(copy["network.blocks.0.mlp.fc1.weight"], state(vit)["blocks.0.mlp.fc1.weight"], atol=1e-6)


@pytest.mark.slow
def test_two_processes_begin_with_the_weights_too(
    tmp_path: Path, vit: nn.Module, simclr_plus: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    torch.save(state(vit), tmp_path / "w.pth")
    keys = [*RUN, "encoder.name=timm:test_vit", "encoder.pretrained=w.pth"]
    run = simclr_plus("run", "demo", *keys, "--name", "x", "--nproc", "2", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    first, images = Run(tmp_path / "runs" / "x").checkpoint_files()[0], torch.rand(2, 3, 32, 32)
    begun = started(recipe("timm:test_vit", str(tmp_path / "w.pth")))
    assert torch.allclose(h(load_encoder(first), images), h(begun, images), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("offline", "caches")
def test_a_run_whose_weights_are_not_there_or_do_not_fit_leaves_no_folder_and_a_plan_tells_it(tmp_path: Path) -> None:
    torch.save(state(models.squeezenet1_1()), tmp_path / "w.pth")
    command = ["run", "demo", *RUN, "encoder.name=timm:test_vit", "--runs", str(tmp_path / "runs"), "--name", "x"]
    for value, code in (("true", 3), (str(tmp_path / "none.pth"), 3), (str(tmp_path / "w.pth"), 1)):
        result = CliRunner().invoke(app, [*command, f"encoder.pretrained={value}"], standalone_mode=False)
        assert getattr(result.exception, "exit_code", 0) == code and not (tmp_path / "runs").exists()
    for value in ("true", str(tmp_path / "none.pth")):
        plan = CliRunner().invoke(app, [*command, f"encoder.pretrained={value}", "--dry-run", "--json"])
        document = json.loads(plan.stdout)
        assert any("test_vit" in note or "none.pth" in note for note in document["notes"])
        assert document["recipe"]["encoder"]["mean"] == ([0.5] * 3 if value == "true" else [0] * 3)


def test_the_cells_of_a_study_have_the_normalisation_of_the_weights(tmp_path: Path, vit: nn.Module) -> None:
    from simclr_plus.studies.catalogue import find_study
    from simclr_plus.studies.running.cells import open_study, plan_study, record

    torch.save(state(vit), tmp_path / "w.pth")
    base = recipe("timm:test_vit", str(tmp_path / "w.pth"))
    planned = plan_study(tmp_path / "study", find_study("temperature"), "small", 1, base)
    record(planned, 1)
    for cell in (planned.cells[0], open_study(tmp_path / "study").cells[-1]):
        assert cell.recipe.encoder.mean == (0.5, 0.5, 0.5) and not cell.recipe.normalisation_is_open
