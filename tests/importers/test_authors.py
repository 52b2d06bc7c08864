"""The authors' checkpoints: files that TensorFlow wrote give TensorFlow's features; every name has one of ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from places import GOLDEN_FOLDER
from safetensors.torch import load_file
from torch import Tensor

from simclr_plus.encoders import ResNet
from simclr_plus.encoders.architecture import Architecture
from simclr_plus.errors import CheckpointError
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.importers import import_tensorflow
from simclr_plus.importers.authors import layer_names, our_names, variables_of
from simclr_plus.importers.tensor_bundle import OBJECT_GRAPH, TensorBundle, find_bundle
from simclr_plus.results.published import V2
from simclr_plus.weights.encoder_files import load_encoder
from simclr_plus.weights.head_files import load_head
from simclr_plus.weights.tensor_files import read_header

RESNETS = {**np.load(GOLDEN_FOLDER / "resnet.npz"), **np.load(GOLDEN_FOLDER / "resnet_sk.npz")}
CASES = [key.removesuffix("/meta") for key in RESNETS if key.endswith("/meta") and f"{key[:-5]}/w/0" in RESNETS]


def nchw(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.astype(np.float32).transpose(0, 3, 1, 2)))


@pytest.mark.parametrize(
    ("source", "features", "projection", "logits"),
    [
        ("tf1_ckpt", "final_avg_pool", "proj_head_output", "logits_sup"),
        ("tf2_ckpt", "h", "z", "logits"),
        ("tf2_saved_model", "h", "z", None),
    ],
)
@torch.no_grad()
def test_an_imported_checkpoint_gives_tensorflows_features_projection_and_logits(
    tmp_path: Path, source: str, features: str, projection: str, logits: str | None
) -> None:
    expected = np.load(GOLDEN_FOLDER / f"{source}_io.npz")
    imported = import_tensorflow(GOLDEN_FOLDER / source, tmp_path / "e.safetensors")
    assert imported.left_out == ()
    h = load_encoder(imported.encoder)(nchw(expected["x"]))
    np.testing.assert_allclose(h, expected[features], rtol=0, atol=1e-5)
    z = load_head(imported.heads["projection"], "projection")(h)
    np.testing.assert_allclose(z, expected[projection], rtol=0, atol=1e-5)
    assert ("linear" in imported.heads) == (logits is not None)
    if logits:
        np.testing.assert_allclose(load_head(imported.heads["linear"], "linear")(h), expected[logits], atol=1e-5)
    assert all(np.abs(expected[key]).max() > 0.3 for key in (features, projection))


def test_the_files_say_what_they_are(tmp_path: Path) -> None:
    imported = import_tensorflow(GOLDEN_FOLDER / "tf1_ckpt" / "model.ckpt-123", tmp_path / "e.safetensors")
    header = read_header(imported.encoder)
    assert json.loads(header["architecture"])["flavor"] == "reference"
    assert (header["step"], header["image_size"], header["resize"]) == ("123", "32", "bicubic_legacy")
    assert header["imported_from"] == "TensorFlow checkpoint model.ckpt-123"
    assert {p.name for p in tmp_path.iterdir()} == {
        "e.safetensors",
        "e.projection_head.safetensors",
        "e.linear_head.safetensors",
    }
    assert (
        load_file(imported.encoder).keys() == ResNet(18, 1 / 16, stem="cifar", flavor="reference").state_dict().keys()
    )
    import_tensorflow(GOLDEN_FOLDER / "tf2_ckpt", tmp_path / "two.safetensors")
    assert read_header(tmp_path / "two.safetensors")["resize"] == "bicubic"


# names


def listed(part: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of ResNet-50 1x: TF2's variables (0), places in TF2's tree of objects (1), TF1's names (2)."""
    sections = (GOLDEN_FOLDER / "r50_variable_names.txt").read_text().split("# TF")[1:]
    rows = [line.split("\t")[:2] for line in sections[part].splitlines() if "\t[" in line]
    return {name: tuple(json.loads(shape)) for name, shape in rows}


