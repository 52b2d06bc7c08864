"""The law of a view: what is drawn, from which range, with which probability. Plain numbers, no torch.

Every value is the authors' (tf2/data_util.py); the paper's Appendix A describes the same law.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

RESIZE_METHODS = ("bicubic", "bicubic_legacy")
BRIGHTNESS_LAWS = ("multiplicative", "additive")
GRAY_LAWS = ("luma", "mean")
BRANCHES = ("both", "first")
OPERATIONS = (
    *("crop", "cutout", "color", "sobel", "noise", "blur", "rotate"),  # the paper's Figure 5
    *("equalize", "solarize", "motion_blur", "autoaugment"),  # its Tables B.2 and 1
)
MAX_STRENGTH = 1.25  # beyond it 1 - 0.8 strength, the smallest contrast and saturation factor, would be negative


@dataclass(frozen=True)
class ViewLaw:
    """How the views of an image are made. Probabilities of 0 switch an operation off.

    size: side of the square view in pixels. brightness, contrast, saturation: largest change at the given strength,
    as a factor (or an offset in [0, 1] units with the additive brightness law); hue: in turns.
    min_scale: smallest crop as a share of the image's area. blur_sigma_group: 0 draws sigma for each image (the
    paper's words), n > 0 for groups of n images of the global batch (the authors' code: the batch of one device).
    evaluation_crop: share of the shorter side that an evaluated encoder is shown (authors: 7/8 above 32 pixels).
    operations: names in further_operations.py, done to a finished view in this order, each with operation_prob; to the
    views of "both" branches or of the "first" alone. same_crop: all views of an image begin from one draw. cutout_side:
    of the square, as a share of the view's. noise_deviation, solarize_from: of values in [0, 1].
    For other methods than SimCLR. aspect: smallest and largest width of a crop over its height. same_flip, gray_shared:
    one draw of the flip, of the change to gray, for all views of an image. gray_law: "luma", or the "mean" of R, G, B.
    gray_first: gray before the colour jitter, not after it.
    """

    size: int = 224
    min_scale: float = 0.08
    resize: str = "bicubic"
    flip_prob: float = 0.5
    jitter_prob: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    brightness_law: str = "multiplicative"
    random_order: bool = True
    gray_prob: float = 0.2
    blur_prob: float = 0.5
    sigmas: tuple[float, float] = (0.1, 2.0)
    blur_sigma_group: int = 0
    evaluation_crop: float = 0.875
    operations: tuple[str, ...] = ()
    operations_on: str = "both"
    operation_prob: float = 1.0
    same_crop: bool = False
    cutout_side: float = 0.5
    noise_deviation: float = 0.1
    solarize_from: float = 0.5
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    same_flip: bool = False
    gray_law: str = "luma"
    gray_first: bool = False
    gray_shared: bool = False

    def __post_init__(self) -> None:
        if self.size < 8:
            raise ValueError(f"size = {self.size} pixels is too small for a view; use 8 or more")
        if self.resize not in RESIZE_METHODS:
            raise ValueError(f"resize = {self.resize!r} is unknown; use one of {RESIZE_METHODS}")
        if self.brightness_law not in BRIGHTNESS_LAWS:
            raise ValueError(f"brightness_law = {self.brightness_law!r} is unknown; use one of {BRIGHTNESS_LAWS}")
        if not all(0 <= change <= 1 for change in (self.contrast, self.saturation)) or not self.brightness >= 0:
            raise ValueError(
                "colour jitter: contrast and saturation change by 0 to 1 (0.8 times a strength of at most "
                f"{MAX_STRENGTH}), got brightness {self.brightness}, contrast {self.contrast}, saturation "
                f"{self.saturation}"
            )
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue = {self.hue} turns; the largest change of hue lies in 0 to 0.5")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect = {self.aspect}: a crop's width over its height needs 0 < smallest <= largest")
        if self.gray_law not in GRAY_LAWS:
            raise ValueError(f"gray_law = {self.gray_law!r} is unknown; use one of {GRAY_LAWS}")
        if self.blur_sigma_group < 0:
            raise ValueError(f"blur_sigma_group = {self.blur_sigma_group}; use 0 (a sigma for each image) or more")
        if not 0 < self.evaluation_crop <= 1:
            raise ValueError(f"evaluation_crop = {self.evaluation_crop} is no share of a side; use a value in (0, 1]")
        if not 0 < self.min_scale <= 1:
            raise ValueError(f"min_scale = {self.min_scale} is no share of an image's area; use a value in (0, 1]")
        if not 0 < self.sigmas[0] <= self.sigmas[1]:
            raise ValueError(f"sigmas = {self.sigmas}: a blur needs 0 < smallest <= largest, in pixels")
        for name in self.operations:
            if name not in OPERATIONS:
                raise ValueError(f"operations: {name!r} is unknown; use some of {OPERATIONS}")
        if self.operations_on not in BRANCHES:
            raise ValueError(f"operations_on = {self.operations_on!r} is unknown; use one of {BRANCHES}")
        if not self.noise_deviation >= 0:
            raise ValueError(f"noise_deviation = {self.noise_deviation} is no standard deviation; use 0 or more")
        for name in ("cutout_side", "solarize_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} is no share; use a value from 0 to 1")
        for name in ("flip_prob", "jitter_prob", "gray_prob", "blur_prob", "operation_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} is no probability; use a value from 0 to 1")

    @property
    def blur_kernel_size(self) -> int:
        """A tenth of the side (paper, Appendix A)."""
        return self.size // 10

    @property
    def blur_radius(self) -> int:
        """Taps on each side of the middle one."""
        return self.blur_kernel_size // 2

    def crop_and_flip_only(self) -> ViewLaw:
        """What linear evaluation and fine-tuning train on (paper, B.5 and B.6)."""
        return replace(self, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0, operations=())


def simclr_law(size: int, strength: float = 1.0, **changes: object) -> ViewLaw:
    """The paper's law for a colour distortion strength: 0.8, 0.8, 0.8 and 0.2 times it (paper, A and 3.2)."""
    if not 0 <= strength <= MAX_STRENGTH:
        raise ValueError(f"strength = {strength} of the colour distortion must lie in 0 to {MAX_STRENGTH}")
    change = 0.8 * strength
    distorted = ViewLaw(size, brightness=change, contrast=change, saturation=change, hue=0.2 * strength)
    return replace(distorted, **changes)  # type: ignore[arg-type]
