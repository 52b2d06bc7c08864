"""What one sees first of the command line: the commands in groups, in the order of use; where to begin; versions."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

GROUPS = {
    "Start": ("demo", "tui", "recipes", "preview", "run", "resume", "stop"),
    "Watch": ("ps", "show", "logs", "compare"),
    "Evaluate": ("evaluate", "report", "study"),
    "Weights": ("export", "embed", "import", "verify"),
    "Machine": ("doctor", "bench", "clean"),
}
BEGIN = (
    ("simclr-plus demo", "learn from images that ship with it; see what the features are worth"),
    ("simclr-plus tui", "choose a recipe, start runs, watch and compare them"),
    ("simclr-plus run folder data.root=PHOTOS", "learn from a folder of your own images"),
)


class GroupedCommands(TyperGroup):
    """Its help shows the commands under the headings of GROUPS."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names in the order of GROUPS."""
        return [name for names in GROUPS.values() for name in names]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, which knows its heading."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            heading = next(heading for heading, names in GROUPS.items() if cmd_name in names)
            command.rich_help_panel = heading  # type: ignore[attr-defined]
        return command


def _print_versions(asked: bool) -> None:
    if not asked:
        return
    from importlib.metadata import version

    import torch

    gpus = torch.cuda.device_count()
    cuda = f"CUDA {torch.version.cuda}, {gpus or 'no'} GPU{'' if gpus == 1 else 's'} here"
    print(f"simclr-plus {version('simclr-plus')}")
    print(f"torch {torch.__version__} ({cuda if torch.version.cuda else 'without CUDA'})")
    print(f"lightly {version('lightly')}")
    raise typer.Exit


def begin(
    ctx: typer.Context,
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_versions, is_eager=True, help="Versions of this, PyTorch and Lightly."
        ),
    ] = False,
) -> None:
    """SimCLR as its authors ran it: pretrain, evaluate, export."""
    if ctx.invoked_subcommand is None:
        width = max(len(command) for command, _ in BEGIN)
        print("SimCLR as its authors ran it. Begin with one of:\n")
        for command, what in BEGIN:
            print(f"  {command:<{width}}  {what}")
        print("\nAll commands: simclr-plus --help")
