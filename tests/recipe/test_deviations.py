"""The table of choices: presets agree with what they name, each key moves its line, Lightly's column is Lightly's."""

from __future__ import annotations

import inspect
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from lightly.utils.lars import LARS
from lightly.utils.scheduler import CosineWarmupScheduler

from simclr_plus.recipe import load_recipe, parse_recipe, shipped_recipes
from simclr_plus.recipe.deviations import Choice, choices

Command = Callable[..., subprocess.CompletedProcess[str]]
BATCH = ["training.batch_size=4096"]


def found(*overrides: str, text: str = "") -> dict[str, Choice]:
    return {choice.name: choice for choice in choices(parse_recipe(text, overrides))}


def differing(source: str, *overrides: str) -> set[str]:
    return {name for name, choice in found(*overrides).items() if choice.differs_from(source)}


def test_the_paper_variant_differs_from_the_paper_where_its_code_differs_from_its_text() -> None:
    reference = ["variant=paper", "encoder.flavor=reference", "training.epochs=1000", *BATCH]
    assert differing("paper", *reference) == {"size of a crop", "reduction", "order of images"}
    assert differing("paper", *reference, "loss.reduction=paper") == {"size of a crop", "order of images"}


def test_the_tf2_variant_differs_from_the_authors_in_the_order_of_images_alone() -> None:
    shared = ["variant=tf2", "encoder.flavor=reference", "augmentation.blur_sigma_group=32", *BATCH]
    assert differing("authors", *shared) == {"order of images"}


def test_the_tf1_variant_differs_from_tf2_where_the_table_says_so() -> None:
    shared = ["variant=tf1", "encoder.flavor=reference", "augmentation.blur_sigma_group=32", *BATCH]
    assert differing("authors", *shared) == {"order of images", "resize", "steps", "probe beside f"}


@pytest.mark.parametrize(
    ("override", "name", "ours"),
    [
        ("augmentation.resize=bicubic_legacy", "resize", "legacy bicubic"),
        ("augmentation.min_scale=0.3", "size of a crop", "height uniform, area 0.3 to 1"),
        ("augmentation.flip_prob=0.25", "flip", "0.25"),
        ("augmentation.strength=0.75", "colour strength", "0.75"),
        ("augmentation.jitter_prob=0.3", "colour jitter", "0.3"),
        ("augmentation.brightness_law=additive", "brightness", "x + d"),
        ("augmentation.random_order=false", "order of the four", "fixed"),
        ("encoder.mean=[0.5,0.25,0.125]", "pixels go in as", "standardised by 0.5, 0.25, 0.125"),
        ("augmentation.device_crops=uint8", "colour arithmetic", "uint8 crops, then float32"),
        ("augmentation.gray_prob=0.3", "gray", "0.3"),
        ("augmentation.blur_prob=0.3", "blur", "0.3"),
        ("augmentation.blur_sigma_group=8", "blur's sigma", "one a device's batch"),
        ('augmentation.operations=["crop","sobel"]', "further operations", "crop, sobel"),
        ("augmentation.same_crop=true", "crops of a pair", "one"),
        ("augmentation.evaluation_crop=1", "evaluation shows", "the middle 1"),
        ("encoder.stem=cifar", "stem", "3x3"),
        ("encoder.flavor=reference", "max-pool is padded", "behind"),
        ("training.global_batch_norm=false", "batch norm sees", "its process"),
        ("head.num_layers=3", "layers of g", "3"),
        ("head.output_dim=64", "dimensions of z", "64"),
        ("loss.name=nt_logistic", "loss", "NT-Logistic"),
        ("loss.name=nt_logistic", "reduction", "mean over 2N rows"),
        ("loss.negatives=other_view", "negatives are", "the other view"),
        ("loss.temperature=0.2", "temperature", "0.2"),
        ("loss.normalize=false", "z is normalised", "no"),
        ("loss.reduction=paper", "reduction", "mean over 2N rows"),
        ("training.precision=float64", "logits are", "float64"),
        ("optimizer.name=sgd", "optimizer", "SGD"),
        ("optimizer.learning_rate_scaling=sqrt", "peak learning rate", "0.3 sqrt(B)"),
        ("optimizer.weight_decay=0.5", "weight decay", "0.5"),
        ("optimizer.momentum=0.8", "momentum", "0.8"),
        ("optimizer.adapt_probe=true", "LARS: adapts the probe", "yes"),
        ("optimizer.gradient_clip=2", "gradient clipping", "to 2"),
        ("training.batch_size=64", "batch size", "64"),
        ("training.epochs=30", "epochs", "30"),
        ("training.warmup_epochs=0", "first update's rate", "the peak"),
        ("training.round_up_to_checkpoint=true", "steps", "whole checkpoint intervals"),
        ("training.probe=false", "probe beside f", "no"),
    ],
)
def test_a_key_moves_its_line(override: str, name: str, ours: str) -> None:
    before, after = found(), found(override)
    assert after[name].ours == ours != before[name].ours
    others = ("training.warmup_epochs", "optimizer.learning_rate", "loss.reduction", "")
    assert after[name].key in (override.partition("=")[0], *others)


