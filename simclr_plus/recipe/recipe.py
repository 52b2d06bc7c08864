"""The recipe: everything a run depends on, immutable, recorded whole; reading.py reads and checks it. No torch.

Each key is documented where it is declared, in keys.py; `simclr-plus recipes keys` prints them all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal, get_origin

import tomli_w
from pydantic import Field

from simclr_plus.augmentations.law import ViewLaw, simclr_law
from simclr_plus.encoders.architecture import Architecture
from simclr_plus.encoders.foreign_architecture import ForeignArchitecture
from simclr_plus.recipe.keys import (
    EMBEDDED,
    About,
    Augmentation,
    Checkpoints,
    Data,
    Encoder,
    Head,
    Loss,
    Monitor,
    Optimizer,
    Section,
    Training,
)
from simclr_plus.recipe.method_keys import METHODS, AnyMethod, SimCLRKeys
from simclr_plus.recipe.paths import whole_path

_COLORS = ("brightness", "contrast", "saturation", "hue")
_BY_NAME = {"name", "options", "pretrained", "download", "freeze_patch_embedding"}  # keys of a network by name
_OF_BOTH = {"name", "mean", "std", "input"}
OF_RESNETS = set(Encoder.model_fields) - _BY_NAME - _OF_BOTH  # keys that a network by name does not read
_FOR_SOME = {section for keys in METHODS.values() for section in keys.reads}  # sections that not all methods read


class Recipe(Section):
    """A whole recipe; every value has a default, every key is known."""

    variant: Annotated[
        Literal["none", "paper", "tf1", "tf2"],
        Field(
            description="sets the keys in which the published forms of SimCLR differ: the paper's experiments, the "
            "authors' TF1 or TF2 code; keys given beside it win"
        ),
    ] = "none"
    about: About = About()
    method: AnyMethod = SimCLRKeys()
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
    def architecture(self) -> Architecture | ForeignArchitecture:
        """The encoder in numbers."""
        e = self.encoder
        if e.is_resnet:
            return Architecture(**e.model_dump(exclude=_BY_NAME))
        return ForeignArchitecture(e.name, e.options, self.method.image_side(self), e.mean, e.std, e.input)

    @property
    def network(self) -> dict[str, Any]:
        """The encoder that the method trains, as its file's header describes it."""
        return self.method.network(self)

    @property
    def normalisation_is_open(self) -> bool:
        """Whether f starts from weights that have a mean and deviation which the recipe does not tell yet."""
        return bool(self.encoder.pretrained) and not {"mean", "std"} <= self.encoder.model_fields_set

    @property
    def encoder_title(self) -> str:
        """What people call that encoder."""
        return self.method.encoder_title(self)

    @property
    def feature_dim(self) -> int:
        """Dimensions of h."""
        return self.method.feature_dim(self)

    @property
    def second_law(self) -> ViewLaw | None:
        """The law of the method's other kind of view, where it has one."""
        changes = self.method.second_law(self)
        return None if changes is None else replace(self.law, **changes)

    @property
    def law(self) -> ViewLaw:
        """The law of the views."""
        a, colors = self.augmentation, {}
        if a.colors:
            if len(a.colors) != len(_COLORS):
                raise ValueError(f"colors = {list(a.colors)}: give four numbers, for {', '.join(_COLORS)}; or none, []")
            colors = dict(zip(_COLORS, a.colors, strict=True))
        return simclr_law(
            a.image_size,
            a.strength,
            **colors,
            aspect=a.aspect,
            same_flip=a.same_flip,
            gray_law=a.gray_law,
            gray_first=a.gray_first,
            gray_shared=a.gray_shared,
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
        return self.head.hidden_dim or self.feature_dim

    def value_of(self, key: str) -> Any:
        """The value of a dotted key; None for one of another method."""
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name, None) if name else getattr(self, section)

    def reads(self, key: str) -> bool:
        """Whether the method reads a dotted key: none of another method, or of a section that is not for this one."""
        section, _, name = key.partition(".")
        if section == "method":
            return name in type(self.method).model_fields
        if section == "encoder" and name not in _OF_BOTH:
            return (name in _BY_NAME) != self.encoder.is_resnet
        return section in self.method.reads or section not in _FOR_SOME

    def differences(self, other: Recipe) -> list[str]:
        """Keys of which the other has another value, with both values."""
        keys = dict.fromkeys(key for key, *_ in documented_keys() if not key.startswith("about."))
        pairs = [(key, self.value_of(key), other.value_of(key)) for key in keys]
        return [f"{key} = {mine!r}, not {theirs!r}" for key, mine, theirs in pairs if mine != theirs]

    def with_whole_paths(self) -> Recipe:
        """The recipe as a run records it: its folder and files are the same ones wherever it is read again.

        Raises RecipeError for a path that is empty or cannot be recorded.
        """
        data, training = self.data, self.training
        if data.name not in EMBEDDED:
            data = data.model_copy(update={"root": whole_path(data.root, "data.root")})
        encoder = self.encoder
        if isinstance(encoder.pretrained, str):
            pretrained = whole_path(encoder.pretrained, "encoder.pretrained")
            encoder = encoder.model_copy(update={"pretrained": pretrained})
        if training.init_from:
            init_from = whole_path(training.init_from, "training.init_from")
            training = training.model_copy(update={"init_from": init_from})
        files = {key: getattr(self.method, key) for key in self.method.paths}
        whole = {key: whole_path(path, f"method.{key}") for key, path in files.items() if path}
        method = self.method.model_copy(update=whole)
        return self.model_copy(update={"data": data, "encoder": encoder, "training": training, "method": method})

    def to_toml(self) -> str:
        """Every key, as TOML; mean and std are left open where weights that f starts from are to tell them."""
        left_open = {"mean", "std"} - self.encoder.model_fields_set if self.normalisation_is_open else set()
        return tomli_w.dumps(self.model_dump(exclude={"encoder": left_open}))

    def doubts(self, typed: Collection[str] = ()) -> list[str]:
        """Choices that are allowed but are known mistakes, each with its remedy.

        typed: keys that were given beside the recipe's file. With a network by name only a ResNet's keys among these
        are doubted: those of a file are left from the network that it was written for.
        """
        sentences = []
        size, batch = self.augmentation.image_size, self.training.batch_size
        if self.encoder.is_resnet and self.encoder.stem == "imagenet" and size <= 32:
            sentences.append(
                f'encoder.stem = "imagenet" shrinks {size}-pixel views to {max(1, size // 32)}; use "cifar"'
            )
        if self.augmentation.blur_prob > 0 and size <= 32:
            sentences.append(f"augmentation.blur_prob > 0 on {size}-pixel views: the authors switch blur off for CIFAR")
        if self.optimizer.name == "lars" and batch < 256:
            sentences.append(
                f'optimizer.name = "lars" is made for large batches, not for {batch}; "sgd" or "adam" may do better'
            )
        if self.augmentation.augment_on == "cpu" and self.augmentation.device_crops != "float32":
            sentences.append(
                f'augmentation.device_crops = "{self.augmentation.device_crops}" does nothing with augment_on = "cpu"'
            )
        if self.loss.margin != 0.8 and self.loss.name != "margin":
            sentences.append(f'loss.margin = {self.loss.margin:g} does nothing with loss.name = "{self.loss.name}"')
        if self.encoder.is_resnet and self.encoder.stem != "imagenet" and size > 64:
            sentences.append(
                f'encoder.stem = "{self.encoder.stem}" keeps {size}-pixel views at full size: slow, and much memory; '
                'use "imagenet"'
            )
        if self.training.channels_last and self.training.device != "cuda" and _meets_the_bug_of_4_channels(self):
            sentences.append(
                f"encoder.width = {self.encoder.width:g} with training.channels_last: a strided 1x1 convolution has 4 "
                "input channels, for which PyTorch on a CPU was seen to give wrong gradients; use "
                "training.channels_last = false or a greater width"
            )
        if self.training.compile and not self.method.trains_whole_pass:
            sentences.append(
                f'training.compile does nothing for f with method.name = "{self.method.name}", which reads its maps or '
                "patches: the pass over whole images is what is compiled"
            )
        sentences += self._without_effect(typed)
        if not self.augmentation.operations:
            if self.augmentation.same_crop:
                sentences.append(
                    "augmentation.same_crop makes both views of a pair the same; give augmentation.operations"
                )
            for key, plain in (("operations_on", "both"), ("operation_prob", 1)):
                if (value := getattr(self.augmentation, key)) != plain:
                    sentences.append(f"augmentation.{key} = {value!r} does nothing without augmentation.operations")
        return sentences

    def _without_effect(self, typed: Collection[str]) -> Iterator[str]:
        """Keys of sections that other methods read, and of networks of another kind."""
        for section in sorted(_FOR_SOME - set(self.method.reads)):
            if changed := self._changed(section):
                yield f'{_do(changed)} nothing with method.name = "{self.method.name}"'
        if unread := self._unread_of_encoder(typed):
            yield f'{_do(unread)} nothing with encoder.name = "{self.encoder.name}"'
        if self.encoder.download and self.encoder.pretrained is not True and not self.encoder.is_resnet:
            yield "encoder.download = true does nothing without encoder.pretrained = true"

    def _unread_of_encoder(self, typed: Collection[str]) -> list[str]:
        e = self.encoder
        unread = {key for key in typed if key.startswith("encoder.") and not self.reads(key)}
        if e.is_resnet and "encoder.name" not in typed:
            unread |= {f"encoder.{name}" for name in _BY_NAME - {"name"} if getattr(e, name) != e.usual(name)}
        return sorted(unread)

    def _changed(self, section: str) -> list[str]:
        """The keys of a section that are set to another value than usual."""
        values = getattr(self, section)
        return sorted(
            f"{section}.{key}" for key in values.model_fields_set if getattr(values, key) != values.usual(key)
        )


