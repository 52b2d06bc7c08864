from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from simclr_plus.architecture import Architecture
from simclr_plus.augmentations.law import OPERATIONS
from simclr_plus.errors import NotFoundError, RecipeError
from simclr_plus.plan import make_plan
from simclr_plus.published import stated_top1
from simclr_plus.recipe import (
    documented_keys,
    find_recipe,
    load_recipe,
    parse_recipe,
    shipped_recipes,
)
from simclr_plus.recipe_keys import StudyOperation

ASKED_FOR = {
    "demo",
    "mnist",
    "fashion_mnist",
    "cifar10_r18",
    "cifar10_r50",
    "r50_1x",
    "r50_2x",
    "r50_4x",
    "stl10",
    "folder",
    "v2_r50_1x",
    "v2_r50_1x_sk",
    "v2_r152_3x_sk",
    "study",
}


def test_the_shipped_recipes_are_these() -> None:
    assert {path.stem for path in shipped_recipes()} == ASKED_FOR


@pytest.mark.parametrize("name", sorted(ASKED_FOR))
def test_a_shipped_recipe_opens_with_source_command_hardware_and_score(name: str) -> None:
    about = load_recipe(name).about
    assert all((about.summary, about.source, about.hardware, about.expected))
    assert about.command.startswith(f"simclr-plus run {name}") or name == "demo"
    assert any(word in about.expected for word in ("paper", "authors", "measured", "not run", "depends"))


@pytest.mark.parametrize("name", sorted(ASKED_FOR))
def test_a_resolved_recipe_reads_back_as_the_same_recipe(name: str) -> None:
    recipe = load_recipe(name, ["training.seed=7"])
    assert parse_recipe(recipe.to_toml()) == recipe
    assert recipe.training.seed == 7