def test_choices_that_mean_nothing_to_a_loss_are_left_out() -> None:
    all_of, margin, supervised = found(), found("loss.name=margin"), found("loss.name=cross_entropy")
    assert all_of.keys() - margin.keys() == {"temperature"}
    assert margin["negatives are"].ours == "both views"
    semi_hard = ["loss.name=margin", "loss.negatives=other_view", "loss.semi_hard=true"]
    assert found(*semi_hard)["negatives are"].ours == "one of the other view, semi-hard"
    assert supervised["loss"].ours == "cross entropy" and supervised["loss"].differs_from("paper")
    assert not supervised.keys() & {"temperature", "negatives from", "layers of g", "probe beside f"}
    assert "LARS: adapts the probe" in found("loss.name=cross_entropy", "training.probe=false")


def test_operations_say_on_which_views_and_how_often_they_are_done() -> None:
    study = ['augmentation.operations=["cutout"]', "augmentation.operations_on=first"]
    assert found(*study)["further operations"].ours == "cutout, first view"
    assert found(*study, "augmentation.operation_prob=0.5")["further operations"].ours == (
        "cutout, each with 0.5, first view"
    )


def test_other_methods_views_and_norms_are_told_as_they_are() -> None:
    def shown(recipe: str) -> dict[str, str]:
        return {choice.name: choice.ours for choice in choices(load_recipe(recipe))}

    amdim, moco, cpc, pirl = (shown(f"{name}_r50") for name in ("amdim", "moco_v1", "cpc", "pirl"))
    assert amdim["aspect of a crop"] == "uniform, 0.7 to 1.4" and amdim["flip"] == "0.5, one draw an image"
    assert moco["colour strength"] == "0.4, 0.4, 0.4, 0.4" and pirl["colour strength"] == "0.4, 0.4, 0.4, 0.2"
    assert moco["gray"].endswith(", before the jitter")
    assert moco["batch norm sees"] == "groups of 32" and amdim["batch norm sees"] == "all processes"
    assert not cpc.keys() & {"batch norm sees", "running variance", "crops of a pair"}
    assert shown("exemplar_r50")["gray"] == "0.66, the mean of R, G, B, before the jitter, one draw an image"


def test_of_a_network_by_name_nothing_of_a_resnet_is_told() -> None:
    resnet, vit = found(), found("encoder.name=timm:vit_small_patch16_224", "encoder.depth=18")
    of_resnets = {
        *("stem", "kernels start with variance", "a block's last norm starts at", "max-pool is padded"),
        "group 1's shortcut",
    }
    assert resnet.keys() - vit.keys() == of_resnets & resnet.keys() and not vit.keys() & of_resnets
    assert vit["f is"].ours == "timm:vit_small_patch16_224" and vit["f is"].differs_from("paper")
    given = found("encoder.name=timm:vit_small_patch16_224", "encoder.pretrained=true")
    assert given.keys() - vit.keys() == {"f starts from"}
    assert given["pixels go in as"].ours != vit["pixels go in as"].ours == "[0, 1]"
    known = ["encoder.mean=[0.5,0.5,0.5]", "encoder.std=[0.5,0.5,0.5]"]
    given = found("encoder.name=timm:vit_small_patch16_224", "encoder.pretrained=true", *known)
    assert given["pixels go in as"].ours == "standardised by 0.5, 0.5, 0.5"


def test_small_images_are_compared_with_the_authors_cifar_values() -> None:
    small = [
        "augmentation.image_size=32",
        "augmentation.strength=0.5",
        "augmentation.blur_prob=0",
        "encoder.stem=cifar",
    ]
    assert not differing("authors", *small) & {"colour strength", "blur", "stem"}
    assert differing("authors", *small[1:], "augmentation.image_size=224") >= {"colour strength", "blur", "stem"}
    assert "blur kernel" not in found(*small) and "evaluation shows" not in found(*small)


