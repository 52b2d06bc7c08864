from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from simclr_plus.encoders import ResNet
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.errors import CheckpointError, EnvironmentNotAbleError, NotFoundError
from simclr_plus.losses import nt_xent
from simclr_plus.recipe import Recipe, load_recipe
from simclr_plus.training.model import build_model
from simclr_plus.training.optimizers import build_optimizer
from simclr_plus.weights.checkpoints import (
    checkpoint_header,
    checkpoint_tensors,
    load_checkpoint,
    restore,
    save_checkpoint,
)
from simclr_plus.weights.encoder_files import load_encoder, save_encoder
from simclr_plus.weights.tensor_files import read_header, write_tensors


@pytest.fixture
def recipe(tiny: list[str]) -> Recipe:
    return load_recipe("demo", tiny)


def one_update(recipe: Recipe, steps: int = 1):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = build_model(recipe, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(model, recipe)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    for _ in range(steps):
        outputs = model(torch.rand(8, 3, 28, 28))
        (nt_xent(*outputs["z"].chunk(2)) + outputs["probe"].square().sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adam"])
def test_a_restored_state_goes_on_bit_for_bit(recipe: Recipe, tmp_path: Path, optimizer: str) -> None:
    recipe = load_recipe("demo", ["encoder.width=0.125", f"optimizer.name={optimizer}"])
    model, state = one_update(recipe, steps=2)
    save_checkpoint(tmp_path / "a.safetensors", model, state, step=2, recipe=recipe, images=9, classes=("a", "b", "c"))
    other, other_state = one_update(load_recipe("demo", ["encoder.width=0.125", f"optimizer.name={optimizer}"]))
    checkpoint = load_checkpoint(tmp_path / "a.safetensors")
    restore(checkpoint, other, other_state)
    images = torch.rand(8, 3, 28, 28)
    for m, s in ((model, state), (other, other_state)):
        outputs = m(images)
        (nt_xent(*outputs["z"].chunk(2)) + outputs["probe"].square().sum()).backward()
        s.step()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert (checkpoint.step, checkpoint.recipe) == (2, recipe)
    assert (checkpoint.images, checkpoint.classes) == (9, ("a", "b", "c"))


def test_an_encoder_file_holds_torchvisions_names_and_what_one_must_know(tmp_path: Path) -> None:
    encoder = ResNet(18, 0.125, stem="cifar").eval()
    save_encoder(encoder, tmp_path / "e.safetensors", {"data": "mine", "numbers": [1, 2]})
    header = read_header(tmp_path / "e.safetensors")
    plain = {"flavor": "torchvision", "selective_kernels": False, "se_ratio": 0.0, "mean": [0] * 3, "std": [1] * 3}
    assert json.loads(header["architecture"]) == {"depth": 18, "width": 0.125, "stem": "cifar"} | plain
    assert (header["data"], header["numbers"], header["feature_dim"]) == ("mine", "[1, 2]", "64")
    assert "[0, 1]" in header["input"]
    assert {"conv1.weight", "layer2.0.downsample.0.weight"} <= load_file(tmp_path / "e.safetensors").keys()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_encoder(tmp_path / "e.safetensors")(images), encoder(images))


def test_an_encoder_with_selective_kernels_and_squeeze_excitation_comes_back(tmp_path: Path) -> None:
    encoder = ResNet(50, 0.125, selective_kernels=True, se_ratio=0.25, flavor="reference").eval()
    save_encoder(encoder, tmp_path / "e.safetensors")
    images = torch.rand(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(load_encoder(tmp_path / "e.safetensors")(images), encoder(images))


@pytest.mark.parametrize("flavor", ["torchvision", "reference"])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_any_network_of_ours_is_rebuilt_from_its_file(tmp_path: Path, stem: str, flavor: str) -> None:
    for depth, width in ((18, 0.25), (50, 0.125)):
        encoder = ResNet(depth, width, stem=stem, flavor=flavor).eval()
        save_encoder(encoder, tmp_path / "e.safetensors")
        rebuilt = load_encoder(tmp_path / "e.safetensors")
        assert rebuilt.architecture == encoder.architecture
        images = torch.rand(1, 3, 65, 64)
        with torch.no_grad():
            assert torch.equal(rebuilt(images), encoder(images))


def test_a_network_that_asks_for_its_version_comes_back(tmp_path: Path) -> None:
    encoder = ForeignEncoder("torchvision:mnasnet0_5", {}, 32)
    save_encoder(encoder, tmp_path / "e.safetensors")
    loaded = load_encoder(tmp_path / "e.safetensors").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in encoder.state_dict().items())


def test_a_checkpoint_gives_its_encoder_too(recipe: Recipe, tmp_path: Path) -> None:
    model, state = one_update(recipe)
    save_checkpoint(tmp_path / "a.safetensors", model, state, step=1, recipe=recipe)
    images = torch.rand(2, 3, 28, 28)
    with torch.no_grad():
        assert torch.allclose(load_encoder(tmp_path / "a.safetensors")(images), model.encoder.eval()(images), atol=1e-6)


def test_wrong_files_are_refused_by_name(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"nothing\.safetensors"):
        load_encoder(tmp_path / "nothing.safetensors")
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"PK\x03\x04 not safetensors at all")
    with pytest.raises(CheckpointError, match=r"a\.safetensors is no safetensors file"):
        load_encoder(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not written by SimCLR"):
        load_encoder(path)
    with pytest.raises(CheckpointError, match="no checkpoint of SimCLR"):
        load_checkpoint(path)


def test_a_cut_off_checkpoint_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    model, state = one_update(recipe)
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, model, state, step=1, recipe=recipe)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cut off"):
        load_checkpoint(path)


