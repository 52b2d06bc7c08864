"""The recipe: everything a run depends on, read from TOML, checked once, immutable, recorded whole. No torch.

Each key is documented where it is declared, in keys.py; `simclr-plus recipes keys` prints them all.
"""

from __future__ import annotations

import codecs
import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import tomli_w
from pydantic import Field, ValidationError

from simclr_plus.augmentations.law import ViewLaw, simclr_law
from simclr_plus.encoders.architecture import Architecture
from simclr_plus.errors import NotFoundError, RecipeError
from simclr_plus.recipe.keys import (
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
from simclr_plus.recipe.method_keys import METHODS, AnyMethod, MethodKeys, SimCLRKeys
from simclr_plus.recipe.variants import fill_in, forget


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

    def value_of(self, key: str) -> Any:
        """The value of a dotted key; None for one of another method."""
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name, None) if name else getattr(self, section)

    def differences(self, other: Recipe) -> list[str]:
        """Keys of which the other has another value, with both values."""
        keys = [key for key, *_ in documented_keys() if not key.startswith("about.")]
        pairs = [(key, self.value_of(key), other.value_of(key)) for key in keys]
        return [f"{key} = {mine!r}, not {theirs!r}" for key, mine, theirs in pairs if mine != theirs]

    def with_whole_paths(self) -> Recipe:
        """The recipe as a run records it: its folder and file are the same ones wherever it is read again.

        Raises RecipeError for a path that is empty or cannot be recorded.
        """
        data, training = self.data, self.training
        if data.name != "embedded":
            data = data.model_copy(update={"root": whole_path(data.root, "data.root")})
        if training.init_from:
            init_from = whole_path(training.init_from, "training.init_from")
            training = training.model_copy(update={"init_from": init_from})
        return self.model_copy(update={"data": data, "training": training})

    def to_toml(self) -> str:
        """Every key, as TOML."""
        return tomli_w.dumps(self.model_dump())

    def doubts(self) -> list[str]:
        """Choices that are allowed but are known mistakes, each with its remedy."""
        sentences = []
        size, batch = self.augmentation.image_size, self.training.batch_size
        if self.encoder.stem == "imagenet" and size <= 32:
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
        if self.encoder.stem != "imagenet" and size > 64:
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
        sentences += self._without_effect()
        if not self.augmentation.operations:
            if self.augmentation.same_crop:
                sentences.append(
                    "augmentation.same_crop makes both views of a pair the same; give augmentation.operations"
                )
            for key, plain in (("operations_on", "both"), ("operation_prob", 1)):
                if (given := getattr(self.augmentation, key)) != plain:
                    sentences.append(f"augmentation.{key} = {given!r} does nothing without augmentation.operations")
        return sentences

    def _without_effect(self) -> Iterator[str]:
        """Keys of sections that other methods read."""
        sections = {section for keys in METHODS.values() for section in keys.reads} - set(self.method.reads)
        for section in sorted(sections):
            values = getattr(self, section)
            changed = [
                f"{section}.{key}" for key in values.model_fields_set if getattr(values, key) != values.usual(key)
            ]
            if changed:
                verb = "does" if len(changed) == 1 else "do"
                yield f'{", ".join(sorted(changed))} {verb} nothing with method.name = "{self.method.name}"'


def _meets_the_bug_of_4_channels(recipe: Recipe) -> bool:
    """Seen with PyTorch 2.14.1, float32: 3 to 65 % of the weight's gradient, at random; right from 8 channels on."""
    if recipe.encoder.selective_kernels:  # its shortcuts pool, then convolve without strides
        return False
    shapes = recipe.architecture.convolutions(recipe.augmentation.image_size)
    return any(c.kernel == 1 and c.side_out < c.side_in and c.width_in == 4 for c in shapes)


def parse_recipe(text: str, overrides: Iterable[str] = (), *, origin: str = "recipe") -> Recipe:
    """TOML text and `key.path=value` overrides -> a checked Recipe; raises RecipeError naming the key and remedy."""
    try:
        values = tomllib.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{origin} is not valid TOML: {error}") from None
    _fill_in_older(values)
    given = list(overrides)
    for override in given:
        _apply_override(values, override)
    _choose_method(values, origin)
    _refuse_a_loss_that_is_not_read(values, given)
    fill_in(values)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        overridden = {override.partition("=")[0].strip() for override in given}
        places = {key: line for key, line in _lines_of_keys(text).items() if key not in overridden}
        raise RecipeError("\n".join(f"{origin}: {_explained(e, places)}" for e in error.errors())) from None
    _check_together(recipe, origin)
    return recipe


# what a recorded recipe meant, which holds every key of its time, when these keys were not there yet
_BEFORE = {"data": {"background": "drop", "deep_gray": "by_values", "max_pixels": 0}}
_ALWAYS = {"data": {"name", "root", "download", "limit", "expected_images", "on_bad_image", "threads"}}


