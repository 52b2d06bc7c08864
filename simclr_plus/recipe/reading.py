"""From TOML and what was typed beside it to a checked recipe; what is wrong is told by key, value and remedy."""

from __future__ import annotations

import codecs
import difflib
import re
import tomllib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from simclr_plus.encoders.architecture import Architecture
from simclr_plus.errors import NotFoundError, RecipeError
from simclr_plus.recipe.keys import Loss
from simclr_plus.recipe.method_keys import METHODS, MethodKeys, SimCLRKeys
from simclr_plus.recipe.recipe import OF_RESNETS, Recipe, documented_keys
from simclr_plus.recipe.variants import fill_in, forget

# what a recorded recipe meant, which holds every key of its time, when these keys were not there yet
_BEFORE = {"data": {"background": "drop", "deep_gray": "by_values", "max_pixels": 0}}
_ALWAYS = {"data": {"name", "root", "download", "limit", "expected_images", "on_bad_image", "threads"}}
LONGEST = 1 << 20  # bytes of a recipe; a file of weights named by mistake is not read whole
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


def parse_recipe(text: str, overrides: Iterable[str] = (), *, origin: str = "recipe") -> Recipe:
    """TOML text and `key.path=value` overrides -> a checked Recipe; raises RecipeError naming the key and remedy."""
    try:
        values = tomllib.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{origin} is not valid TOML: {error}") from None
    _fill_in_older(values)
    pairs = list(overrides)
    for override in pairs:
        _apply_override(values, override)
    _choose_method(values, origin)
    _refuse_a_loss_that_is_not_read(values, pairs)
    fill_in(values)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        overridden = typed_keys(pairs)
        places = {key: line for key, line in _lines_of_keys(text).items() if key not in overridden}
        raise RecipeError("\n".join(f"{origin}: {_explained(e, places)}" for e in error.errors())) from None
    _check_together(recipe, origin)
    return recipe


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
    views = values.get("augmentation")
    of_simclr = isinstance(views, dict) and views.get("law") == "simclr"
    for key, value in keys.defaults_of(method).items():
        section, _, name = key.partition(".")
        if section == "augmentation" and of_simclr and name != "image_size":
            continue
        if section == "encoder" and _does_without(values.get("encoder"), name, value):
            continue
        table = values.setdefault(section, {})
        if isinstance(table, dict):
            table.setdefault(name, value)


def _does_without(encoder: Any, key: str, value: Any) -> bool:
    """Whether a method's usual value of a key is not for that network, which lacks the key or has weights that say it.

    Colors that a method hides are hidden from such a network too.
    """
    if not isinstance(encoder, dict) or encoder.get("name", "resnet") == "resnet":
        return False
    return key in OF_RESNETS or (bool(encoder.get("pretrained")) and value != "lightness")


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


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    section, _, name = key.strip().partition(".")
    if not equals:
        raise RecipeError(f"override {override!r} has no value; write it as key.path=value, e.g. training.epochs=20")
    keys = [k for k, *_ in documented_keys()]
    if key.strip() not in keys:
        raise RecipeError(f"unknown key {key.strip()!r} in override {override!r}{_did_you_mean(key.strip(), keys)}")
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


def typed_keys(overrides: Iterable[str]) -> set[str]:
    """The keys of overrides `key.path=value`."""
    return {override.partition("=")[0].strip() for override in overrides}


def typed_value(key: str, text: str) -> Any:
    """What was typed for a key, as the key's type wants it: for words 2024 and true are words, for whole numbers 1e3 is
    one. Other TOML is taken as such; what is none stays text, for the check to refuse.
    """
    kind = {name: kind for name, kind, _, _ in documented_keys()}.get(key, "")
    text = text.strip()
    value = _toml_value(text)
    if isinstance(value, str):
        return value
    if kind in ("bool", "bool | str") and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind in ("str", "bool | str") or kind.startswith('"'):
        return text
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


