"""A file that is no safetensors file is told for what it is, wherever weights are read, with a way that leads on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from simclr_plus.errors import CheckpointError
from simclr_plus.importers import import_pytorch
from simclr_plus.weights.checkpoints import load_checkpoint
from simclr_plus.weights.encoder_files import load_encoder
from simclr_plus.weights.head_files import load_head
from simclr_plus.weights.tensor_files import read_header

STATE = {"conv1.weight": torch.zeros(4, 3, 7, 7)}


def saved(path: Path, zipped: bool) -> None:
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)


def cut_off(path: Path, left: int) -> None:
    save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:left])


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "zip": (lambda path: saved(path, True), "simclr-plus import"),
    "pickle": (lambda path: saved(path, False), "simclr-plus import"),
    "gguf": (lambda path: path.write_bytes(b"GGUF" + bytes(99)), "GGUF"),
    "html": (lambda path: path.write_bytes(b"\n<!DOCTYPE html><html>404</html>"), "web page"),
    "lfs": (
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "git lfs pull",
    ),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "hdf5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "Keras"),
    "body": (lambda path: cut_off(path, -100), "cut off"),
    "header": (lambda path: cut_off(path, 30), "cut off"),
    "length": (lambda path: cut_off(path, 5), "damaged"),
    "folder": (lambda path: path.mkdir(), "folder"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", [read_header, load_encoder, load_checkpoint, lambda path: load_head(path, "linear")])
def test_what_is_no_safetensors_file_is_named(tmp_path: Path, kind: str, reader: Callable[[Path], object]) -> None:
    make, says = KINDS[kind]
    file = tmp_path / "weights.safetensors"
    make(file)
    with pytest.raises(CheckpointError) as error:
        reader(file)
    assert str(error.value).startswith(str(file)) and says in str(error.value)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"zip", "pickle", "folder"}))
def test_import_is_not_told_to_import(tmp_path: Path, kind: str) -> None:
    make, says = KINDS[kind]
    file = tmp_path / "weights.safetensors"
    make(file)
    with pytest.raises(CheckpointError) as error:
        import_pytorch(file, tmp_path / "e.safetensors")
    assert says in str(error.value) and "simclr-plus import" not in str(error.value)


def test_a_pytorch_file_with_a_wrong_ending_is_imported_as_what_it_is(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "x.safetensors")
    save_file(state, tmp_path / "x.pth")
    for name in ("x.safetensors", "x.pth"):
        encoder = load_encoder(import_pytorch(tmp_path / name, tmp_path / "e.safetensors").encoder)
        assert torch.equal(encoder.state_dict()["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
