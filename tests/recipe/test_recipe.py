from __future__ import annotations

import codecs
import math
import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from simclr_plus.augmentations.law import OPERATIONS
from simclr_plus.encoders.architecture import Architecture
from simclr_plus.errors import NotFoundError, RecipeError
from simclr_plus.recipe.keys import StudyOperation
from simclr_plus.recipe.plan import make_plan
from simclr_plus.recipe.reading import find_recipe, load_recipe, parse_recipe, recipe_text, shipped_recipes, typed_value
from simclr_plus.recipe.recipe import Recipe, documented_keys
from simclr_plus.results.published import stated_top1

ASKED_FOR = {
    "vit_s16",
    "convnext_t",
    "folder_continue",
    "amdim_r50",
    "cmc_r50",
    "colorization_r50",
    "places",
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
    "rotation_demo",
    "rotation_r50",
    "exemplar_r50",
    "moco_v1_r50",
    "moco_v2_r50",
    "autoencoder_r50",
    "bigan_r50",
    "cpc_r50",
    "dim_r50",
    "relative_patch_r50",
    "jigsaw_r50",
    "instdist_r50",
    "pirl_r50",
}


def test_the_shipped_recipes_are_these() -> None:
    assert {path.stem for path in shipped_recipes()} == ASKED_FOR


@pytest.mark.parametrize("name", sorted(ASKED_FOR))
def test_a_shipped_recipe_opens_with_source_command_hardware_and_score(name: str) -> None:
    about = load_recipe(name).about
    assert all((about.summary, about.source, about.hardware, about.expected))
    assert about.command.startswith(f"simclr-plus run {name}") or name == "places"
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
        ("loss.name=triplet", "input should be 'nt_xent', 'nt_logistic' or 'margin'"),
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
    for key in ("semi_hard=true", "negatives=other_view"):
        for chosen in ("loss.name=cross_entropy", "method.name=supervised"):
            with pytest.raises(
                RecipeError, match=rf"loss.{key.split('=')[0]} = .* means nothing .*supervised.*leave it"
            ):
                parse_recipe("", [chosen, f"loss.{key}"])
    for name in ("nt_logistic", "margin"):
        assert parse_recipe("", [f"loss.name={name}", "loss.semi_hard=true"]).loss.semi_hard


def test_the_loss_of_features_that_tell_nothing_is_known_for_nt_xent() -> None:
    keys = ("loss.name=nt_xent", "loss.negatives=other_view", "loss.name=margin", "loss.name=cross_entropy")
    recipes = [parse_recipe("", ["training.batch_size=8", key]) for key in keys]
    chance = [recipe.method.chance_loss(recipe) for recipe in recipes]
    assert chance == [pytest.approx(math.log(15)), pytest.approx(math.log(8)), None, None]


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
    pair = [*basic, "method.name=cmc", "data.name=places"]  # of networks of half the width
    assert doubted(*pair, "encoder.width=0.125") and not doubted(*pair, "encoder.width=0.25")


def test_keys_of_another_network_are_doubted_where_they_are_the_users_mistake() -> None:
    def doubted(recipe: Recipe, *typed: str) -> set[str]:
        return set(re.findall(r"encoder\.\w+(?=,| do)", " ".join(set(recipe.doubts(typed)) - set(recipe.doubts()))))

    by_name = load_recipe("places", ["encoder.name=timm:test_vit", "encoder.width=0.5"])
    assert not any("nothing with encoder.name" in doubt for doubt in by_name.doubts())  # places is of a ResNet
    assert doubted(by_name, "encoder.name", "encoder.width", "encoder.depth") == {"encoder.width", "encoder.depth"}
    assert doubted(by_name, "encoder.name", "encoder.mean", "encoder.pretrained") == set()
    options = parse_recipe("[encoder]\noptions = { drop_rate = 0.1 }")  # whoever wrote this forgot the name
    assert any("encoder.options does nothing" in doubt for doubt in options.doubts())
    changed = parse_recipe('[encoder]\nname = "timm:x"\noptions = { drop_rate = 0.1 }', ["encoder.name=resnet"])
    assert changed.doubts(["encoder.name"]) == parse_recipe("").doubts()


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


def test_views_are_the_methods_or_simclrs_as_the_recipe_says() -> None:
    own, simclrs, plain = (
        parse_recipe("", [f"method.name={name}", *more])
        for name, more in (("amdim", []), ("amdim", ["augmentation.law=simclr"]), ("simclr", []))
    )
    assert own.augmentation.min_scale == 0.3 and own.law != plain.law
    assert simclrs.law == plain.law and simclrs.method.name == "amdim"
    assert parse_recipe(simclrs.to_toml()) == simclrs
    patches = parse_recipe("", ["method.name=jigsaw", "augmentation.law=simclr"])
    assert patches.augmentation.image_size == 292  # of which its patches are cut


