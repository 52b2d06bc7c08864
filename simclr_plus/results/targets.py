"""From what a user names to what is evaluated: weights, run, network, labelled images, device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from simclr_plus.datasets.identity import listing_digest
from simclr_plus.datasets.images import TEST, TRAIN, Images, data_named, open_folder, open_images, require_same_classes
from simclr_plus.distributed import from_main, require_agreement, start, world_size
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.errors import CheckpointError, NotFoundError, RecipeError
from simclr_plus.evaluators.subjects import PIXELS_SIDE, RawPixels, Subject, subjects
from simclr_plus.features.extraction import left_out, listed
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.recipe.keys import Data
from simclr_plus.recipe.paths import whole_path
from simclr_plus.runs.folder import Run, find_run
from simclr_plus.runs.result_folders import find_results, folder_of, noted, run_of
from simclr_plus.runs.result_names import plain
from simclr_plus.weights.encoder_files import load_encoder
from simclr_plus.weights.export import recipe_of
from simclr_plus.weights.head_files import beside, load_head
from simclr_plus.weights.tensor_files import read_header


def weights_of(target: str, runs: Path) -> tuple[Path, Run | None]:
    """The file that a run, a checkpoint, an encoder file or a folder of results stands for, and the run it is of."""
    if Path(target).is_file():
        return Path(target), run_of(Path(target))
    try:
        run = find_run(target, runs)
    except NotFoundError as error:
        with suppress(NotFoundError):
            weights = Path(str(noted(find_results(target, runs).path).get("weights", "")))
            if weights.is_file():
                return weights, run_of(weights)
        raise NotFoundError(f"{error}. {target!r} is no file either") from None
    return run.latest_checkpoint(), run


def projection_head_of(file: Path) -> SimCLRProjectionHead:
    """The projection head in a checkpoint or a head file, or in the file beside an encoder; else CheckpointError."""
    file_beside = beside(file, "projection")
    try:
        head = load_head(file_beside if file_beside.is_file() else file, "projection")
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; this needs the projection head: name a run or one of its checkpoints (few-labels takes --head)"
        ) from None
    assert isinstance(head, SimCLRProjectionHead)
    return head


def best_device() -> torch.device:
    """CUDA where there is one; under torchrun this process joins the others and takes its own."""
    return start("auto")


def require_one_evaluation(digest: str, *images: Images) -> None:
    """All processes evaluate the same encoder on the same images; else SimclrPlusError on all of them."""
    if world_size() > 1:
        described = [f"{len(part)}, digest {listing_digest(part)[:8]}" for part in images]
        facts: dict[str, object] = {"encoder": digest, "images by part": "; ".join(described)}
        require_agreement(facts, "Give every process the same weights and a folder of the same images")


def told_left_out(parts: Sequence[Images], device: torch.device, say: Callable[[str], None]) -> list[str]:
    """Files that could not be read and were left out, of all processes, which ask together; said to people too."""
    files = left_out(parts, device)
    if files:
        say(f"{len(files)} images could not be read and were left out: {listed(files)}")
    return files


def trained_on_these(trained_on: Data, data: str) -> bool:
    """Whether --data, however it is written, names what the encoder was trained on."""
    evaluated_on = data_named(data, trained_on) if data else trained_on
    if evaluated_on.name != trained_on.name:
        return False
    return evaluated_on.name != "folder" or whole_path(evaluated_on.root, "--data") == whole_path(
        trained_on.root, "data.root"
    )


def labelled_images(data: Data, other: str, test: str, *, skip_bad: bool = False) -> tuple[Images, Images]:
    """Training and test images: the recipe's, a data set by name, one folder split in two, or two folders."""
    if test:
        train, held_out = open_folder(Path(other or data.root), data), open_folder(Path(test), data)
    else:
        if other:
            data = data_named(other, data)
        train, held_out = open_images(data, TRAIN), open_images(data, TEST)
    require_same_classes(train, held_out)
    if skip_bad:
        train, held_out = replace(train, skip_bad=True), replace(held_out, skip_bad=True)
    return train, held_out


