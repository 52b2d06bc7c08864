"""A recipe being edited: its keys, what was changed, whether it holds, what it comes to. No Textual, no torch."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from simclr_plus.errors import RecipeError
from simclr_plus.recipe.method_keys import METHODS
from simclr_plus.recipe.plan import Plan, Schedule, known_size, make_plan, make_schedule
from simclr_plus.recipe.reading import parse_recipe, recipe_text, shipped_recipes, typed_value
from simclr_plus.recipe.recipe import Recipe, documented_keys
from simclr_plus.runs.folder import default_name, run_name_problem

from ..charts.ticks import short, size
from .commands import dry_run_words, override, run_words, toml_value
from .dry_run import Answers, Question

SECTIONS = ("training", "encoder", "augmentation", "about")  # a file with one of them is a recipe


@dataclass(frozen=True)
class Key:
    """A line of the form: dotted name, type, default, what it means, and the words to choose from if there are any."""

    name: str
    type: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()


def _choices(kind: str) -> tuple[str, ...]:
    if kind in ("bool", "bool | str"):  # of the second any word may be typed too
        return ("false", "true")
    return tuple(part.strip('"') for part in kind.split(" | ")) if " | " in kind or kind.startswith('"') else ()


def _documented() -> tuple[dict[str, Key], dict[str, dict[str, Key]]]:
    """The keys of every recipe, and those of each method, whose names several may have."""
    common: dict[str, Key] = {}
    of_method: dict[str, dict[str, Key]] = {name: {} for name in METHODS}
    for name, kind, default, text in documented_keys():
        method, _, meaning = text.partition(": ")
        if name.startswith("method.") and name != "method.name":
            of_method[method][name] = Key(name, kind, default, meaning, _choices(kind))
        elif not name.startswith("about."):
            common[name] = Key(name, kind, default, text, _choices(kind))
    return common, of_method


_COMMON, _OF_METHOD = _documented()


def keys_of(method: str) -> dict[str, Key]:
    """The keys of a recipe of that method, its own where the method is chosen; `method.name` tells what it is."""
    keys: dict[str, Key] = {}
    for name, key in _COMMON.items():
        if name == "method.name":
            help_text = f"what is trained; {method}: {METHODS[method].about()}"
            keys[name] = replace(key, type=f"one of {len(METHODS)}", help=help_text)
            keys |= _OF_METHOD[method]
        else:
            keys[name] = key
    return keys


KEYS = _COMMON.keys() | {name for keys in _OF_METHOD.values() for name in keys}  # names that may be typed
LAUNCH = {
    key.name: key
    for key in (
        Key("start.name", "str", "", "name of the run, a folder in the folder of the runs"),
        Key("start.where", "this machine | SLURM", "this machine", "where it trains", ("this machine", "SLURM")),
        Key("start.processes", "int | gpu", "1", 'processes on each machine: a number, or "gpu" for one a GPU'),
        Key("start.restarts", "int", "0", "this machine: times to start again after a crash, from the last checkpoint"),
        Key("start.nodes", "int", "1", "SLURM: machines"),
        Key("start.gpus", "int", "0", "SLURM: GPUs of each machine, a process for each unless start.processes is more"),
        Key("start.time", "str", "", "SLURM: time limit, e.g. 1-00:00:00"),
        Key("start.partition", "str", "", "SLURM: partition"),
        Key("start.account", "str", "", "SLURM: account"),
        Key("start.memory", "str", "", "SLURM: memory of each machine, e.g. 64G"),
    )
}


@dataclass
class Form:
    """A recipe file and what is changed in it. `overrides` and `launch` hold words as they were typed.

    A network by name is measured by another process: `question` is what to ask it, and `answers` what it said.
    """

    name: str  # as the command line takes it: a shipped name or a path
    text: str
    runs: Path = Path("runs")
    overrides: dict[str, str] = field(default_factory=dict)
    launch: dict[str, str] = field(default_factory=dict)
    answers: Answers = field(default_factory=Answers)  # of networks by name

    def __post_init__(self) -> None:
        self.base = parse_recipe(self.text, origin=self.name)
        self.launch = {key.name: str(key.default) for key in LAUNCH.values()} | self.launch
        self.launch["start.name"] = self.launch["start.name"] or default_name(self.name)

    def recipe(self) -> Recipe:
        """The recipe as edited; raises RecipeError."""
        return self._parsed(self.overrides)

    def change(self, key: str, text: str) -> None:
        """Set a key to what was typed; raises RecipeError, naming the remedy, and leaves everything as it was."""
        problem = self.problem(key, text)
        if problem:
            raise RecipeError(problem)
        if key in LAUNCH:
            self.launch[key] = text.strip()
            return
        self.overrides = self._with(key, text)
        if key in KEYS and self.base.value_of(key) == self.recipe().value_of(key):
            self.overrides.pop(key, None)

    def _with(self, key: str, text: str) -> dict[str, str]:
        """The overrides with one more; another method takes the keys of the one before along."""
        kept = {k: v for k, v in self.overrides.items() if key != "method.name" or not k.startswith("method.")}
        return kept | {key: text.strip()}

    def forget(self, key: str) -> None:
        """Set a key back to the recipe's value."""
        self.overrides.pop(key, None)
        if key in LAUNCH and key != "start.name":
            self.launch[key] = str(LAUNCH[key].default)

    def problem(self, key: str, text: str) -> str:
        """Why a value cannot stand for a key; empty where it can."""
        if key in LAUNCH:
            return self._launch_problem(key, text.strip())
        try:
            recipe = self._parsed(self._with(key, text))
            if key in ("data.root", "training.init_from", "encoder.pretrained"):
                recipe.with_whole_paths()
        except RecipeError as error:
            return f"{_without_origin(str(error), self.name)}{_did_you_mean(key, text.strip())}"
        return ""

    def keys(self) -> dict[str, Key]:
        """What may be changed with the method that is chosen, the start of the run besides."""
        return {**LAUNCH, **keys_of(self.recipe().method.name)}

    def methods(self) -> list[tuple[str, str]]:
        """Each method's name, and what it is or why it cannot be chosen as the recipe stands."""
        problems = {name: self.problem("method.name", name) for name in METHODS}
        return [
            (name, f"needs a change: {problems[name]}" if problems[name] else re.sub(r" \([^)]*\)", "", keys.about()))
            for name, keys in METHODS.items()
        ]

    def value(self, key: str) -> str:
        """The value of a key as it is typed."""
        if key in LAUNCH:
            return self.launch[key]
        try:
            return _typed(self.recipe(), key)
        except RecipeError:
            return self.overrides.get(key, _typed(self.base, key))

    def changes(self) -> list[tuple[str, str, str]]:
        """(key, the recipe's value, the value now) of every key that differs from the recipe, its followers too."""
        recipe = self.recipe()
        names = {**keys_of(self.base.method.name), **keys_of(recipe.method.name)}
        pairs = [(key, _typed(self.base, key), _typed(recipe, key)) for key in names]
        return [(key, was, now) for key, was, now in pairs if was != now]

    def schedule(self) -> Schedule | None:
        """Its steps and rates; None where the number of images is not known before the folder is read."""
        recipe = self.recipe()
        images = known_size(recipe)
        if not images:
            return None
        return make_schedule(recipe, min(images, recipe.data.limit or images), self._world())

    def plan(self) -> Plan | None:
        """What it comes to; None where images are not known, or a network by name has not been measured."""
        recipe, schedule = self.recipe(), self.schedule()
        if recipe.encoder.is_resnet:
            return None if schedule is None else make_plan(recipe, schedule.images, schedule.processes)
        answer = self.answers.plans.get(self.question())
        return None if answer is None else answer.plan if schedule is None else replace(answer.plan, **vars(schedule))

    def question(self) -> Question:
        """What to ask of a network by name; () of a ResNet, whose figures have a closed form."""
        recipe = self.recipe()
        if recipe.encoder.is_resnet:
            return ()
        typed = self._typed()
        if self._images_are_unknown(recipe):
            typed["data.expected_images"] = 1
        return self.text, *dry_run_words(self.name, typed, self._world())

    def _images_are_unknown(self, recipe: Recipe) -> bool:
        """Whether nobody can count them: there is no folder yet."""
        return not known_size(recipe) and not Path(recipe.data.root).is_dir()

    def _world(self) -> int:
        """Processes on all machines, as `run` counts them; "gpu" is 1 here, for who knows how many there will be."""
        processes = self.launch["start.processes"]
        if self.launch["start.where"] != "SLURM":
            return int(processes) if processes.isdigit() else 1
        each = int(self.launch["start.gpus"]) or 1 if processes in ("1", "gpu") else int(processes)
        return each * int(self.launch["start.nodes"])

    def comes_to(self) -> list[tuple[str, str]]:
        """The plan in words, with what is doubtful about it."""
        recipe, schedule, plan = self.recipe(), self.schedule(), self.plan()
        rows = [("encoder", recipe.encoder_title)]
        if recipe.method.name != "simclr":
            pixels = f"{recipe.method.pixels(recipe):.3g}"
            rows.append(("through f", f"{pixels} view{'' if pixels == '1' else 's'} of each image"))
        if plan is None and not recipe.encoder.is_resnet:
            refusal = self.answers.refusals.get(self.question())
            rows.append(("error", refusal) if refusal else ("network", "measuring it ..."))
        rows += _of_network(recipe, plan)
        uncounted = self._images_are_unknown(recipe)
        rows += _of_schedule(recipe, schedule if uncounted or plan is None else plan)
        if plan is not None and not uncounted:
            rows.append(("memory", f"{size(plan.memory)} a process (estimate)"))
            rows += [("banks, queues", f"{size(plan.memory_beside)} of it")] if plan.memory_beside else []
        answer = self.answers.plans.get(self.question())
        notes = dict.fromkeys([*recipe.doubts(self.overrides), *(answer.notes if answer is not None else ())])
        return [*rows, *(("note", note) for note in notes)]

    def words(self) -> list[str]:
        """The command that starts it, after `simclr-plus`."""
        launch = {key.removeprefix("start."): text for key, text in self.launch.items()}
        return run_words(self.name, self._typed(), launch, self.runs)

    def _typed(self) -> dict[str, Any]:
        return {key: typed_value(key, text) for key, text in self._ordered(self.overrides).items()}

    def save_as(self, path: Path) -> None:
        """Write the edited recipe as a file of one's own; raises RecipeError where the file exists."""
        if path.suffix != ".toml":
            raise RecipeError(f"{path}: a recipe's name ends in .toml")
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(self.recipe().to_toml())
        except FileExistsError:
            raise RecipeError(f"{path} exists; choose another name") from None
        except OSError as error:
            raise RecipeError(f"{path} cannot be written: {error}") from None

    def _parsed(self, overrides: dict[str, str]) -> Recipe:
        typed = [override(key, typed_value(key, text)) for key, text in self._ordered(overrides).items()]
        return parse_recipe(self.text, typed, origin=self.name)

    def _ordered(self, overrides: dict[str, str]) -> dict[str, str]:
        """The variant first: it sets other keys."""
        return dict(sorted(overrides.items(), key=lambda pair: pair[0] != "variant"))

    def _launch_problem(self, key: str, text: str) -> str:
        known = LAUNCH[key]
        if key == "start.name":
            problem = run_name_problem(text)
            if problem:
                return f"start.name: {problem}"
            return (
                f"start.name = {text!r}: {self.runs / text} exists; choose another"
                if (self.runs / text).exists()
                else ""
            )
        if known.choices:
            return "" if text in known.choices else f"{key} = {text!r}: use {' or '.join(known.choices)}"
        if known.type.startswith("int"):
            smallest = 0 if known.default == "0" else 1
            if not (text.isdigit() and int(text) >= smallest) and not (text == "gpu" and "gpu" in known.type):
                return f"{key} = {text!r}: a whole number, {smallest} or more{' or gpu' if 'gpu' in known.type else ''}"
        return ""


