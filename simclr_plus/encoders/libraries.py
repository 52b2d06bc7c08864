"""Networks by name: how timm, torchvision and one's own functions build them, without a classifier.

A name may come from a file's header. So none of these reads or fetches weights, and of one's own only what says that it
gives a network is called: a class of nn.Module, or a function that is annotated to return one.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any, ClassVar

from torch import nn

from simclr_plus.errors import EnvironmentNotAbleError, NotFoundError, RecipeError

CLASSIFIERS = ("fc", "classifier", "heads", "head")  # torchvision's names of what comes after the features
PATCH_EMBEDDINGS = ("patch_embed", "patch_embedding", "conv_proj")  # parts of names


class Library:
    """What is asked of each library."""

    key: ClassVar[str]  # before the colon

    def create(self, name: str, options: Mapping[str, Any], image_size: int) -> nn.Module:
        """The network with new weights, [B, 3, S, S] -> pooled features; whatever the library raises."""
        raise NotImplementedError

    def size_option(self, name: str, options: Mapping[str, Any]) -> str:
        """The argument that says for which images it is built, which then have that side; "" where it takes any."""
        raise NotImplementedError

    def version(self) -> str:
        """The library and its version, "timm 1.0.26"; "" where it has none."""
        return f"{self.key} {metadata.version(self.key)}"

    def undecayed(self, network: nn.Module) -> Iterable[str]:
        """Parameters that the library itself keeps from decay, besides norms and biases."""
        return ()

    def checkpoint(self, network: nn.Module, on: bool) -> bool:
        """Switch the network's own activation checkpointing; False where it has none."""
        return not on


class Timm(Library):
    """PyTorch Image Models."""

    key = "timm"

    def create(self, name: str, options: Mapping[str, Any], image_size: int) -> nn.Module:
        """By timm.create_model."""
        size = {key: image_size} if (key := self.size_option(name, options)) else {}
        network: nn.Module = self.module().create_model(name, pretrained=False, num_classes=0, **size, **options)
        return network

    def size_option(self, name: str, options: Mapping[str, Any]) -> str:
        """img_size, of those that timm marks; not where the options speak of it."""
        spoken_of = options.keys() & {"img_size", "dynamic_img_size"}
        return "img_size" if self.config(name).get("fixed_input_size") and not spoken_of else ""

    def config(self, name: str) -> dict[str, Any]:
        """What timm says of a network and its weights, the usual ones without a tag; {} where it says nothing.

        Raises NotFoundError for a network or a tag that there is not.
        """
        timm = self.module()
        plain = name.partition(".")[0]
        if not timm.is_model(name):
            near = difflib.get_close_matches(plain, timm.list_models(), n=3, cutoff=0.6)
            hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() names them"
            raise NotFoundError(f"timm {timm.__version__} has no network {name!r}; {hint}")
        try:
            config = timm.models.get_pretrained_cfg(name)
        except RuntimeError:
            tags = ", ".join(timm.list_pretrained(f"{plain}.*")) or "none"
            raise NotFoundError(
                f"timm {timm.__version__} has no weights {name!r}; of that network it has {tags}"
            ) from None
        return {} if config is None else dict(config.to_dict())

    def undecayed(self, network: nn.Module) -> Iterable[str]:
        """As the network itself says."""
        says: Any = getattr(network, "no_weight_decay", None)
        return says() if callable(says) else ()

    def checkpoint(self, network: nn.Module, on: bool) -> bool:
        """By set_grad_checkpointing."""
        switch: Any = getattr(network, "set_grad_checkpointing", None)
        if switch is None:
            return not on
        try:
            switch(on)
        except AssertionError:  # so timm says that a network has none
            return not on
        return True

    def module(self) -> Any:
        """timm, or EnvironmentNotAbleError."""
        try:
            return importlib.import_module("timm")
        except ModuleNotFoundError:
            raise EnvironmentNotAbleError("networks of timm need timm: pip install 'simclr-plus[timm]'") from None


