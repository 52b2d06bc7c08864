"""The recipe: everything a run depends on, read from TOML, checked once, immutable, recorded whole. No torch.

Each key is documented where it is declared; `simclr-plus recipes keys` prints them all.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from simclr_plus.architecture import Architecture
from simclr_plus.augmentations.law import MAX_STRENGTH, ViewLaw, simclr_law
from simclr_plus.errors import NotFoundError, RecipeError
from simclr_plus.variants import fill_in, forget

Share = Annotated[float, Field(ge=0, le=1)]
Three = Annotated[tuple[float, float, float], Field(strict=False)]  # TOML has lists
StudyOperation = Literal[
    "crop",
    "cutout",
    "color",
    "sobel",
    "noise",
    "blur",
    "rotate",
    "equalize",
    "solarize",
    "motion_blur",
    "autoaugment",
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class About(_Section):
    """What a reader wants to know before running a recipe."""

    summary: Annotated[str, Field(description="what it trains, in one line")] = ""
    source: Annotated[str, Field(description="where its numbers come from")] = ""
    command: Annotated[str, Field(description="how to start it")] = ""
    hardware: Annotated[str, Field(description="what it is meant to run on")] = ""
    expected: Annotated[str, Field(description="the score to expect, marked as the paper's or as measured")] = ""


class Data(_Section):
    """The images."""

    name: Annotated[
        Literal["embedded", "mnist", "fashion_mnist", "cifar10", "cifar100", "stl10", "folder"],
        Field(description='"embedded" ships with the package, "folder" is any folder, torchvision reads the rest'),
    ] = "embedded"
    root: Annotated[
        str, Field(description="folder of the images; for torchvision's data sets the folder that holds theirs")
    ] = "data"
    download: Annotated[bool, Field(description="let torchvision download a missing data set into root")] = False
    limit: Annotated[int, Field(ge=0, description="train on the first n images only; 0: all")] = 0
    expected_images: Annotated[
        int, Field(ge=0, description="images the recipe is made for; another number found is pointed out; 0: any")
    ] = 0
    on_bad_image: Annotated[
        Literal["error", "skip"],
        Field(
            description="an unreadable image stops the run, or the next readable one takes its place and it is counted"
        ),
    ] = "error"
    threads: Annotated[
        int, Field(ge=0, description="threads a process that make views; 0: one for each core it may use")
    ] = 0


class Augmentation(_Section):
    """The law of a view (paper, 3 and Appendix A)."""

    image_size: Annotated[int, Field(ge=8, description="side of a view in pixels")] = 224
    strength: Annotated[
        float, Field(ge=0, le=MAX_STRENGTH, description="strength of the colour distortion: ImageNet 1.0, CIFAR 0.5")
    ] = 1.0
    min_scale: Annotated[float, Field(gt=0, le=1, description="smallest crop as a share of the image's area")] = 0.08
    resize: Annotated[
        Literal["bicubic", "bicubic_legacy"],
        Field(description="the authors' TF2 kernel or their TF1 kernel (the paper's)"),
    ] = "bicubic"
    flip_prob: Annotated[Share, Field(description="probability of a left-right flip")] = 0.5
    jitter_prob: Annotated[Share, Field(description="probability of the colour jitter")] = 0.8
    gray_prob: Annotated[Share, Field(description="probability of the change to gray")] = 0.2
    blur_prob: Annotated[Share, Field(description="probability of the blur; CIFAR: 0")] = 0.5
    blur_sigma_group: Annotated[
        int,
        Field(ge=0, description="0: a sigma for each image; n: one for n images of the global batch (authors' code)"),
    ] = 0
    brightness_law: Annotated[
        Literal["multiplicative", "additive"],
        Field(description="x f (authors' code since June 2020) or x + d (the paper's experiments)"),
    ] = "multiplicative"
    random_order: Annotated[bool, Field(description="the four colour operations in random order")] = True
    augment_on: Annotated[
        Literal["auto", "cpu", "device"],
        Field(
            description="where colour and blur are done: by CPU threads, or on the device for a whole batch (equal to "
            "1e-5); auto: the device with CUDA and images in files or operations"
        ),
    ] = "auto"
    device_crops: Annotated[
        Literal["float32", "float16", "uint8"],
        Field(
            description="crops on their way to the device: float32 is exact, float16 is off by up to 2.5e-4, uint8 by "
            "up to 2e-3 and cuts the overshoot of the resize"
        ),
    ] = "float32"
    evaluation_crop: Annotated[
        float, Field(gt=0, le=1, description="share of the shorter side shown in evaluation, above 32 pixels")
    ] = 0.875
    operations: Annotated[
        tuple[StudyOperation, ...],
        Field(
            strict=False,
            description='of the paper\'s studies, done in this order to a view made as above, e.g. ["crop", "color"]',
        ),
    ] = ()
    operations_on: Annotated[
        Literal["both", "first"],
        Field(description="operations change both views of a pair, or the first alone (Figure 5)"),
    ] = "both"
    operation_prob: Annotated[Share, Field(description="probability of each of the operations, for each view")] = 1.0
    cutout_side: Annotated[Share, Field(description="cutout: side of the gray square as a share of the view's")] = 0.5
    noise_deviation: Annotated[
        float, Field(ge=0, description="noise: standard deviation, of values in [0, 1]; unpublished, as the next")
    ] = 0.1
    solarize_from: Annotated[Share, Field(description="solarize: values from here on are inverted")] = 0.5
    same_crop: Annotated[
        bool,
        Field(description="before the operations both views are the same: one draw of all of the above (Figure 5)"),
    ] = False


class Encoder(_Section):
    """The network f."""

    depth: Annotated[Literal[18, 34, 50, 101, 152, 200], Field(description="layers of the ResNet")] = 50
    width: Annotated[
        float, Field(ge=1 / 64, le=16, description="multiplies every channel count: 1, 2, 4 or a fraction")
    ] = 1
    stem: Annotated[
        Literal["imagenet", "cifar", "cifar_pad2", "cifar_no_relu"],
        Field(
            description="7x7 convolution and max-pool, or 3x3 for images up to 32 pixels; the rest for files of others"
        ),
    ] = "imagenet"
    flavor: Annotated[
        Literal["torchvision", "reference"],
        Field(description="features equal to torchvision's and timm's, or the authors' network to the last detail"),
    ] = "torchvision"
    selective_kernels: Annotated[
        bool, Field(description="SimCLR v2's networks: SK units in bottlenecks, stem and shortcuts of ResNet-D")
    ] = False
    se_ratio: Annotated[
        Share, Field(description="squeeze-excitation to that share of a block's width, e.g. 0.25; 0: none")
    ] = 0.0
    mean: Annotated[Three, Field(description="of the images an imported encoder was trained on; authors: 0")] = (
        0,
        0,
        0,
    )
    std: Annotated[Three, Field(description="images are divided by it, after the mean; authors: 1")] = (1, 1, 1)


class Head(_Section):
    """The projection head g."""

    num_layers: Annotated[int, Field(ge=0, le=8, description="0: none, 1: linear, 2: the paper's, 3: SimCLR v2's")] = 2
    hidden_dim: Annotated[
        int, Field(ge=0, description="width of the hidden layers; 0: that of the encoder's features")
    ] = 0
    output_dim: Annotated[int, Field(ge=2, description="dimensions of z")] = 128


class Loss(_Section):
    """What is made small: NT-Xent, a loss that the paper compares with it, or the cross entropy of the labels."""

    name: Annotated[
        Literal["nt_xent", "nt_logistic", "margin", "cross_entropy"],
        Field(
            description="NT-Xent; NT-Logistic, margin triplet (paper, Table 2); cross_entropy: of labels, one view, "
            "no head"
        ),
    ] = "nt_xent"
    temperature: Annotated[float, Field(gt=0, description="temperature: ImageNet 0.1, CIFAR 0.5")] = 0.1
    normalize: Annotated[bool, Field(description="l2-normalise z (the paper's cosine similarity)")] = True
    negatives: Annotated[
        Literal["both_views", "other_view"],
        Field(description="other images in both views, or in the view that a row is not of (the paper's Table 4)"),
    ] = "both_views"
    semi_hard: Annotated[
        bool,
        Field(description="nt_logistic, margin: only the most similar negative that is less similar than the positive"),
    ] = False
    margin: Annotated[float, Field(ge=0, description="margin: by how much a positive is to be more similar")] = 0.8
    reduction: Annotated[
        Literal["paper", "reference"],
        Field(description="nt_xent: mean over 2N rows, or the authors' sum of both views' means, twice the gradient"),
    ] = "reference"

    @property
    def title(self) -> str:
        """Its name for people."""
        return {
            "nt_xent": "NT-Xent",
            "nt_logistic": "NT-Logistic",
            "margin": "margin triplet",
            "cross_entropy": "cross entropy",
        }[self.name]


class Optimizer(_Section):
    """The update rule."""

    name: Annotated[Literal["lars", "sgd", "adam"], Field(description="LARS, SGD with Nesterov momentum, or Adam")] = (
        "lars"
    )
    learning_rate: Annotated[float, Field(gt=0, description="base learning rate, before scaling with the batch")] = 0.3
    learning_rate_scaling: Annotated[
        Literal["linear", "sqrt", "none"], Field(description="peak = base B/256, base sqrt(B), or base")
    ] = "linear"
    momentum: Annotated[float, Field(ge=0, lt=1, description="momentum of LARS and SGD")] = 0.9
    weight_decay: Annotated[
        float, Field(ge=0, description="weight decay; batch norms (and biases under LARS) are exempt")
    ] = 1e-6
    trust_coefficient: Annotated[float, Field(gt=0, description="LARS: scale of the trust ratio")] = 0.001
    adapt_probe: Annotated[
        bool,
        Field(description="LARS adapts the probe's kernel too (authors' code of March 2020; later code leaves it out)"),
    ] = False
    sgd_momentum: Annotated[
        Literal["rate_outside", "rate_inside"],
        Field(description="SGD: the learning rate outside the velocity (PyTorch, TF1) or inside it (authors' TF2)"),
    ] = "rate_outside"
    gradient_clip: Annotated[float, Field(ge=0, description="largest norm of the whole gradient; 0: no clipping")] = 0.0


class Training(_Section):
    """The loop."""

    epochs: Annotated[float, Field(gt=0, description="passes over the images")] = 100
    warmup_epochs: Annotated[float, Field(ge=0, description="epochs of linear warm-up")] = 10
    batch_size: Annotated[int, Field(ge=2, description="images a step over all processes (the global batch N)")] = 4096
    round_up_to_checkpoint: Annotated[
        bool,
        Field(description="go on at rate 0 until the next checkpoint is due, as the authors' TF2 loop does"),
    ] = False
    seed: Annotated[int, Field(ge=0, description="of the initial weights, the order and every augmentation")] = 0
    global_batch_norm: Annotated[bool, Field(description="batch statistics over all processes")] = True
    probe: Annotated[
        bool,
        Field(
            description="train a linear classifier on the detached features alongside, where there are labels "
            "(cross_entropy trains the encoder through it, whatever is said here)"
        ),
    ] = True
    precision: Annotated[
        Literal["float32", "bfloat16", "auto", "float64"],
        Field(
            description="of convolutions and matrices, the loss stays float32; auto: bfloat16 on CUDA, float32 on CPU; "
            "float64: everything, for proofs"
        ),
    ] = "float32"
    channels_last: Annotated[bool, Field(description="memory layout of the images; faster for most networks")] = True
    compile: Annotated[bool, Field(description="torch.compile the encoder")] = False
    activation_checkpointing: Annotated[
        bool, Field(description="keep only each block's input and compute the rest again: less memory, a third slower")
    ] = False
    init_from: Annotated[str, Field(description="encoder or checkpoint file to start the encoder from")] = ""
    device: Annotated[Literal["auto", "cpu", "cuda"], Field(description="auto: CUDA where there is one")] = "auto"


class Checkpoints(_Section):
    """What is kept on disk."""

    every_epochs: Annotated[float, Field(gt=0, description="save each n epochs, and at the end")] = 1
    keep_last: Annotated[int, Field(ge=1, description="newest checkpoints kept")] = 3
    keep_every_epochs: Annotated[int, Field(ge=0, description="also keep for good one each n epochs; 0: none")] = 0


class Monitor(_Section):
    """What is written while training."""

    log_every_steps: Annotated[int, Field(ge=1, description="steps between two lines of metrics.jsonl")] = 10
    knn_every_epochs: Annotated[
        float, Field(ge=0, description="epochs between two kNN evaluations on the test split (where labelled); 0: none")
    ] = 0.0
    tensorboard: Annotated[bool, Field(description="write TensorBoard files too, in the run's tensorboard folder")] = (
        False
    )
    wandb: Annotated[
        Literal["off", "online", "offline"],
        Field(description="report to Weights & Biases too; offline: to files, sent later by `wandb sync`"),
    ] = "off"
    wandb_project: Annotated[str, Field(description="project of Weights & Biases")] = "simclr-plus"
    hung_after_seconds: Annotated[
        float,
        Field(
            ge=0,
            description="a process whose step takes longer is hung and the run is ended; preparing, evaluating and "
            "saving may take four times as long; 0: never",
        ),
    ] = 1800.0


class Recipe(_Section):
    """A whole recipe; every value has a default, every key is known."""

    variant: Annotated[
        Literal["none", "paper", "tf1", "tf2"],
        Field(
            description="sets the keys in which the published forms of SimCLR differ: the paper's experiments, the "
            "authors' TF1 or TF2 code; keys given beside it win"
        ),
    ] = "none"
    about: About = About()
    data: Data = Data()
    augmentation: Augmentation = Augmentation()
    encoder: Encoder = Encoder()
    head: Head = Head()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    checkpoints: Checkpoints = Checkpoints()
    monitor: Monitor = Monitor()

    @property
    def architecture(self) -> Architecture:
        """The encoder in numbers."""
        e = self.encoder
        return Architecture(**e.model_dump())

    @property
    def law(self) -> ViewLaw:
        """The law of the views."""
        a = self.augmentation
        return simclr_law(
            a.image_size,
            a.strength,
            min_scale=a.min_scale,
            resize=a.resize,
            flip_prob=a.flip_prob,
            jitter_prob=a.jitter_prob,
            gray_prob=a.gray_prob,
            blur_prob=a.blur_prob,
            blur_sigma_group=a.blur_sigma_group,
            brightness_law=a.brightness_law,
            random_order=a.random_order,
            evaluation_crop=a.evaluation_crop,
            operations=a.operations,
            operations_on=a.operations_on,
            operation_prob=a.operation_prob,
            same_crop=a.same_crop,
            cutout_side=a.cutout_side,
            noise_deviation=a.noise_deviation,
            solarize_from=a.solarize_from,
        )

    @property
    def head_hidden_dim(self) -> int:
        """Width of the head's hidden layers."""
        return self.head.hidden_dim or self.architecture.feature_dim

    @property
    def supervised(self) -> bool:
        """Whether labels are learnt: one view an image, no projection head."""
        return self.loss.name == "cross_entropy"

    @property
    def views(self) -> int:
        """Rows of a batch for each image."""
        return 1 if self.supervised else 2

    def halves_on(self, device_type: str) -> bool:
        """Whether the network computes in bfloat16 on a device of that type, "cpu" or "cuda"."""
        return self.training.precision == "bfloat16" or (self.training.precision == "auto" and device_type == "cuda")

    @property
    def head_layers(self) -> int:
        """Layers of the projection head that is trained."""
        return 0 if self.supervised else self.head.num_layers

    @property
    def chance_loss(self) -> float | None:
        """NT-Xent of features that tell nothing: the logarithm of the candidates; None for the other losses."""
        if self.loss.name != "nt_xent":
            return None
        n = self.training.batch_size
        return math.log(2 * n - 1 if self.loss.negatives == "both_views" else n)

    def to_toml(self) -> str:
        """Every key, as TOML."""
        return tomli_w.dumps(self.model_dump())

    def doubts(self) -> list[str]:
        """Choices that are allowed but are known mistakes, each with its remedy."""
        found = []
        size, batch = self.augmentation.image_size, self.training.batch_size
        if self.encoder.stem == "imagenet" and size <= 32:
            found.append(f'encoder.stem = "imagenet" shrinks {size}-pixel views to {max(1, size // 32)}; use "cifar"')
        if self.augmentation.blur_prob > 0 and size <= 32:
            found.append(f"augmentation.blur_prob > 0 on {size}-pixel views: the authors switch blur off for CIFAR")
        if self.optimizer.name == "lars" and batch < 256:
            found.append(
                f'optimizer.name = "lars" is made for large batches, not for {batch}; "sgd" or "adam" may do better'
            )
        if self.augmentation.augment_on == "cpu" and self.augmentation.device_crops != "float32":
            found.append(
                f'augmentation.device_crops = "{self.augmentation.device_crops}" does nothing with augment_on = "cpu"'
            )
        if self.loss.margin != 0.8 and self.loss.name != "margin":
            found.append(f'loss.margin = {self.loss.margin:g} does nothing with loss.name = "{self.loss.name}"')
        if self.encoder.stem != "imagenet" and size > 64:
            found.append(
                f'encoder.stem = "{self.encoder.stem}" keeps {size}-pixel views at full size: slow, and much memory; '
                'use "imagenet"'
            )
        if self.training.channels_last and self.training.device != "cuda" and _meets_the_bug_of_4_channels(self):
            found.append(
                f"encoder.width = {self.encoder.width:g} with training.channels_last: a strided 1x1 convolution has 4 "
                "input channels, for which PyTorch on a CPU was seen to give wrong gradients; use "
                "training.channels_last = false or a greater width"
            )
        if not self.augmentation.operations:
            if self.augmentation.same_crop:
                found.append("augmentation.same_crop makes both views of a pair the same; give augmentation.operations")
            for key, plain in (("operations_on", "both"), ("operation_prob", 1)):
                if (given := getattr(self.augmentation, key)) != plain:
                    found.append(f"augmentation.{key} = {given!r} does nothing without augmentation.operations")
        return found


