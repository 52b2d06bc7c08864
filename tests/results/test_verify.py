"""`verify`: accuracies counted by hand, hashes by hashlib, and every way in which a head can be the wrong one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from places import GOLDEN_FOLDER
from torch import nn

from simclr_plus.augmentations.law import simclr_law
from simclr_plus.cli import main
from simclr_plus.datasets import FASHION_CLASSES, TEST, Images, open_images
from simclr_plus.encoders import ResNet
from simclr_plus.encoders.architecture import Architecture
from simclr_plus.errors import CheckpointError, NotFoundError, RecipeError, SimclrPlusError
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.recipe import load_recipe
from simclr_plus.recipe.keys import Data
from simclr_plus.results.published import NAMES, V2, stated_top1
from simclr_plus.results.verify import images_to_verify, verify
from simclr_plus.training.model import build_model
from simclr_plus.weights.checkpoints import save_checkpoint
from simclr_plus.weights.encoder_files import save_encoder
from simclr_plus.weights.head_files import save_head

CPU = torch.device("cpu")
LAW = simclr_law(28, blur_prob=0.0)


@pytest.fixture(scope="module")
def images() -> Images:
    return open_images(Data(), TEST).first(300)


@pytest.fixture
def encoder(tmp_path: Path) -> ResNet:
    """A random network of 64 features, saved as e.safetensors with a linear and a projection head beside it."""
    torch.manual_seed(0)
    encoder = ResNet(18, 1 / 8, stem="cifar").eval()
    save_encoder(encoder, tmp_path / "e.safetensors")
    save_head(nn.Linear(64, 10), tmp_path / "e.linear_head.safetensors")
    return encoder


@torch.no_grad()
def features(encoder: nn.Module, images: Images) -> torch.Tensor:
    assert images.pixels is not None
    return encoder(torch.from_numpy(images.pixels).permute(0, 3, 1, 2) / 255)


def test_it_counts_right_answers_and_hashes_the_files(tmp_path: Path, encoder: ResNet, images: Images) -> None:
    torch.manual_seed(1)
    head = nn.Linear(64, 10)
    save_head(head, tmp_path / "head.safetensors")
    result = verify(
        tmp_path / "e.safetensors", images, LAW, device=CPU, head=tmp_path / "head.safetensors", stated=12.5
    )
    scores = features(encoder, images).double().numpy() @ head.weight.detach().double().numpy().T
    scores += head.bias.detach().numpy()
    right = sum(int(scores[i].argmax() == images.labels[i]) for i in range(300))  # type: ignore[index]
    among_five = sum(int((scores[i] > scores[i][images.labels[i]]).sum() < 5) for i in range(300))  # type: ignore[index]
    assert result["results"]["top1"] == pytest.approx(right / 300)
    assert result["results"]["top5"] == pytest.approx(among_five / 300)
    assert result["difference"] == pytest.approx(right / 300 - 0.125)
    assert result["standard_error"] == pytest.approx(np.sqrt(right / 300 * (1 - right / 300) / 300))
    for part, name in (("encoder", "e.safetensors"), ("linear head", "head.safetensors")):
        assert result["files"][part]["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert (result["test_images"], result["classes"]) == (300, 10)


def test_the_head_of_an_import_is_found_beside_the_encoder(tmp_path: Path, encoder: ResNet, images: Images) -> None:
    result = verify(tmp_path / "e.safetensors", images, LAW, device=CPU)
    assert result["files"]["linear head"]["path"] == str(tmp_path / "e.linear_head.safetensors")
    (tmp_path / "e.linear_head.safetensors").unlink()
    with pytest.raises(NotFoundError, match="no linear head, in it or beside it"):
        verify(tmp_path / "e.safetensors", images, LAW, device=CPU)


def test_a_checkpoint_is_verified_with_its_own_probe(tmp_path: Path, tiny: list[str], images: Images) -> None:
    recipe = load_recipe("demo", [*tiny, "augmentation.image_size=28"])
    for classes in (10, 0):
        model = build_model(recipe, classes).eval()
        save_checkpoint(
            tmp_path / f"{classes}.safetensors", model, torch.optim.SGD(model.parameters()), step=1, recipe=recipe
        )
        if not classes:
            continue
        result = verify(tmp_path / "10.safetensors", images, recipe.law, device=CPU)
        logits = model.probe(features(model.encoder, images))  # type: ignore[misc]
        expected = (logits.argmax(1).numpy() == images.labels).mean()
        assert result["results"]["top1"] == pytest.approx(expected)
    with pytest.raises(CheckpointError, match="holds no linear head"):
        verify(tmp_path / "0.safetensors", images, recipe.law, device=CPU)


def test_a_head_may_stand_on_a_layer_of_the_projection_head(tmp_path: Path, encoder: ResNet, images: Images) -> None:
    torch.manual_seed(2)
    projection, head = SimCLRProjectionHead(64, 32, 16, num_layers=3).eval(), nn.Linear(32, 10)
    save_head(projection, tmp_path / "p.safetensors")
    save_head(head, tmp_path / "e.linear_head.safetensors")
    given = {"device": CPU, "selector": 1, "projection": tmp_path / "p.safetensors"}
    result = verify(tmp_path / "e.safetensors", images, LAW, **given)
    first, norm, *_ = projection.layers
    hidden = torch.relu(norm(features(encoder, images) @ first.weight.T))
    expected = (head(hidden).argmax(1).numpy() == images.labels).mean()
    assert result["results"]["top1"] == pytest.approx(expected) and "projection head" in result["files"]
    with pytest.raises(NotFoundError, match=r"no projection head .*selector 1 counts its layers"):
        verify(tmp_path / "e.safetensors", images, LAW, device=CPU, selector=1)
    with pytest.raises(CheckpointError, match=r"takes 32 features.*gives 64.*--selector"):
        verify(tmp_path / "e.safetensors", images, LAW, device=CPU)


@pytest.mark.parametrize(
    "layout",
    [
        lambda w, b: {"weight": w, "bias": b},
        lambda w, b: {
            "state_dict": {"module.fc.weight": w, "module.fc.bias": b, "module.mlp.weight": w, "module.mlp.bias": b}
        },
        lambda w, b: {"heads": {"0": {"clf": {"0.weight": w, "0.bias": b}}}},
    ],
)
def test_a_head_of_another_trainer_is_taken(
    tmp_path: Path, encoder: ResNet, images: Images, layout: Callable[..., object]
) -> None:
    torch.manual_seed(3)
    head = nn.Linear(64, 10)
    torch.save(layout(head.weight.data, head.bias.data), tmp_path / "fc.pth")
    result = verify(tmp_path / "e.safetensors", images, LAW, device=CPU, head=tmp_path / "fc.pth")
    expected = (head(features(encoder, images)).argmax(1).numpy() == images.labels).mean()
    assert result["results"]["top1"] == pytest.approx(expected)


def test_class_names_put_the_heads_rows_in_order(tmp_path: Path, encoder: ResNet, images: Images) -> None:
    plain = verify(tmp_path / "e.safetensors", images, LAW, device=CPU)
    head = nn.Linear(64, 10)
    from safetensors.torch import load_file

    head.load_state_dict({k: v.flip(0) for k, v in load_file(tmp_path / "e.linear_head.safetensors").items()})
    save_head(head, tmp_path / "flipped.safetensors")
    given = {"device": CPU, "head": tmp_path / "flipped.safetensors"}
    flipped = verify(tmp_path / "e.safetensors", images, LAW, classes=FASHION_CLASSES[::-1], **given)
    assert flipped["results"] == pytest.approx(plain["results"])
    assert verify(tmp_path / "e.safetensors", images, LAW, **given)["results"]["top1"] != plain["results"]["top1"]


def test_images_of_some_of_the_classes_are_enough(tmp_path: Path, encoder: ResNet, images: Images) -> None:
    from dataclasses import replace

    assert images.labels is not None
    some = images.subset(np.flatnonzero(np.isin(images.labels, (2, 7))))
    assert some.labels is not None
    few = replace(some, labels=(some.labels == 7).astype(np.int64), classes=("Pullover", "Sneaker"))
    with pytest.raises(SimclrPlusError, match=r"knows 10 classes, embedded holds 2; with --classes FILE"):
        verify(tmp_path / "e.safetensors", few, LAW, device=CPU)
    result = verify(tmp_path / "e.safetensors", few, LAW, device=CPU, classes=FASHION_CLASSES)
    assert (
        result["results"]["top1"]
        == verify(tmp_path / "e.safetensors", some, LAW, device=CPU, classes=FASHION_CLASSES)["results"]["top1"]
    )
    with pytest.raises(SimclrPlusError, match="does not know: Pullover"):
        verify(tmp_path / "e.safetensors", few, LAW, device=CPU, classes=("Sneaker", *"abcdefghi"))
    with pytest.raises(SimclrPlusError, match="knows 10 classes, but 2 names are given"):
        verify(tmp_path / "e.safetensors", few, LAW, device=CPU, classes=("Pullover", "Sneaker"))


def test_the_authors_figures_are_found_by_architecture() -> None:
    assert stated_top1("v1-linear", Architecture(50, 4)) == 76.6
    assert stated_top1("v2-linear", Architecture(152, 3, selective_kernels=True, flavor="reference")) == 79.8
    assert stated_top1("v2-1pct", Architecture(50, 2)) == 66.3
    assert stated_top1("v2-supervised", Architecture(50)) == 76.6
    for row in V2.values():  # more labels never make it worse, and selective kernels never do
        assert row[0] < row[1] < row[2]
    for (depth, width, selective), row in V2.items():
        if selective and (depth, width, False) in V2:
            assert all(a > b for a, b in zip(row, V2[depth, width, False], strict=True))
    wrong = [
        ("v1-linear", Architecture(101)),
        ("v2-linear", Architecture(50, 4)),
        ("v2-10pct", Architecture(50, stem="cifar")),
    ]
    for name, architecture in [*wrong, ("v3", Architecture(50)), ("v2-linear", Architecture(50, se_ratio=0.25))]:
        with pytest.raises(RecipeError, match=r"the authors state no|no set of published figures"):
            stated_top1(name, architecture)
    assert len(NAMES) == 6


def test_what_is_verified_may_be_a_name_a_folder_or_imagenets_layout(tmp_path: Path, photos: Path) -> None:
    assert len(images_to_verify("embedded")) == 2000 and len(images_to_verify(str(photos))) == 48
    (tmp_path / "train").mkdir()
    (tmp_path / "val").symlink_to(photos)
    assert images_to_verify(str(tmp_path)).name == str(tmp_path / "val")
    with pytest.raises(NotFoundError, match="does not exist"):
        images_to_verify(str(tmp_path / "nowhere"))


# the command line, in this process: a new one would load PyTorch each time


@pytest.fixture
def typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Exit code, stdout and stderr of `simclr-plus ARGUMENTS` in a folder of its own."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["simclr-plus", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_import_and_verify_as_a_user_types_them(typed: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, out, said = typed("import", GOLDEN_FOLDER / "tf1_ckpt" / "model.ckpt-123", "-o", "e.safetensors")
    assert (code, out) == (0, "e.safetensors\n"), said
    assert "ResNet-18 (0.0625x), cifar stem, flavor reference: 32 features" in said
    assert "linear head: e.linear_head.safetensors" in said
    code, out, said = typed("verify", "e.safetensors", "embedded", "--stated", 9.5, "-o", "r.json", "--json")
    assert code == 0, said
    result = json.loads(out)
    assert result == json.loads((tmp_path / "r.json").read_text())
    assert result["views"] == {"size": 32, "central_crop": 0.875, "resize": "bicubic_legacy"}
    assert result["difference"] == pytest.approx(result["results"]["top1"] - 0.095)
    _, table, said = typed("verify", "e.safetensors", "embedded", "--stated", 9.5)
    assert f"{result['results']['top1']:.2%}" in table and "9.50%" in table
    assert result["files"]["encoder"]["sha256"] in said


def test_a_pytorch_file_is_imported_with_its_normalisation(
    typed: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    torch.save({"model": ResNet(18, 1 / 8, stem="cifar").state_dict()}, tmp_path / "x.pth")
    code, _, said = typed("import", "x.pth", "-o", "e.safetensors", "--normalize", "0.5,0.5,0.5,0.25,0.25,0.25")
    assert code == 0 and "subtracts (0.5, 0.5, 0.5) and divides by (0.25, 0.25, 0.25) itself" in said
    assert "note: the 3x3 stem is taken to be padded by 1" in said
    code, out, _ = typed("import", "x.pth", "-o", "e.safetensors", "--normalize", "none", "--json")
    assert code == 0 and json.loads(out)["architecture"]["mean"] == [0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("import", "nowhere", "-o", "e"), 3, "no file nowhere"),
        (("import", ".", "-o", "e"), 3, "holds 0 TensorFlow checkpoints"),
        (("import", "words.pth", "-o", "e"), 1, "words.pth is no PyTorch file of weights"),
        (("import", "words.pth", "-o", "e", "--normalize", "cifar"), 2, "--normalize 'cifar'"),
        (("import", "words.pth", "-o", "e", "--normalize", "0,0,0,1,1,0"), 2, "must be above 0"),
        (("verify", "nothing", "embedded"), 3, "is no file either"),
        (("verify", "words.pth", "embedded", "--stated", "1", "--published", "v1-linear"), 2, "give one of them"),
    ],
)
def test_a_mistake_is_one_plain_message(
    typed: Callable[..., tuple[int, str, str]], tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    (tmp_path / "words.pth").write_text("no weights at all, only words")
    ended, _, said = typed(*arguments)
    assert ended == code and says in said and "Traceback" not in said, said
    assert not (tmp_path / "e").exists()


def test_a_data_set_by_name_is_sought_where_it_is_said_or_where_the_training_had_its_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sought: list[str] = []
    monkeypatch.setattr("simclr_plus.results.verify.open_images", lambda data, _: sought.append(data.root))
    images_to_verify("cifar10", None, "here")
    images_to_verify("cifar10", Data(name="cifar100", root="there"))
    images_to_verify("cifar10", Data(name="folder", root="photos"))
    assert sought == ["here", "there", "data"]
    with pytest.raises(RecipeError, match="--root"):
        images_to_verify(".", None, "here")


def test_a_result_says_whether_classes_were_matched_by_their_names(
    tmp_path: Path, encoder: ResNet, images: Images
) -> None:
    """Ten classes of one set and ten of another are not the same; a head without names cannot tell."""
    nameless = verify(tmp_path / "e.safetensors", images, LAW, device=CPU)
    named = verify(tmp_path / "e.safetensors", images, LAW, device=CPU, classes=FASHION_CLASSES)
    assert (nameless["classes_by_name"], named["classes_by_name"]) == (False, True)
    assert nameless["results"] == named["results"]


def test_a_list_of_classes_may_begin_with_a_byte_order_mark_and_hold_any_name(tmp_path: Path) -> None:
    from simclr_plus.results.verify import classes_in

    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbfcaf\xe9\r\ndog\r\n\r\n")
    assert classes_in(tmp_path / "c.txt") == (b"caf\xe9".decode("utf-8", "surrogateescape"), "dog")
    with pytest.raises(NotFoundError, match=r"none\.txt"):
        classes_in(tmp_path / "none.txt")