def _of_network(recipe: Recipe, plan: Plan | None) -> Iterator[tuple[str, str]]:
    if plan is not None:
        beside = " with the head" if recipe.method.name == "simclr" else " with what stands beside f"
        millions = (plan.encoder_parameters + plan.head_parameters) / 1e6
        yield "parameters", f"{millions:.1f} M{beside if plan.head_parameters else ''}"
        yield "multiply-adds", f"{short(plan.multiply_adds)} a view"


def _of_schedule(recipe: Recipe, schedule: Schedule | None) -> Iterator[tuple[str, str]]:
    if schedule is None:
        yield "images", f"counted at the start, in {recipe.data.root}"
        yield "global batch", f"{recipe.training.batch_size:,}"
        return
    yield "images", f"{schedule.images:,}"
    yield "global batch", f"{schedule.global_batch:,}, {schedule.batch_per_process:,} a process"
    yield "steps", f"{schedule.total_steps:,}, warm-up {schedule.warmup_steps:,}"
    yield "peak rate", f"{short(schedule.peak_learning_rate)} ({recipe.optimizer.name})"


def found_recipes(folder: Path = Path()) -> list[tuple[str, Path]]:
    """(name for the command line, file): the user's own recipes in a folder first, then those that are shipped."""
    try:
        files = sorted(folder.glob("*.toml"))
    except OSError:  # the folder is gone
        files = []
    own_files = [(str(path), path) for path in files if _is_recipe(path)]
    return [*own_files, *((path.stem, path) for path in shipped_recipes())]