def test_the_column_of_lightly_is_what_the_installed_lightly_does() -> None:
    said = {name: choice.lightly.partition(" (")[0] for name, choice in found().items()}
    transform = inspect.signature(SimCLRTransform).parameters
    assert said["flip"] == f"{transform['hf_prob'].default:g}"
    assert said["colour jitter"] == f"{transform['cj_prob'].default:g}"
    assert said["colour strength"] == f"{transform['cj_strength'].default:g}"
    assert said["gray"] == f"{transform['random_gray_scale'].default:g}"
    assert said["blur"] == f"{transform['gaussian_blur'].default:g}"
    assert "0.08" in said["size of a crop"] and transform["min_scale"].default == 0.08
    mean = ", ".join(f"{x:g}" for x in transform["normalize"].default["mean"])
    assert said["pixels go in as"] == f"standardised by {mean}"

    loss = inspect.signature(NTXentLoss).parameters
    assert said["temperature"] == f"{loss['temperature'].default:g}"
    assert said["negatives from"] == "its process" and loss["gather_distributed"].default is False
    z = torch.randn(2, 4, 8)
    assert said["reduction"] == "mean over 2N rows"
    assert NTXentLoss(1.0)(torch.ones(4, 8), torch.ones(4, 8)) == pytest.approx(float(torch.tensor(7.0).log()))
    with torch.autocast("cpu", torch.bfloat16):
        half = NTXentLoss(0.1)(z[0], z[1])
    assert said["logits are"] == "half under autocast" and half != NTXentLoss(0.1)(z[0], z[1])

    layers = SimCLRProjectionHead(8, 8, 4).layers
    assert said["layers of g"] == str(sum(isinstance(layer, torch.nn.Linear) for layer in layers))
    assert said["g's last norm has an offset"] == "yes" and layers[-1].bias is not None
    limit = 8**-0.5
    assert said["g's matrices start as"] == "PyTorch's uniform" and 0.01 * 4 < layers[0].weight.abs().max() <= limit

    assert found()["momentum"].lightly.endswith(f"{inspect.signature(LARS).parameters['momentum'].default})")
    weight = torch.nn.Parameter(torch.ones(4))
    weight.grad = torch.full((4,), 0.5)
    LARS([weight], lr=1.0, momentum=0.9, weight_decay=0).step()
    assert said["LARS: weight decay 0"] == "switches the adaptation off" and weight[0] == 0.5

    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = CosineWarmupScheduler(optimizer, warmup_epochs=10, max_epochs=100)
    assert said["first update's rate"] == "peak / warm-up steps" and optimizer.param_groups[0]["lr"] == 1 / 10
    for _ in range(99):
        optimizer.step()
        scheduler.step()
    assert said["the rate ends at"] == "0.001 of the peak"
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


@pytest.mark.parametrize("name", [path.stem for path in shipped_recipes()])
def test_every_shipped_recipe_has_its_table(name: str) -> None:
    recipe = load_recipe(name)
    rows = choices(recipe)
    assert len(rows) > (40 if recipe.method.name == "simclr" else 25) and len({row.name for row in rows}) == len(rows)
    assert all(row.ours and row.paper and row.authors and row.lightly for row in rows)


def test_the_command_marks_what_differs_and_counts_it(simclr_plus: Command, tmp_path: Path) -> None:
    shown = simclr_plus("recipes", "show", "r50_1x", "--against", "authors", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    marked = {line.split("│")[1].strip() for line in shown.stdout.splitlines() if "≠" in line}
    answer = simclr_plus("recipes", "show", "r50_1x", "--against", "authors", "--json", cwd=tmp_path)
    rows = json.loads(answer.stdout)
    differ = {row["name"] for row in rows["choices"] if row["differs"]["authors"]}
    assert marked == differ and len(differ) == rows["differ"] and {"resize", "brightness", "layers of g"} <= differ
    assert f"{len(differ)} of {len(rows['choices'])} choices differ from the authors' code" in shown.stderr


def test_an_unknown_source_is_refused_by_name(simclr_plus: Command, tmp_path: Path) -> None:
    done = simclr_plus("recipes", "show", "r50_1x", "--against", "moco", cwd=tmp_path)
    assert done.returncode == 2 and "--against 'moco'" in done.stderr and "paper, authors, lightly" in done.stderr