def test_compiling_what_a_method_does_not_use_is_pointed_out() -> None:
    for name, doubted in (("simclr", False), ("moco", False), ("dim", True), ("cpc", True)):
        recipe = parse_recipe("", [f"method.name={name}", "training.compile=true"])
        assert any("training.compile does nothing" in doubt for doubt in recipe.doubts()) is doubted


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


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        *(
            ("data.root", name, name)
            for name in ("2024", "2024-05-01", "true", "1e5", "[a]", "12:30:00", "0x10", "a#b")
        ),
        ("data.root", '"2024"', "2024"),
        ("data.root", "'a b'", "a b"),
        ("training.init_from", "inf", "inf"),
        ("training.batch_size", "1_024", 1024),
        ("training.batch_size", "1e3", 1000),
        ("training.batch_size", "512.0", 512),
        ("encoder.depth", "18.0", 18),
        ("optimizer.weight_decay", ".5", 0.5),
        ("optimizer.weight_decay", "5.", 5.0),
        ("optimizer.weight_decay", "1E-6", 1e-6),
        ("training.compile", "True", True),
        ("encoder.mean", "[0.1, 0.2, 0.3]", (0.1, 0.2, 0.3)),
    ],
)
def test_what_is_typed_is_taken_as_the_keys_type_says(key: str, text: str, value: object) -> None:
    section, name = key.split(".")
    taken = getattr(getattr(parse_recipe("", [f"{key}={text}"]), section), name)
    assert taken == value and type(taken) is type(value)


@pytest.mark.parametrize(
    "override",
    ["training.batch_size=1,000", "training.batch_size=inf", "training.epochs=nan", "training.epochs=inf",
     "training.seed=99999999999999999999", "training.batch_size=" + "9" * 5000, "training.epochs=e",
     "training.epochs=.", "data.limit=2.5", "augmentation.operations=" + "[" * 2000],
)  # fmt: skip
def test_numbers_that_are_none_are_refused_in_words(override: str) -> None:
    with pytest.raises(RecipeError, match=override.partition("=")[0].replace(".", r"\.")):
        parse_recipe("", [override])


@pytest.mark.parametrize("key", ["data.root", "training.init_from", "training.epochs"])
@pytest.mark.parametrize("blank", ["", "  "])
def test_an_override_without_a_value_is_refused_with_its_key(key: str, blank: str) -> None:
    """As `data.root=$DATA` is where DATA is not set."""
    with pytest.raises(RecipeError, match=rf"{key} is empty"):
        parse_recipe("", [f"{key}={blank}"])


TEXT = '[data]\nname = "folder"\nroot = "été"\n'


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + TEXT.replace("\n", "\r\n").encode(),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.replace("\n", "\r").encode(),
    ],
)
def test_what_windows_editors_write_is_read(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "mine.toml").write_bytes(data)
    assert load_recipe(tmp_path / "mine.toml").data.root == "été"
    assert recipe_text(tmp_path / "mine.toml") == TEXT


@pytest.mark.parametrize(
    "data",
    [b"", b" \n", b"\x80\x02}q\x00.", TEXT.encode("latin-1"), TEXT.encode("utf-16-le"), b"[training\n",
     b"[data]\nroot =\n", b'[data]\nroot = "a"\nroot = "b"\n', b"x = " + b"[" * 5000,
     b"[training]\nbatch_size = " + b"9" * 5000, b"#" * (2 << 20)],
)  # fmt: skip
def test_a_file_that_is_no_recipe_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "mine.toml").write_bytes(data)
    with pytest.raises(RecipeError, match=r"mine\.toml"):
        load_recipe(tmp_path / "mine.toml")


def test_another_encoding_is_called_so(tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be", "utf-32", "latin-1"):
        (tmp_path / "mine.toml").write_bytes(TEXT.encode(encoding))
        with pytest.raises(RecipeError, match=r"mine\.toml.*save it as UTF-8"):
            load_recipe(tmp_path / "mine.toml")


def test_a_folder_and_a_file_that_may_not_be_read_are_no_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(tmp_path)
    (tmp_path / "mine.toml").write_text(TEXT)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(RecipeError, match=r"mine\.toml.*Permission denied"):
        load_recipe(tmp_path / "mine.toml")


def test_a_mistake_in_a_file_is_told_with_its_line() -> None:
    text = "# mine\n[training]\nepochs = 3\nbatch_size = 1\n[data]\nroot = 2024\n"
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, origin="mine.toml")
    first, second = sorted(str(caught.value).splitlines())
    assert "data.root" in first and "(line 6)" in first and "quotes" in first
    assert "training.batch_size" in second and "(line 4)" in second
    with pytest.raises(RecipeError) as caught:
        parse_recipe("[training]\nbatch_size = 8\n", ["training.batch_size=1"])
    assert "line" not in str(caught.value)