class Torchvision(Library):
    """torchvision's classifiers."""

    key = "torchvision"

    def create(self, name: str, options: Mapping[str, Any], image_size: int) -> nn.Module:
        """By torchvision.models.get_model, without the last layer of the classifier."""
        from torchvision import models

        names = models.list_models(module=models)
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
            hint = f"did you mean {' or '.join(near)}?" if near else "torchvision.models.list_models() names them"
            raise NotFoundError(f"torchvision has no classifier {name!r}; {hint}")
        key = self.size_option(name, options)
        size = {} if not key else {key: (image_size, image_size) if key == "input_size" else image_size}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the initial weights of two of them
            return without_classifier(models.get_model(name, weights=None, **size, **options))

    def size_option(self, name: str, options: Mapping[str, Any]) -> str:
        """Of its transformers with a table of positions."""
        key = "image_size" if name.startswith("vit_") else "input_size" if name.startswith("maxvit") else ""
        return "" if key in options else key


class Python(Library):
    """A function or class of one's own."""

    key = "python"

    def create(self, name: str, options: Mapping[str, Any], image_size: int) -> nn.Module:
        """By calling it with the options, and the image size where it takes that."""
        size = {key: image_size} if (key := self.size_option(name, options)) else {}
        network: nn.Module = self._function(name)(**size, **options)
        return network

    def size_option(self, name: str, options: Mapping[str, Any]) -> str:
        """image_size or img_size, where it has a parameter of that name."""
        parameters = inspect.signature(self._function(name)).parameters
        names = [key for key in ("image_size", "img_size") if key in parameters and key not in options]
        return names[0] if names else ""

    def version(self) -> str:
        """A file of one's own has none."""
        return ""

    def undecayed(self, network: nn.Module) -> Iterable[str]:
        """What the network says in timm's way."""
        return Timm().undecayed(network)

    def checkpoint(self, network: nn.Module, on: bool) -> bool:
        """In timm's way."""
        return Timm().checkpoint(network, on)

    def _function(self, name: str) -> Callable[..., nn.Module]:
        module_name, _, function_name = name.partition(":")
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:  # whatever the module does while it is imported
            why = str(error) or type(error).__name__
            raise NotFoundError(
                f'encoder.name = "python:{name}": {module_name} cannot be imported ({why}); install it, or put the '
                "folder that holds it into PYTHONPATH"
            ) from None
        function: Any = getattr(module, function_name, None)
        if function is None:
            raise NotFoundError(f'encoder.name = "python:{name}": {module_name} has no {function_name}')
        if not _gives_a_network(function):
            raise RecipeError(
                f'encoder.name = "python:{name}" is not called, for it does not say that it gives a network: annotate '
                f"it, def {function_name}(...) -> torch.nn.Module, or name a class of nn.Module"
            )
        return function  # type: ignore[no-any-return]


_ALL: dict[str, Library] = {library.key: library for library in (Timm(), Torchvision(), Python())}


def library_of(name: str) -> tuple[Library, str]:
    """The library that a whole name begins with, and the rest of it."""
    key, _, rest = name.partition(":")
    return _ALL[key], rest


def _gives_a_network(function: Any) -> bool:
    if inspect.isclass(function):
        return issubclass(function, nn.Module)
    try:
        result = typing.get_type_hints(function).get("return")
    except (NameError, TypeError, AttributeError):  # hints that cannot be resolved say nothing
        return False
    return inspect.isclass(result) and issubclass(result, nn.Module)


def without_classifier(network: nn.Module) -> nn.Module:
    """A classifier of torchvision without its last layer and the dropout before it; what else is there stays."""
    name = next((part for part in CLASSIFIERS if isinstance(getattr(network, part, None), nn.Module)), None)
    if name is None:
        return network
    if isinstance(getattr(network, "dropout", None), nn.Dropout):  # GoogLeNet and Inception have it beside their fc
        network.dropout = nn.Identity()
    classifier = getattr(network, name)
    layers = list(classifier.named_children()) if isinstance(classifier, nn.Sequential) else []
    last = next((i for i in reversed(range(len(layers))) if isinstance(layers[i][1], nn.Linear | nn.Conv2d)), None)
    if last is None:
        setattr(network, name, nn.Identity())
        return network
    setattr(classifier, layers[last][0], nn.Identity())
    for key, layer in reversed(layers[:last]):
        if not isinstance(layer, nn.Dropout):
            break
        setattr(classifier, key, nn.Identity())
    return network