def test_a_checkpoint_of_another_network_is_refused_with_what_differs(recipe: Recipe, tmp_path: Path) -> None:
    model, state = one_update(recipe)
    save_checkpoint(tmp_path / "a.safetensors", model, state, step=1, recipe=recipe)
    wider = load_recipe("demo", ["encoder.width=0.25"])
    other = build_model(wider, 3)
    with pytest.raises(
        CheckpointError, match=r"another network .* of another shape .*is \[8\] in the file, \[16\] here"
    ):
        restore(load_checkpoint(tmp_path / "a.safetensors"), other, build_optimizer(other, wider))


def test_when_the_disk_is_full_the_previous_checkpoint_survives(tmp_path: Path) -> None:
    """A limit on file size stands for the full disk: the write fails half way."""
    code = """
import resource, signal, sys, torch
from pathlib import Path
from simclr_plus.weights.encoder_files import save_encoder, load_encoder
from simclr_plus.encoders import ResNet
from simclr_plus.errors import EnvironmentNotAbleError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
save_encoder(ResNet(18, 0.125), path)
before = path.read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_encoder(ResNet(18, 0.25), path)
except EnvironmentNotAbleError as error:
    print(error)
assert path.read_bytes() == before and load_encoder(path).feature_dim == 64
print(sorted(p.name for p in path.parent.iterdir()))
"""
    path = tmp_path / "e.safetensors"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"cannot write {path}" in done.stdout and "free some space" in done.stdout
    assert done.stdout.strip().endswith("['e.safetensors']")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentNotAbleError, match="permissions"):
        save_encoder(ResNet(18, 0.125), tmp_path / "file" / "e.safetensors")


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
@pytest.mark.parametrize("name", ["lars", "sgd", "adam"])
def test_every_tensor_of_the_optimizers_state_comes_to_its_parameters_device_and_type(
    recipe: Recipe, tmp_path: Path, name: str
) -> None:
    """The "meta" device stands for a GPU: what is left on the CPU is told from what was moved."""
    recipe = load_recipe("demo", ["encoder.width=0.125", f"optimizer.name={name}"])
    model, state = one_update(recipe)
    save_checkpoint(tmp_path / "a.safetensors", model, state, step=1, recipe=recipe)
    elsewhere = build_model(recipe, 3).to("meta", torch.float64)
    optimizer = torch.optim.SGD(elsewhere.parameters(), lr=0.0)  # whichever: restore fills its state
    restore(load_checkpoint(tmp_path / "a.safetensors"), elsewhere, optimizer)
    for parameter in elsewhere.parameters():
        kept = optimizer.state[parameter]
        assert kept and all(value.device == parameter.device for value in kept.values())
        assert all(value.dtype == parameter.dtype for value in kept.values() if value.shape == parameter.shape)


def test_a_checkpoint_that_is_deleted_while_it_is_read_is_read_to_its_end(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simclr_plus.weights import tensor_files

    model, state = one_update(recipe)
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, model, state, step=1, recipe=recipe)
    opened = tensor_files.safe_open

    def opened_then_deleted(file: Path, framework: str) -> object:
        found = opened(file, framework=framework)
        file.unlink()
        return found

    monkeypatch.setattr(tensor_files, "safe_open", opened_then_deleted)
    read = load_checkpoint(path)
    assert torch.equal(read.tensors["encoder.conv1.weight"], model.state_dict()["encoder.conv1.weight"])


def test_a_checkpoint_tells_which_images_it_saw_and_an_early_one_does_not(recipe: Recipe, tmp_path: Path) -> None:
    model, state = one_update(recipe)
    path = tmp_path / "a.safetensors"
    header = checkpoint_header(1, recipe, 9, ("a", "b"), listing="0a", sizes="0b")
    write_tensors(path, checkpoint_tensors(model, state), header)
    assert (load_checkpoint(path).listing, load_checkpoint(path).sizes) == ("0a", "0b")
    save_checkpoint(path, model, state, step=1, recipe=recipe)
    assert (load_checkpoint(path).listing, load_checkpoint(path).sizes) == ("", "")