def _fill_in_older(values: dict[str, Any]) -> None:
    """Give a recipe that was recorded before a key was there the value that says what was done then."""
    for section, before in _BEFORE.items():
        table = values.get(section)
        if isinstance(table, dict) and table.keys() >= _ALWAYS[section]:
            for key, value in before.items():
                table.setdefault(key, value)


def _choose_method(values: dict[str, Any], origin: str) -> None:
    """Name the method where the recipe does not, and give it the values that it has for keys of other sections.

    `loss.name = "cross_entropy"` is how supervised training was chosen before there were methods.
    """
    method, loss = values.setdefault("method", {}), values.get("loss")
    if not isinstance(method, dict):
        return
    if isinstance(loss, dict) and loss.get("name") == "cross_entropy":
        if method.get("name", "supervised") != "supervised":
            raise RecipeError(
                f'{origin}: loss.name = "cross_entropy" is method.name = "supervised", but method.name = '
                f"{method['name']!r}; leave one of them out"
            )
        method["name"] = "supervised"
        del loss["name"]
    keys = METHODS.get(str(method.setdefault("name", SimCLRKeys().name)), MethodKeys)
    for key, value in keys.defaults.items():
        section, _, name = key.partition(".")
        table = values.setdefault(section, {})
        if isinstance(table, dict):
            table.setdefault(name, value)


def _refuse_a_loss_that_is_not_read(values: dict[str, Any], overrides: list[str]) -> None:
    """Whoever types `loss.name=...` wants another training than that of a method without [loss]."""
    name = values["method"].get("name") if isinstance(values["method"], dict) else None
    if name not in METHODS or "loss" in METHODS[name].reads:
        return
    for override in overrides:
        key, _, word = override.partition("=")
        if key.strip() == "loss.name" and word.strip(" \"'") != "cross_entropy":  # that one has chosen the method
            raise RecipeError(
                f'override {override!r} means nothing to method.name = "{name}", which does not read [loss]; leave it '
                "out, or give method.name=simclr beside it"
            )


def load_recipe(path_or_name: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe by path, name or unique prefix of a shipped name; raises NotFoundError or RecipeError."""
    return parse_recipe(recipe_text(find_recipe(path_or_name)), overrides, origin=str(path_or_name))


def recipe_text(path: Path) -> str:
    """What stands in a recipe file: UTF-8, or what Windows' editors write, with their mark. Raises RecipeError."""
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= LONGEST else b""
    except OSError as error:
        raise RecipeError(f"recipe {path} cannot be read: {error.strerror}") from None
    if size > LONGEST:
        raise RecipeError(f"{path} is no recipe: it has {size:,} bytes, and a recipe is a text of some lines")
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"recipe {path} is not UTF-8 text (line {line}); save it as UTF-8 in your editor") from None
    if not text.strip():
        raise RecipeError(f"recipe {path} is empty; `simclr-plus recipes cp` copies one to begin with")
    if "\0" in text:  # UTF-16 without its mark, or no text at all
        raise RecipeError(f"recipe {path} is in another encoding than UTF-8; save it as UTF-8 in your editor")
    return text.replace("\r\n", "\n").replace("\r", "\n")


LONGEST = 1 << 20  # bytes of a recipe; a file of weights named by mistake is not read whole


def whole_path(text: str, key: str) -> str:
    """A path from the root of the file system, `~` and `$NAME` replaced; raises RecipeError naming the key."""
    if not text.strip():
        raise RecipeError(f"{key} is empty; give the path of a folder or file, or . for the working directory")
    path = Path(text)
    if not (path.is_absolute() and path.exists()):  # whatever is in its name then
        path = Path(re.sub(r"\$(?:([A-Za-z_]\w*)|\{(\w+)\})", lambda name: _variable(name, key), text))
        try:
            path = path.expanduser()
        except RuntimeError:
            raise RecipeError(f"{key} = {text!r}: there is no such home folder; give the whole path") from None
    whole = os.path.join(_working_directory(key), path)  # noqa: PTH118 (pathlib keeps no "..", or asks the disk)
    plain = os.path.normpath(whole)
    whole = plain if os.path.realpath(plain) == os.path.realpath(whole) else whole  # a link may stand before ".."
    try:
        whole.encode()
    except UnicodeEncodeError:
        named = os.fsencode(whole).decode("utf-8", "backslashreplace")
        raise RecipeError(
            f"{key} = {named}: a recipe is UTF-8 text, which this name is not; rename the folder, or give a link to it"
        ) from None
    return whole


def _variable(name: re.Match[str], key: str) -> str:
    value = os.environ.get(name[1] or name[2], "")
    if not value:
        raise RecipeError(f"{key} holds {name[0]}, which is not set or empty; set it, or give the path")
    return value