def test_every_key_is_documented() -> None:
    assert [key for key, _, _, text in documented_keys() if not text] == []


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("training.epoch=3", "did you mean training.epochs?"),
        ("epochs=3", "did you mean training.epochs?"),
        ("optimizer.lr=3", "did you mean optimizer.learning_rate?"),
        ("loss.tau=0.1", "did you mean loss.temperature?"),
        ("training.epochs", "write it as key.path=value"),
        ("training.batch_size=1", "training.batch_size = 1: input should be greater than or equal to 2"),
        ("training.batch_size=many", "training.batch_size = 'many': input should be a valid integer"),
        ("training.batch_size=2.5", "training.batch_size = 2.5"),
        ("training.compile=1", "training.compile = 1: input should be a valid boolean"),
        ('augmentation.operations=["crop","cutuot"]', "augmentation.operations.1 = 'cutuot': input should be 'crop', "),
        ("augmentation.operations=crop", "augmentation.operations = 'crop': input should be a valid tuple"),
        (
            "augmentation.operations_on=second",
            "augmentation.operations_on = 'second': input should be 'both' or 'first'",
        ),
        ("augmentation.operation_prob=1.5", "augmentation.operation_prob = 1.5"),
        ("loss.temperature=0", "loss.temperature = 0: input should be greater than 0"),
        ("loss.name=triplet", "input should be 'nt_xent', 'nt_logistic', 'margin' or 'cross_entropy'"),
        ("loss.margin=-1", "loss.margin = -1: input should be greater than or equal to 0"),
        ("loss.semi_hard=true", 'loss.semi_hard = true means nothing to loss.name = "nt_xent"'),
        ("loss.temperature=nan", "loss.temperature = nan"),
        ("augmentation.strength=1.3", "augmentation.strength = 1.3: input should be less than or equal to 1.25"),
        ("augmentation.image_size=7", "augmentation.image_size = 7: input should be greater than or equal to 8"),
        ("training.warmup_epochs=101", "training.warmup_epochs = 101 is longer than training.epochs = 100"),
        ("encoder.depth=20", "input should be 18, 34, 50, 101, 152 or 200"),
        ("encoder.width=0.3", "use a multiple of 1/64"),
        ("encoder.se_ratio=2", "encoder.se_ratio = 2"),
        ("data.name=cifar", "input should be 'embedded'"),
        ("training=3", "unknown key 'training'"),
    ],
)
def test_a_wrong_override_names_key_value_and_remedy(override: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe("", [override])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[trainin]\nepochs = 3", "did you mean [training]?"),
        ("[training]\nepochz = 3", "unknown key 'training.epochz'; did you mean training.epochs?"),
        ("training = 3", "training = 3"),
        ("[training", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_explained(text: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, origin="mine.toml")
    assert says in str(caught.value) and "mine.toml" in str(caught.value)


def test_two_mistakes_are_both_told() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe("[training]\nbatch_size = 1\nseed = -1")
    assert "training.batch_size = 1" in str(caught.value) and "training.seed = -1" in str(caught.value)


def test_a_loss_without_negatives_refuses_a_choice_of_them() -> None:
    for key, remedy in (("semi_hard=true", "set it to false"), ("negatives=other_view", "leave it out")):
        with pytest.raises(
            RecipeError, match=rf"loss.{key.split('=')[0]} = .* means nothing .*cross_entropy.*{remedy}"
        ):
            parse_recipe("", ["loss.name=cross_entropy", f"loss.{key}"])
    for name in ("nt_logistic", "margin"):
        assert parse_recipe("", [f"loss.name={name}", "loss.semi_hard=true"]).loss.semi_hard


def test_the_loss_of_features_that_tell_nothing_is_known_for_nt_xent() -> None:
    chance = {
        key: parse_recipe("", ["training.batch_size=8", key]).chance_loss
        for key in ("loss.name=nt_xent", "loss.negatives=other_view", "loss.name=margin", "loss.name=cross_entropy")
    }
    assert list(chance.values()) == [pytest.approx(math.log(15)), pytest.approx(math.log(8)), None, None]


def test_override_values_are_toml_or_bare_strings() -> None:
    recipe = parse_recipe("", ["data.root=/a folder/with=sign", "training.compile=true", 'data.name="cifar10"'])
    assert (recipe.data.root, recipe.training.compile, recipe.data.name) == ("/a folder/with=sign", True, "cifar10")


def test_a_recipe_is_found_by_path_name_and_unique_prefix(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("")
    assert find_recipe(mine) == mine
    assert find_recipe("cifar10_r18").stem == "cifar10_r18"
    assert find_recipe("stl").stem == "stl10"
    with pytest.raises(NotFoundError, match=r"did you mean .*r50_1x"):
        find_recipe("r50")
    with pytest.raises(NotFoundError, match="recipes ls"):
        find_recipe("zzzz")


def test_the_paper_recipe_holds_the_papers_numbers() -> None:
    recipe = load_recipe("r50_1x")
    assert (recipe.training.batch_size, recipe.training.warmup_epochs) == (4096, 10)
    assert (recipe.optimizer.name, recipe.optimizer.learning_rate, recipe.optimizer.weight_decay) == ("lars", 0.3, 1e-6)
    assert (recipe.loss.temperature, recipe.head.num_layers, recipe.head.output_dim) == (0.1, 2, 128)
    law = recipe.law
    assert (law.brightness, law.contrast, law.saturation, law.hue) == (0.8, 0.8, 0.8, 0.2)
    assert (law.jitter_prob, law.gray_prob, law.blur_prob, law.sigmas) == (0.8, 0.2, 0.5, (0.1, 2.0))
    assert (law.brightness_law, law.resize) == ("additive", "bicubic_legacy")


def test_a_recipe_builds_the_network_it_names() -> None:
    recipe = parse_recipe("", ["encoder.depth=101", "encoder.selective_kernels=true", "encoder.se_ratio=0.25"])
    assert recipe.architecture == Architecture(101, selective_kernels=True, se_ratio=0.25)


def test_the_recipes_of_v2_hold_its_numbers() -> None:
    """SimCLR v2: 0.1 sqrt(4096) = 6.4, 5 % of 800 epochs warm-up, decay 1e-4, a head of three layers."""
    for name, architecture in {
        "v2_r50_1x": Architecture(50),
        "v2_r50_1x_sk": Architecture(50, selective_kernels=True),
        "v2_r152_3x_sk": Architecture(152, 3, selective_kernels=True),
    }.items():
        recipe = load_recipe(name)
        assert recipe.architecture == architecture
        assert (recipe.head.num_layers, recipe.head.output_dim, recipe.loss.temperature) == (3, 128, 0.1)
        plan = make_plan(recipe, 1_281_167, 64)
        assert (plan.peak_learning_rate, plan.warmup_steps, plan.total_steps) == (6.4, 12511, 250_228)
        assert (recipe.optimizer.weight_decay, recipe.augmentation.brightness_law) == (1e-4, "multiplicative")
        stated = str(stated_top1("v2-linear", recipe.architecture))
        assert f"linear top-1 {stated} %" in recipe.about.expected


def test_a_recipe_is_immutable() -> None:
    recipe = load_recipe("demo")
    with pytest.raises(ValueError, match="frozen"):
        recipe.training.epochs = 1  # type: ignore[misc]


def test_known_mistakes_are_pointed_out() -> None:
    doubts = parse_recipe("", ["augmentation.image_size=32", "training.batch_size=64"]).doubts()
    assert len(doubts) == 3
    assert any("encoder.stem" in d for d in doubts) and any("blur_prob" in d for d in doubts)
    unread = ["augmentation.device_crops=uint8", "augmentation.augment_on=cpu"]
    assert ["device_crops" in d for d in parse_recipe("", unread).doubts()] == [True]
    assert parse_recipe("", unread[:1]).doubts() == []
    assert ["loss.margin = 0.4" in d for d in parse_recipe("", ["loss.margin=0.4"]).doubts()] == [True]
    assert parse_recipe("", ["loss.margin=0.4", "loss.name=margin"]).doubts() == []


def test_a_strided_convolution_of_4_channels_is_doubted_where_it_may_run_on_a_cpu() -> None:
    def doubted(*overrides: str) -> bool:
        text = " ".join(parse_recipe("", ["augmentation.image_size=96", *overrides]).doubts())
        return "channels_last" in text

    basic = ["encoder.depth=18"]
    assert doubted(*basic, "encoder.width=0.0625") and doubted(*basic, "encoder.width=0.03125")
    assert not doubted(*basic, "encoder.width=0.125")
    assert doubted("encoder.width=0.015625") and not doubted(
        "encoder.width=0.0625"
    )  # a bottleneck gives four times that
    assert not doubted(*basic, "encoder.width=0.0625", "training.channels_last=false")
    assert not doubted(*basic, "encoder.width=0.0625", "training.device=cuda")
    assert not doubted(*basic, "encoder.width=0.0625", "encoder.selective_kernels=true")


def test_operations_reach_the_law_in_their_order_and_repeated() -> None:
    text = '[augmentation]\noperations = ["crop", "sobel", "crop"]\noperations_on = "first"\nsame_crop = true'
    recipe = parse_recipe(text, ["augmentation.operation_prob=0.5"])
    law = recipe.law
    assert (law.operations, law.operations_on, law.operation_prob, law.same_crop) == (
        ("crop", "sobel", "crop"),
        "first",
        0.5,
        True,
    )
    assert parse_recipe(recipe.to_toml()) == recipe
    assert get_args(StudyOperation) == OPERATIONS
    kinds = {key: kind for key, kind, _, _ in documented_keys()}
    assert kinds["augmentation.operations"] == f"list of {', '.join(OPERATIONS)}"
    assert kinds["encoder.mean"] == "three numbers"


def test_keys_of_operations_without_operations_are_pointed_out() -> None:
    plain = parse_recipe("").doubts()
    for override in ("same_crop=true", "operations_on=first", "operation_prob=0.5"):
        (doubt,) = set(parse_recipe("", [f"augmentation.{override}"]).doubts()) - set(plain)
        assert override.partition("=")[0] in doubt and "augmentation.operations" in doubt
        study = ['augmentation.operations=["crop"]', f"augmentation.{override}"]
        assert parse_recipe("", study).doubts() == plain


def test_recipes_are_toml_that_any_reader_takes() -> None:
    for path in shipped_recipes():
        assert "about" in tomllib.loads(path.read_text())