def _did_you_mean(key: str, keys: list[str]) -> str:
    name = key.rsplit(".", 1)[-1]
    name = _SYNONYMS.get(name, name)
    same_name = [k for k in dict.fromkeys(keys) if k.rsplit(".", 1)[-1] == name]
    same_section = [k for k in same_name if k.partition(".")[0] == key.partition(".")[0]]
    near = same_section or same_name or difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    if not near:
        last = {k.rsplit(".", 1)[-1]: k for k in keys}
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
        every_key = [k for k, *_ in documented_keys()]
        if loc[0] == "method" and key in every_key:
            owner = next(name for name, keys in METHODS.items() if loc[1] in keys.model_fields)
            chosen = error["loc"][1]
            return f'{key} is a key of method.name = "{owner}", not of "{chosen}"; leave it out{at}'
        if len(loc) == 1:
            sections = difflib.get_close_matches(key, list(Recipe.model_fields), n=1)
            hint = f"; did you mean [{sections[0]}]?" if sections else _did_you_mean(key, every_key)
            return f"unknown section or key {key!r}{hint}{at}"
        return f"unknown key {key!r}{_did_you_mean(key, every_key)}{at}"
    help_text = {k: text for k, _, _, text in documented_keys()}.get(key)
    if loc[0] == "method" and len(error["loc"]) > 2:  # keys of several methods may have one name
        help_text = METHODS[str(error["loc"][1])].model_fields[str(loc[1])].description
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
    try:
        architecture = recipe.architecture
    except ValueError as error:
        raise RecipeError(f"{origin}: encoder.{error}") from None
    problem = recipe.method.problem(recipe)
    if recipe.encoder.is_resnet:  # of other networks it is asked when they are measured, which takes seconds
        problem = problem or recipe.method.problem_of_network(recipe)
    problem = problem or _problem_of_start(recipe)
    if problem:
        raise RecipeError(f"{origin}: {problem}")
    _check_loss(recipe.loss, origin)
    if t.compile and t.activation_checkpointing:
        raise RecipeError(
            f"{origin}: training.compile and training.activation_checkpointing do not work together; switch one off"
        )
    if isinstance(architecture, Architecture) and architecture.channels(64) * 64 != recipe.encoder.width * 64 * 64:
        raise RecipeError(
            f"{origin}: encoder.width = {recipe.encoder.width} gives no whole number of channels; "
            "use a multiple of 1/64, e.g. 0.25"
        )
    try:
        _ = recipe.law
    except ValueError as error:
        raise RecipeError(f"{origin}: [augmentation] {error}") from None


def _problem_of_start(recipe: Recipe) -> str:
    """Why f cannot start from what is asked for, with the remedy; "" where it can."""
    e = recipe.encoder
    if e.pretrained and e.is_resnet:
        value = "true" if e.pretrained is True else f'"{e.pretrained}"'
        return (
            f'encoder.pretrained = {value} is for networks by name, encoder.name = "torchvision:resnet50"; the weights '
            'of a "resnet" come from a file of SimCLR+: training.init_from'
        )
    if e.pretrained == "":
        return 'encoder.pretrained = "" names no file; use true, false or a file'
    if e.pretrained is True and e.name.startswith("python:"):
        return (
            f'encoder.pretrained = true: no library has weights of encoder.name = "{e.name}"; give the file: '
            'encoder.pretrained = "FILE"'
        )
    if e.pretrained and recipe.training.init_from:
        return (
            f'encoder.pretrained and training.init_from = "{recipe.training.init_from}" both say which weights f '
            "starts from; leave one of them out"
        )
    if e.freeze_patch_embedding and e.is_resnet:
        return 'encoder.freeze_patch_embedding = true: a "resnet" has no patches; leave it out'
    return ""


def _check_loss(loss: Loss, origin: str) -> None:
    if loss.semi_hard and loss.name not in ("nt_logistic", "margin"):
        raise RecipeError(
            f'{origin}: loss.semi_hard = true means nothing to loss.name = "{loss.name}", which chooses no negatives; '
            'set it to false, or use "nt_logistic" or "margin"'
        )