@dataclass(frozen=True)
class Target:
    """What is evaluated, its digest, the folder that takes the results, and what files' names and the report say."""

    name: str
    subject: Subject
    digest: str
    run: Run
    file: Path | None
    step: int | None
    title: str
    data: Data | None
    image_size: int = 0  # of the images shown; 0: that of the training
    normalize: str = ""  # as asked for
    choices: tuple[str, ...] = ()  # what its file does not say and was taken

    @property
    def stem(self) -> str:
        """In the names of result files."""
        return self.file.stem if self.file else plain(self.name)

    @property
    def weights(self) -> str:
        """The file, or the name of another library's network."""
        return str(self.file or self.name)

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked for beyond what its file says, as options are named."""
        options = {"image_size": self.image_size, "normalize": self.normalize}
        return {key: value for key, value in options.items() if value}

    def labelled_images(self, data: str, test: str, *, skip_bad: bool = False) -> tuple[Images, Images]:
        """Training and test images: what is named, or else what the encoder was trained on; read as its images were."""
        if self.data is None and not data:
            raise RecipeError(f"{self.name} does not say what it was trained on: name a data set or folder with --data")
        return labelled_images(self.data or Data(), data, test, skip_bad=skip_bad)

    def subjects(self, *, baselines: bool, native_size: int = 0, pixels_side: int = PIXELS_SIDE) -> list[Subject]:
        """The encoder, and on request raw pixels and the same network with random weights (evaluators/subjects.py)."""
        if not baselines:
            return [self.subject]
        encoder, law = self.subject.encoder, self.subject.law
        assert isinstance(encoder, Encoder)
        _, *compared = subjects(encoder, law, baselines=True, native_size=native_size, pixels_side=pixels_side)
        return [self.subject, *compared]  # the one whose digest, seconds of a wide network, is known

    def networks(self, *, baselines: bool) -> list[Subject]:
        """Those of the subjects that have layers: the encoder, and on request the one with random weights."""
        return [each for each in self.subjects(baselines=baselines) if not isinstance(each.encoder, RawPixels)]

    def projection_head(self, file: str = "") -> SimCLRProjectionHead:
        """That of the target, or of a file in its place; else RecipeError or CheckpointError."""
        source = Path(file) if file else self.file
        if source is None:
            raise RecipeError(f"{self.name} has no projection head, and this needs one (few-labels takes --head FILE)")
        return projection_head_of(source)


def open_target(target: str, runs: Path, image_size: int = 0, normalize: str = "") -> Target:
    """A run, checkpoint or encoder file, or a network of torchvision or timm; runs/result_folders.py says where to."""
    from simclr_plus.evaluators.foreign_encoders import foreign_network, is_foreign  # they read the importers

    if is_foreign(target):
        network = foreign_network(target, normalize)
        folder = folder_of(target, None, network.subject.digest, runs)
        opened = Target(target, network.subject, network.subject.digest, folder, None, None, target, None)
        opened = replace(opened, normalize=normalize, choices=network.choices)
    else:
        if normalize:
            raise RecipeError(f"--normalize {normalize}: {target} itself says how its images are normalised")
        file = from_main(weights_of(target, runs)[0])  # of a run one checkpoint for all processes
        encoder, recipe, header = load_encoder(file), recipe_of(file), read_header(file)
        subject = Subject("encoder", encoder, recipe.law)
        opened = Target(
            target,
            subject,
            subject.digest,
            folder_of(str(file), file, subject.digest, runs),
            file,
            int(header["step"]) if "step" in header else None,
            encoder.title,
            recipe.data if "recipe" in header else None,
        )
    if image_size:
        subject = opened.subject
        resized = replace(subject, law=replace(subject.law, size=image_size))
        opened = replace(opened, subject=resized, image_size=image_size)
    return opened