def _meets_the_bug_of_4_channels(recipe: Recipe) -> bool:
    """Seen with PyTorch 2.14.1, float32: 3 to 65 % of the weight's gradient, at random; right from 8 channels on."""
    if recipe.encoder.selective_kernels:  # its shortcuts pool, then convolve without strides
        return False
    shapes = recipe.architecture.convolutions(recipe.augmentation.image_size)
    return any(c.kernel == 1 and c.side_out < c.side_in and c.width_in == 4 for c in shapes)


def parse_recipe(text: str, overrides: Iterable[str] = (), *, origin: str = "recipe") -> Recipe:
    """TOML text and `key.path=value` overrides -> a checked Recipe; raises RecipeError naming the key and remedy."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{origin} is not valid TOML: {error}") from None
    for override in overrides:
        _apply_override(values, override)
    fill_in(values)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{origin}: {_explained(e)}" for e in error.errors())) from None
    _check_together(recipe, origin)
    return recipe


def load_recipe(path_or_name: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe by path, name or unique prefix of a shipped name; raises NotFoundError or RecipeError."""
    path = find_recipe(path_or_name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} cannot be read: {error}") from None
    return parse_recipe(text, overrides, origin=str(path_or_name))


def find_recipe(path_or_name: str | Path) -> Path:
    """The file of a recipe."""
    path = Path(path_or_name)
    if path.is_file():
        return path
    shipped = {p.stem: p for p in shipped_recipes()}
    name = str(path_or_name)
    if name in shipped:
        return shipped[name]
    starting = [s for s in shipped if s.startswith(name)]
    if len(starting) == 1:
        return shipped[starting[0]]
    nearest = starting or difflib.get_close_matches(path.stem, shipped, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "`simclr-plus recipes ls` lists the shipped ones"
    raise NotFoundError(f"no recipe {name!r}: neither a file nor a shipped recipe; {hint}")


def shipped_recipes() -> list[Path]:
    """Files of the recipes that come with the package."""
    folder = Path(str(files("simclr_plus.recipes")))
    return sorted(folder.glob("*.toml"))


def documented_keys() -> Iterator[tuple[str, str, Any, str]]:
    """(dotted key, type, default, help) of every key."""
    for section, field in Recipe.model_fields.items():
        model = field.annotation
        if not (isinstance(model, type) and issubclass(model, _Section)):
            yield section, _type_name(model), field.default, field.description or ""
            continue
        for key, info in model.model_fields.items():
            yield f"{section}.{key}", _type_name(info.annotation), info.default, info.description or ""


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is tuple:
        one, *more = annotation.__args__
        return f"list of {', '.join(one.__args__)}" if more == [...] else "three numbers"
    if getattr(annotation, "__args__", None):
        return " | ".join(repr(a).replace("'", '"') for a in annotation.__args__)
    return getattr(annotation, "__name__", str(annotation))


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    section, _, name = key.strip().partition(".")
    if not equals:
        raise RecipeError(f"override {override!r} has no value; write it as key.path=value, e.g. training.epochs=20")
    known = [k for k, *_ in documented_keys()]
    if key.strip() not in known:
        raise RecipeError(f"unknown key {key.strip()!r} in override {override!r}{_did_you_mean(key.strip(), known)}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare string
    if not name:
        forget(values)
        values[section] = value
        return
    table = values.setdefault(section, {})
    if not isinstance(table, dict):
        raise RecipeError(f"{section} = {table!r} must be a table, [{section}]")
    table[name] = value


# what people type for a key
_SYNONYMS = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "tau": "temperature",
    "bs": "batch_size",
    "batch": "batch_size",
    "size": "image_size",
    "warmup": "warmup_epochs",
}


def _did_you_mean(key: str, known: list[str]) -> str:
    name = key.rsplit(".", 1)[-1]
    name = _SYNONYMS.get(name, name)
    same_name = [k for k in known if k.rsplit(".", 1)[-1] == name]
    near = same_name or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not near:
        last = {k.rsplit(".", 1)[-1]: k for k in known}
        near = [last[n] for n in difflib.get_close_matches(name, last, n=1, cutoff=0.6)]
    return f"; did you mean {' or '.join(near)}?" if near else "; `simclr-plus recipes keys` lists them all"


def _explained(error: Any) -> str:
    """One line for one of pydantic's errors: key, value, remedy."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = [k for k, *_ in documented_keys()]
        if len(error["loc"]) == 1:
            sections = difflib.get_close_matches(key, list(Recipe.model_fields), n=1)
            hint = f"; did you mean [{sections[0]}]?" if sections else _did_you_mean(key, known)
            return f"unknown section or key {key!r}{hint}"
        return f"unknown key {key!r}{_did_you_mean(key, known)}"
    help_text = {k: text for k, _, _, text in documented_keys()}.get(key)
    remedy = f" ({help_text})" if help_text else ""
    message = str(error["msg"])
    return f"{key} = {error['input']!r}: {message[0].lower()}{message[1:]}{remedy}"


def _check_together(recipe: Recipe, origin: str) -> None:
    """What no single key shows."""
    t = recipe.training
    if t.warmup_epochs > t.epochs:
        raise RecipeError(
            f"{origin}: training.warmup_epochs = {t.warmup_epochs:g} is longer than training.epochs = {t.epochs:g}; "
            "shorten the warm-up or train longer"
        )
    _check_loss(recipe.loss, origin)
    if t.compile and t.activation_checkpointing:
        raise RecipeError(
            f"{origin}: training.compile and training.activation_checkpointing do not work together; switch one off"
        )
    try:
        architecture = recipe.architecture
    except ValueError as error:
        raise RecipeError(f"{origin}: encoder.{error}") from None
    if architecture.channels(64) * 64 != recipe.encoder.width * 64 * 64:
        raise RecipeError(
            f"{origin}: encoder.width = {recipe.encoder.width} gives no whole number of channels; "
            "use a multiple of 1/64, e.g. 0.25"
        )
    try:
        _ = recipe.law
    except ValueError as error:
        raise RecipeError(f"{origin}: [augmentation] {error}") from None


def _check_loss(loss: Loss, origin: str) -> None:
    if loss.semi_hard and loss.name not in ("nt_logistic", "margin"):
        raise RecipeError(
            f'{origin}: loss.semi_hard = true means nothing to loss.name = "{loss.name}", which chooses no negatives; '
            'set it to false, or use "nt_logistic" or "margin"'
        )
    if loss.name == "cross_entropy" and loss.negatives != "both_views":
        raise RecipeError(
            f'{origin}: loss.negatives = "{loss.negatives}" means nothing to loss.name = "cross_entropy", which has no '
            'negatives; leave it out, or use "nt_xent", "nt_logistic" or "margin"'
        )