@pytest.mark.parametrize("part", [0, 1, 2])
def test_the_names_of_resnet_50_map_both_ways_without_one_left_over(part: int) -> None:
    shapes = listed(part)
    names = our_names(shapes)
    assert names.architecture == Architecture(50, flavor="reference") and names.left_out == ()
    with torch.device("meta"):
        encoder, head = ResNet(50, flavor="reference"), SimCLRProjectionHead(num_layers=3)
        ours = {"encoder": encoder, "projection": head, "supervised": torch.nn.Linear(2048, 1000)}
    back: dict[str, str] = {}
    for which, module in ours.items():
        mapped: dict[str, str] = getattr(names, which)
        state = {k: tuple(v.shape) for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
        assert sorted(mapped.values()) == sorted(state)
        for theirs, own in mapped.items():
            axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(shapes[theirs]), (0,))
            assert tuple(shapes[theirs][axis] for axis in axes) == state[own], theirs
        back |= {f"{which}.{own}": theirs for theirs, own in mapped.items()}
    assert sorted(back.values()) == sorted(shapes)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_weights_put_under_our_names_give_the_authors_features(case: str) -> None:
    names = [str(name) for name in RESNETS[f"{case}/names"]]
    weights = {name: RESNETS[f"{case}/w/{i}"].astype(np.float32) for i, name in enumerate(names)}
    found = our_names({name: values.shape for name, values in weights.items()})
    meta = json.loads(str(RESNETS[f"{case}/meta"]))
    stem = "cifar" if meta["cifar"] else "imagenet"
    assert found.architecture == Architecture(
        meta["depth"], meta["width"], stem, "reference", meta["sk"] > 0, meta["se"]
    )
    encoder = ResNet(**found.architecture.as_dict()).eval()
    state = encoder.state_dict()
    for theirs, ours in found.encoder.items():
        values = weights[theirs]
        state[ours].copy_(torch.from_numpy(values.transpose(3, 2, 0, 1) if values.ndim == 4 else values))
    expected = RESNETS[f"{case}/eval_out"]
    features = encoder(nchw(RESNETS[f"{case}/x"])).numpy()
    assert np.abs(features - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152, 200])
@pytest.mark.parametrize("extras", [{}, {"selective_kernels": True}, {"se_ratio": 0.25}])
def test_each_convolution_has_a_name_of_the_network(depth: int, extras: dict[str, object]) -> None:
    architecture = Architecture(depth, flavor="reference", **extras)
    with torch.device("meta"):
        state = ResNet(**architecture.as_dict()).state_dict()
    layers = list(layer_names(architecture))
    for convolution, (name, norm) in zip(architecture.convolutions(224), layers, strict=True):
        assert state[f"{name}.weight"].shape[:2] == (convolution.width_out, convolution.width_in)
        assert (norm is not None) == convolution.norm and (f"{name}.bias" in state) == convolution.bias
        assert norm is None or len(state[f"{norm}.running_var"]) == convolution.width_out
    assert len({name for pair in layers for name in pair if name}) == len({k.rpartition(".")[0] for k in state})


def test_names_count_not_positions_nor_absolute_numbers() -> None:
    """Listed in any order, and made after another network in the same process, a network is the same."""
    shapes = listed(0)
    later = {name.replace("resnet/", "resnet_1/"): shape for name, shape in reversed(shapes.items())}
    moved = {shifted(name, 60): shape for name, shape in later.items()}
    assert moved.keys() != shapes.keys()
    assert sorted(our_names(moved).encoder.values()) == sorted(our_names(shapes).encoder.values())
    back = {ours: theirs for theirs, ours in our_names(moved).encoder.items()}
    assert back["layer1.0.conv1.weight"].endswith("conv2d_62/kernel:0")


def shifted(name: str, by: int) -> str:
    *scopes, layer, variable = name.split("/")
    stem, _, number = layer.rpartition("_")
    if not number.isdigit():
        stem, number = layer, "0"
    return "/".join([*scopes, f"{stem}_{int(number) + by}", variable])


def test_without_names_in_the_object_graph_the_tree_of_objects_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = TensorBundle(find_bundle(GOLDEN_FOLDER / "tf2_ckpt"))
    by_name = variables_of(bundle)
    from simclr_plus.importers import authors
    from simclr_plus.importers.tensor_bundle import Variable, object_graph

    nameless = [Variable("", variable.key) for variable in object_graph(bundle)]
    monkeypatch.setattr(authors, "object_graph", lambda _bundle: nameless)
    by_place = variables_of(bundle)
    assert any(name.startswith("resnet/") for name in by_name) and not any(n.startswith("resnet/") for n in by_place)
    keys = []
    for found in (by_name, by_place):
        names = our_names({name: bundle.entries[key].shape for name, key in found.items()})
        keys.append({ours: found[theirs] for theirs, ours in names.encoder.items()})
    assert keys[0] == keys[1] and OBJECT_GRAPH in bundle.entries


@pytest.mark.parametrize(("depth", "width", "selective"), [*V2, (50, 4, False), (18, 1, False), (200, 2, True)])
@pytest.mark.parametrize("norm", ["batch_normalization", "sync_batch_normalization"])
def test_every_published_network_is_known_by_its_kernels(depth: int, width: int, selective: bool, norm: str) -> None:
    architecture = Architecture(depth, width, flavor="reference", selective_kernels=selective)
    shapes: dict[str, tuple[int, ...]] = {}
    norms = 0
    for i, c in enumerate(architecture.convolutions(224)):
        shapes[numbered("base_model/conv2d", i) + "/kernel"] = (c.kernel, c.kernel, c.width_in, c.width_out)
        if c.norm:
            for part in ("gamma", "beta", "moving_mean", "moving_variance"):
                shapes[numbered(f"base_model/{norm}", norms) + f"/{part}"] = (c.width_out,)
            norms += 1
    names = our_names(dict(sorted(shapes.items())))
    assert names.architecture == architecture
    with torch.device("meta"):
        state = ResNet(**architecture.as_dict()).state_dict()
    assert {*names.encoder.values()} == {key for key in state if not key.endswith("num_batches_tracked")}


def numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


def test_what_an_optimizer_keeps_is_not_taken_for_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from simclr_plus.importers import authors
    from simclr_plus.importers.tensor_bundle import Variable, object_graph

    bundle = TensorBundle(find_bundle(GOLDEN_FOLDER / "tf2_ckpt"))
    kept = variables_of(bundle)
    assert not any("SLOT" in key or key.startswith("optimizer") for key in kept.values())
    assert (
        sum(".OPTIMIZER_SLOT" in key for key in bundle.entries) == 73
    )  # 21 kernels, 42 of norms, 8 and 2 of the heads
    newer = Variable("SGD/m/resnet/conv2d/kernel", "opt/_variables/3/.ATTRIBUTES/VARIABLE_VALUE")
    bundle.entries[newer.key] = bundle.entries["global_step/.ATTRIBUTES/VARIABLE_VALUE"]
    with_newer = [*object_graph(bundle), newer]
    monkeypatch.setattr(authors, "object_graph", lambda _bundle: with_newer)
    assert variables_of(bundle) == kept


# what is no checkpoint of the authors


def without(shapes: dict[str, tuple[int, ...]], *parts: str) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if not any(part in name for part in parts)}


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"generator/dense/kernel": (3, 4)}, "no variable of its ResNet"),
        (without(listed(2), "conv2d_17/"), "52 convolutions .* make up no ResNet of SimCLR"),
        (without(listed(2), "batch_normalization_9/"), "has 52 batch norms; .* has 53"),
        (listed(2) | {"head_contrastive/l_0/dense/kernel": (2048, 128)}, "two variables .* more than one network"),
        (listed(2) | {"tower/base_model/conv2d_3/kernel": (1, 1, 64, 64)}, "more than one network"),
        (listed(2) | {"base_model/conv2d_3/kernel": (64, 64)}, "a kernel has four sides"),
        (without(listed(2), "conv2d_3/") | {"base_model/conv2d_3/bias": (64,)}, "an offset but no kernel"),
    ],
)
def test_another_or_an_incomplete_network_is_refused(shapes: dict[str, tuple[int, ...]], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        our_names(shapes)


def test_a_refusal_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simclr_plus.importers import authors

    monkeypatch.setattr(authors, "variables_of", lambda _bundle: {"global_step": "global_step"})
    with pytest.raises(
        CheckpointError, match=r"tf1_ckpt/model\.ckpt-123: this checkpoint is not of the authors' SimCLR"
    ):
        import_tensorflow(GOLDEN_FOLDER / "tf1_ckpt", tmp_path / "e.safetensors")


def test_unknown_variables_are_listed_and_slots_and_counters_are_not() -> None:
    more = {"ema/decay_table": (7,), "global_step": (), "base_model/conv2d/kernel/Momentum": (7, 7, 3, 64)}
    assert our_names(listed(2) | more).left_out == ("ema/decay_table",)


def test_a_missing_variable_of_a_batch_norm_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simclr_plus.importers import authors

    def incomplete(bundle: TensorBundle) -> dict[str, str]:
        return {k: v for k, v in variables_of(bundle).items() if k != "base_model/batch_normalization_4/gamma"}

    monkeypatch.setattr(authors, "variables_of", incomplete)
    with pytest.raises(CheckpointError, match=r"1 tensors missing.*missing layer1\.1\.bn1\.weight"):
        import_tensorflow(GOLDEN_FOLDER / "tf1_ckpt", tmp_path / "e.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_head_of_an_earlier_import_is_not_left_beside_another_encoder(tmp_path: Path) -> None:
    import_tensorflow(GOLDEN_FOLDER / "tf1_ckpt", tmp_path / "e.safetensors")
    assert (tmp_path / "e.linear_head.safetensors").exists()
    import_tensorflow(GOLDEN_FOLDER / "tf2_saved_model", tmp_path / "e.safetensors")  # has no supervised head
    assert {p.name for p in tmp_path.iterdir()} == {"e.safetensors", "e.projection_head.safetensors"}


def test_damage_leaves_no_file_behind(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN_FOLDER / "tf2_ckpt", tmp_path / "copy", copy_function=shutil.copyfile)
    shard = tmp_path / "copy" / "ckpt-7.data-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-4096])
    with pytest.raises(CheckpointError, match=r"cut off|damaged"):
        import_tensorflow(tmp_path / "copy", tmp_path / "out" / "e.safetensors")
    assert not (tmp_path / "out").exists()