def test_a_run_records_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("SET", "photos")

    def recorded(root: str, name: str = "folder") -> str:
        return parse_recipe("", [f"data.name={name}", f"data.root={root}"]).with_whole_paths().data.root

    assert recorded("photos") == recorded("./photos/") == recorded("$SET") == str(tmp_path / "photos")
    assert recorded("../x") == str(tmp_path.parent / "x") and recorded(".") == str(tmp_path)
    assert recorded("~/photos") == recorded("$HOME/photos") == recorded("${HOME}/photos") == "/home/me/photos"
    assert recorded("$DATA/${SET}") == "/data/photos" and recorded("/data/2024") == "/data/2024"
    assert recorded("data", "cifar10") == str(tmp_path / "data")
    assert recorded("data", "embedded") == "data"  # nothing is read there
    started = parse_recipe("", ["training.init_from=runs/a/encoder.safetensors"]).with_whole_paths()
    assert started.training.init_from == str(tmp_path / "runs/a/encoder.safetensors")
    assert parse_recipe("").with_whole_paths().training.init_from == ""


def test_whole_paths_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "$UNSET" / "~"
    odd.mkdir(parents=True)
    monkeypatch.chdir(odd)
    recipe = parse_recipe("", ["data.name=folder", "data.root=."]).with_whole_paths()
    monkeypatch.chdir("/")
    assert recipe.with_whole_paths() == recipe and recipe.data.root == str(odd)


def test_a_link_before_two_dots_is_followed_as_the_system_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store" / "deep").mkdir(parents=True)
    (tmp_path / "store" / "photos").mkdir()
    (tmp_path / "link").symlink_to("store/deep")
    monkeypatch.chdir(tmp_path)
    recipe = parse_recipe("", ["data.name=folder", "data.root=link/../photos"]).with_whole_paths()
    assert Path(recipe.data.root).samefile("store/photos")


@pytest.mark.parametrize(
    ("key", "path"),
    [("data.root", ""), ("data.root", " "), ("data.root", "$NOT_SET"), ("data.root", "/d/${EMPTY}/x"),
     ("data.root", "~nobody_of_that_name/x"), ("training.init_from", "$NOT_SET/e.safetensors"),
     ("data.root", "caf\udce9"), ("data.root", "a\0b"), ("training.init_from", "a\0b")],
)  # fmt: skip
def test_a_path_that_cannot_be_told_is_refused_with_its_key(
    key: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOT_SET", raising=False)
    section, name = key.split(".")
    recipe = parse_recipe("", ["data.name=folder"])
    recipe = recipe.model_copy(update={section: getattr(recipe, section).model_copy(update={name: path})})
    with pytest.raises(RecipeError, match=key.replace(".", r"\.")):
        recipe.with_whole_paths()


def test_a_recipe_recorded_before_a_key_was_there_keeps_its_meaning() -> None:
    import tomli_w

    recorded = parse_recipe("", ["data.name=folder"]).model_dump()
    newer = ("background", "deep_gray", "max_pixels")
    for key in newer:
        del recorded["data"][key]
    data = parse_recipe(tomli_w.dumps(recorded), ["data.limit=9"]).data
    assert (data.background, data.deep_gray, data.max_pixels) == ("drop", "by_values", 0)
    assert parse_recipe(tomli_w.dumps(recorded), ["data.background=black"]).data.background == "black"
    fresh = parse_recipe('[data]\nname = "folder"\nroot = "x"\non_bad_image = "skip"').data
    assert (fresh.background, fresh.deep_gray) == ("white", "by_type") and fresh.max_pixels > 0


def test_the_form_and_the_command_line_read_what_is_typed_alike() -> None:
    from simclr_plus.tui.starting.recipe_form import Form

    form = Form("mine", "")
    for key, text in (("data.root", "2024"), ("training.batch_size", "1e3"), ("optimizer.weight_decay", ".5")):
        form.change(key, text)
        assert typed_value(key, text) == typed_value(key, form.value(key))
    words = [word for word in form.words() if "=" in word]
    assert parse_recipe("", words) == form.recipe() and form.recipe().data.root == "2024"