def _do(keys: list[str]) -> str:
    return f"{', '.join(keys)} {'does' if len(keys) == 1 else 'do'}"


def _meets_the_bug_of_4_channels(recipe: Recipe) -> bool:
    """Seen with PyTorch 2.14.1, float32: 3 to 65 % of the weight's gradient, at random; right from 8 channels on."""
    if not recipe.encoder.is_resnet:
        return False
    if recipe.encoder.selective_kernels:  # its shortcuts pool, then convolve without strides
        return False
    shapes = recipe.method.resnet(recipe).convolutions(recipe.augmentation.image_size)
    return any(c.kernel == 1 and c.side_out < c.side_in and c.width_in == 4 for c in shapes)


def documented_keys() -> Iterator[tuple[str, str, Any, str]]:
    """(dotted key, type, default, help) of every key."""
    for section, field in Recipe.model_fields.items():
        model = field.annotation
        if section == "method":
            yield from _documented_method_keys()
            continue
        if not (isinstance(model, type) and issubclass(model, Section)):
            yield section, _type_name(model), field.default, field.description or ""
            continue
        for key, info in model.model_fields.items():
            yield f"{section}.{key}", _type_name(info.annotation), info.default, info.description or ""


def _documented_method_keys() -> Iterator[tuple[str, str, Any, str]]:
    """`method.name`, then the keys of each method, with its name."""
    names = " | ".join(f'"{name}"' for name in METHODS)
    yield "method.name", names, SimCLRKeys().name, "; ".join(f"{n}: {m.about()}" for n, m in METHODS.items())
    for name, keys in METHODS.items():
        for key, info in keys.model_fields.items():
            if key != "name":
                yield f"method.{key}", _type_name(info.annotation), info.default, f"{name}: {info.description}"


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is tuple:
        one, *more = annotation.__args__
        if more == [...]:
            return f"list of {', '.join(map(str, getattr(one, '__args__', ['numbers'])))}"
        return f"{'two' if len(more) == 1 else 'three'} numbers"
    if get_origin(annotation) is dict:
        return "table"
    if getattr(annotation, "__args__", None) == (bool, str):
        return "bool | str"
    if getattr(annotation, "__args__", None):
        return " | ".join(repr(a).replace("'", '"') for a in annotation.__args__)
    return getattr(annotation, "__name__", str(annotation))