def _is_recipe(path: Path) -> bool:
    """Whether it holds what a recipe holds; one that TOML cannot read is told by its headings, so that it is listed."""
    if not path.is_file():  # a pipe of that name would be waited for
        return False
    try:
        text = recipe_text(path)
    except RecipeError:  # of another encoding, which the screen then tells
        text = _beginning(path)
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError):
        return re.search(rf"^\ufeff?\s*\[({'|'.join(SECTIONS)})\]", text, re.MULTILINE) is not None
    return any(isinstance(values.get(section), dict) for section in SECTIONS)


def _beginning(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(1 << 16).decode(errors="replace")
    except OSError:
        return ""


def _typed(recipe: Recipe, key: str) -> str:
    """The value of a key as it is typed; empty for one of another method."""
    value = recipe.value_of(key)
    return "" if value is None else toml_value(value)


def _shown(recipe: Recipe, key: str) -> str:
    """The value of a key, or in words who tells it."""
    section, _, name = key.partition(".")
    told_by_weights = section == "encoder" and name in {"mean", "std"} - recipe.encoder.model_fields_set
    return "the weights'" if told_by_weights and recipe.normalisation_is_open else _typed(recipe, key)


def _did_you_mean(key: str, text: str) -> str:
    """For a word that is none of the choices."""
    choices = {choice for keys in (_COMMON, *_OF_METHOD.values()) if key in keys for choice in keys[key].choices}
    word = text.strip('"')
    near = [] if word in choices else difflib.get_close_matches(word, sorted(choices), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _without_origin(message: str, name: str) -> str:
    return message.removeprefix(f"{name}: ").splitlines()[0]


def rows_of(form: Form, wanted: str = "", *, changed_only: bool = False) -> Iterator[tuple[Key, str, bool]]:
    """(key, value, whether it was changed) for the keys whose name or help holds every word of `wanted`."""
    recipe, recipe_keys = form.recipe(), {key for key, _, _ in form.changes()}
    slurm = form.launch["start.where"] == "SLURM"
    for key in form.keys().values():
        if (key.help.startswith("SLURM") and not slurm) or (slurm and key.name == "start.restarts"):
            continue
        if key.name in KEYS and not recipe.reads(key.name):
            continue
        text = f"{key.name} {key.help} {' '.join(key.choices)}".lower()
        launch = key.name in LAUNCH and key.name != "start.name" and form.launch[key.name] != str(key.default)
        changed = key.name in recipe_keys or launch
        if all(word in text for word in wanted.lower().split()) and (changed or not changed_only):
            yield key, form.launch[key.name] if key.name in LAUNCH else _shown(recipe, key.name), changed
