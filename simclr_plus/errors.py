"""What can go wrong through no fault of the program, each with its exit code.

A message names the key or file, the value and the remedy; the command line prints it without a traceback.
"""


class SimclrPlusError(Exception):
    """A training or an operation failed (exit code 1)."""

    exit_code = 1


class RecipeError(SimclrPlusError):
    """A recipe, an override or an argument is wrong (exit code 2)."""

    exit_code = 2


class ImageSizeError(RecipeError):
    """A network does not take images of a size; whoever knows which keys decide that size names them."""


class NotFoundError(SimclrPlusError):
    """A run, recipe, checkpoint or folder does not exist (exit code 3)."""

    exit_code = 3


class EnvironmentNotAbleError(SimclrPlusError):
    """This machine cannot do it: no such device, no space, a missing extra (exit code 4)."""

    exit_code = 4


class AnotherProcessError(SimclrPlusError):
    """Another process of the run failed, and this one ends with it; the cause is the other's."""


class UnreadableImageError(SimclrPlusError):
    """A file is no image that can be decoded."""


class NotFiniteError(SimclrPlusError):
    """Features, scores or a loss are no numbers any more (NaN or infinite)."""


class UnlabelledError(SimclrPlusError):
    """Images have no labels where labels are needed."""


class CheckpointError(SimclrPlusError):
    """A checkpoint or an encoder file is damaged, foreign or of another network."""
