"""How images are normalised for the weights that f starts from: as the recipe, the file or the library says. No torch.

PyTorch and the library are loaded where only the library knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from simclr_plus.encoders.architecture import Architecture
from simclr_plus.encoders.foreign_architecture import ForeignArchitecture
from simclr_plus.errors import CheckpointError, NotFoundError, RecipeError
from simclr_plus.recipe.reading import parse_recipe
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.weights.file_header import read_file_header
from simclr_plus.weights.file_kinds import is_safetensors

Three = tuple[float, float, float]


@dataclass(frozen=True)
class Normalisation:
    """Mean and deviation of images in [0, 1], and who says so: a clause."""

    mean: Three
    std: Three
    said: str


def with_normalisation(recipe: Recipe) -> Recipe:
    """The recipe with the mean and std that the weights expect which f starts from; as it is where it tells both.

    Raises NotFoundError where the file, or the network's weights, are unknown; RecipeError where nobody says.
    """
    if not recipe.normalisation_is_open:
        return recipe
    normalisation = normalisation_of(recipe)
    expected = {"mean": normalisation.mean, "std": normalisation.std}
    missing = {key: value for key, value in expected.items() if key not in recipe.encoder.model_fields_set}
    return recipe.model_copy(update={"encoder": recipe.encoder.model_copy(update=missing)})


def about_normalisation(recipe: Recipe) -> list[str]:
    """What `with_normalisation` takes, in a sentence; [] where the recipe tells it."""
    if not recipe.normalisation_is_open:
        return []
    normalisation = normalisation_of(recipe)
    numbers = listed((*normalisation.mean, *normalisation.std))
    return [f"images are normalised by mean and std {numbers}, {normalisation.said}"]


def normalisation_of(recipe: Recipe) -> Normalisation:
    """What the weights of encoder.pretrained expect; raises as `with_normalisation`."""
    name, file = recipe.encoder.name, recipe.encoder.pretrained
    if isinstance(file, str):
        path = Path(file)
        if not path.is_file():
            raise NotFoundError(f"encoder.pretrained = {file!r}: there is no such file; name one of weights")
        described = network_in(path, name)
        if described is not None:
            return Normalisation(_three(described.mean), _three(described.std), f"as {path.name} says")
        if name.startswith("python:"):
            raise RecipeError(
                f"encoder.pretrained = {file!r} does not say how its images were normalised; give encoder.mean and "
                "encoder.std, [0, 0, 0] and [1, 1, 1] where they were not"
            )
    from simclr_plus.importers.library_weights import library_weights  # PyTorch and the library are loaded here

    weights = library_weights(name)
    said = f"as the weights of {name} expect it"
    if isinstance(file, str):
        said = (
            f"as the library's own weights of {name} expect it, for {Path(file).name} does not say how; give "
            "encoder.mean and encoder.std where its training did otherwise"
        )
    return Normalisation(weights.mean, weights.std, said)


def network_in(path: Path, name: str) -> Architecture | ForeignArchitecture | None:
    """What a file of SimCLR+ says of the network in it, to be one by that name; None for a file that says nothing.

    Raises CheckpointError for another network.
    """
    header = read_file_header(path).metadata if is_safetensors(path) else {}
    form = header.get("format", "")
    if not form.startswith("simclr-plus"):
        return None
    try:
        if "architecture" in header:
            spec = json.loads(header["architecture"])
        else:
            spec = parse_recipe(header["recipe"], origin=f"recipe in {path}").network
        spec = spec["encoder"] if spec.get("family") == "patches" else spec
        family = spec.pop("family", "resnet")
        kinds: dict[str, type[Architecture | ForeignArchitecture]]
        kinds = {"resnet": Architecture, "foreign": ForeignArchitecture}
        network = kinds[family](**spec) if family in kinds else None
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} describes an encoder that this version cannot build: {error}") from None
    _require_network(network, name, path)
    return network


def spoken(name: str) -> str:
    """A network's whole name in a sentence: "timm's resnet18"."""
    library, _, rest = name.partition(":")
    return name if library == "python" else f"{library}'s {rest}"


def listed(numbers: Iterable[float]) -> str:
    """Numbers in a sentence."""
    return ", ".join(f"{number:g}" for number in numbers)


def _require_network(network: Architecture | ForeignArchitecture | None, name: str, path: Path) -> None:
    """Tags of weights do not make another network; a plain ResNet is torchvision's and timm's."""
    if isinstance(network, ForeignArchitecture):
        if _without_tag(network.name) != _without_tag(name):
            raise CheckpointError(f"{path} holds {network.title}, not {spoken(name)}; set encoder.name to match")
        return
    title = "another kind of network"
    if network is not None:
        plain = Architecture(
            network.depth, network.width, mean=network.mean, std=network.std, se_ratio=network.se_ratio
        )
        if network == plain and not name.startswith("python:"):
            return
        title = f"{network.title}, flavor {network.flavor}"
    raise CheckpointError(
        f"{path} is no network of {name.partition(':')[0]}'s ({title}); SimCLR+ opens it by its own name: evaluate it "
        "so, or start from it with training.init_from"
    )


def _without_tag(name: str) -> str:
    return name if name.startswith("python:") else name.partition(".")[0]


def _three(values: tuple[float, ...]) -> Three:
    a, b, c = values
    return float(a), float(b), float(c)