def _working_directory(key: str) -> str:
    try:
        return str(Path.cwd())
    except OSError:
        raise RecipeError(f"{key}: the working directory is gone; go to one that exists") from None


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
    if path.exists():
        raise RecipeError(f"{name} is {'a folder' if path.is_dir() else 'no file'}; a recipe is a text file in TOML")
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
        return f"list of {', '.join(map(str, one.__args__))}" if more == [...] else "three numbers"
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
    if not text.strip():
        raise RecipeError(f"override {override!r}: {key.strip()} is empty; give a value, or leave the override out")
    value = typed_value(key.strip(), text)
    if not name:
        forget(values)
        values[section] = value
        return
    if (key.strip(), value) == ("loss.name", "cross_entropy"):  # as it was chosen before there were methods
        section, name, value = "method", "name", "supervised"
    table = values.setdefault(section, {})
    if not isinstance(table, dict):
        raise RecipeError(f"{section} = {table!r} must be a table, [{section}]")
    table[name] = value


def typed_value(key: str, text: str) -> Any:
    """What was typed for a key, as the key's type wants it: for words 2024 and true are words, for whole numbers 1e3 is
    one. Other TOML is taken as such; what is none stays text, for the check to refuse.
    """
    kind = {name: kind for name, kind, _, _ in documented_keys()}.get(key, "")
    text = text.strip()
    value = _toml_value(text)
    if isinstance(value, str):
        return value
    if kind == "str" or kind.startswith('"'):
        return text
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "float" and value is None and re.fullmatch(r"[+-]?\d*\.?\d*([eE][+-]?\d+)?", text):
        return _number(text)  # .5, 5. and 1E-6, which TOML does not know
    whole = kind == "int" or kind.partition(" ")[0].isdigit()
    if whole and isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return text if value is None else value


def _toml_value(text: str) -> Any:
    """The one value that a text of TOML holds, or None."""
    try:
        values = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return None
    return values["value"] if len(values) == 1 else None


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _lines_of_keys(text: str) -> dict[str, int]:
    """The line on which each key of a recipe's text stands, as far as it is written in the usual way."""
    section, places = "", dict[str, int]()
    for number, line in enumerate(text.splitlines(), start=1):
        header, entry = re.match(r"\s*\[([\w.]+)\]", line), re.match(r"\s*([\w.]+)\s*=", line)
        if header:
            section = header[1] + "."
            places.setdefault(header[1], number)
        elif entry:
            places.setdefault(section + entry[1], number)
    return places


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


def _explained(error: Any, places: dict[str, int]) -> str:
    """One line for one of pydantic's errors: key, value, remedy, and the line of the file where it is known."""
    if error["type"] == "union_tag_invalid":
        names = " or ".join(f'"{name}"' for name in METHODS)
        return f"method.name = {error['ctx']['tag']!r}: use {names}{_at_line('method.name', places)}"
    loc = error["loc"] if error["loc"][0] != "method" else (error["loc"][0], *error["loc"][2:])  # without the name
    key = ".".join(str(part) for part in loc)
    at = _at_line(key, places)
    if error["type"] == "extra_forbidden":
        known = [k for k, *_ in documented_keys()]
        if loc[0] == "method" and key in known:
            owner = next(name for name, keys in METHODS.items() if loc[1] in keys.model_fields)
            named = error["loc"][1]
            return f'{key} is a key of method.name = "{owner}", not of "{named}"; leave it out{at}'
        if len(loc) == 1:
            sections = difflib.get_close_matches(key, list(Recipe.model_fields), n=1)
            hint = f"; did you mean [{sections[0]}]?" if sections else _did_you_mean(key, known)
            return f"unknown section or key {key!r}{hint}{at}"
        return f"unknown key {key!r}{_did_you_mean(key, known)}{at}"
    help_text = {k: text for k, _, _, text in documented_keys()}.get(key)
    remedy = f" ({help_text})" if help_text else ""
    message = str(error["msg"])
    quotes = "; words stand in quotes" if error["type"] == "string_type" else ""
    return f"{key} = {error['input']!r}: {message[0].lower()}{message[1:]}{quotes}{remedy}{at}"


def _at_line(key: str, places: dict[str, int]) -> str:
    return f" (line {places[key]})" if key in places else ""


def _check_together(recipe: Recipe, origin: str) -> None:
    """What no single key shows."""
    t = recipe.training
    if t.warmup_epochs > t.epochs:
        raise RecipeError(
            f"{origin}: training.warmup_epochs = {t.warmup_epochs:g} is longer than training.epochs = {t.epochs:g}; "
            "shorten the warm-up or train longer"
        )
    problem = recipe.method.problem(recipe)
    if problem:
        raise RecipeError(f"{origin}: {problem}")
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
