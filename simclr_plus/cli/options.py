"""Arguments that verbs of the command line share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simclr_plus.errors import RecipeError, UnreadableImageError

if TYPE_CHECKING:
    from simclr_plus.launch.batch_scripts import Allocation

RecipeName = Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped recipe.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value, as many as you like.")]
Target = Annotated[str, typer.Argument(help="A run, a checkpoint, or an encoder file.")]
AnyTarget = Annotated[
    str, typer.Argument(help="A run, a checkpoint, an encoder file, torchvision:NAME[@FILE] or timm:NAME.")
]
ImageSize = Annotated[int, typer.Option(min=0, help="Side of the images shown; 0: that of the training.")]
Normalize = Annotated[
    str,
    typer.Option(
        help="torchvision:NAME@FILE: how its images were normalised, where FILE does not say: "
        '"imagenet", "none", or six numbers (mean, std).'
    ),
]
RunName = Annotated[str, typer.Argument(help="A run: name, unique prefix, path, or latest.")]
RunsFolder = Annotated[Path, typer.Option("--runs", help="Folder of the runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out, and say which.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it comes to; start nothing.")]
TimeLimit = Annotated[str, typer.Option("--time", help="SLURM: time limit, e.g. 1-00:00:00.")]
Partition = Annotated[str, typer.Option(help="SLURM: partition.")]
Account = Annotated[str, typer.Option(help="SLURM: account.")]
Memory = Annotated[str, typer.Option(help="SLURM: memory of each node, e.g. 64G.")]
Sbatch = Annotated[list[str] | None, typer.Option(help="SLURM: a further option of sbatch; as many as you like.")]
RUNS = Path("runs")


@contextmanager
def offering_skip_bad(skip_bad: bool) -> Iterator[None]:
    """For a verb with --skip-bad: an image that cannot be read ends it with that remedy."""
    try:
        yield
    except UnreadableImageError as error:
        remedy = "" if skip_bad else "; leave such images out with --skip-bad"
        raise UnreadableImageError(f"{error}{remedy}") from None


def allocation_of(
    slurm: bool,
    *,
    processes: int,
    nodes: str = "1",
    gpus: int,
    cpus: int,
    time_limit: str,
    partition: str,
    account: str,
    memory: str,
    sbatch: list[str] | None,
) -> Allocation | None:
    """What is asked of SLURM; None without --slurm, where its options are a mistake."""
    from simclr_plus.launch.batch_scripts import Allocation

    if not slurm:
        if gpus or cpus or time_limit or partition or account or memory or sbatch:
            raise RecipeError("--gpus, --cpus, --time, --partition, --account, --memory and --sbatch go with --slurm")
        return None
    return Allocation(
        int(nodes), processes, gpus, cpus, time_limit, partition, account, memory, extra=tuple(sbatch or ())
    )
