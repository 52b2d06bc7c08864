"""The keys of a recipe by section: type, default, range, and what each means. No torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from simclr_plus.augmentations.law import MAX_STRENGTH

Share = Annotated[float, Field(ge=0, le=1)]
Three = Annotated[tuple[float, float, float], Field(strict=False)]  # TOML has lists
StudyOperation = Literal[
    "crop",
    "cutout",
    "color",
    "sobel",
    "noise",
    "blur",
    "rotate",
    "equalize",
    "solarize",
    "motion_blur",
    "autoaugment",
]


class Section(BaseModel):
    """Keys that are checked once and never change; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def usual(cls, key: str) -> Any:
        """The default of a key."""
        return cls.model_fields[key].default


class About(Section):
    """What a reader wants to know before running a recipe."""

    summary: Annotated[str, Field(description="what it trains, in one line")] = ""
    source: Annotated[str, Field(description="where its numbers come from")] = ""
    command: Annotated[str, Field(description="how to start it")] = ""
    hardware: Annotated[str, Field(description="what it is meant to run on")] = ""
    expected: Annotated[str, Field(description="the score to expect, marked as the paper's or as measured")] = ""


# data sets that ship with the package: part of Fashion-MNIST, and photographs of places
EMBEDDED = ("embedded", "places")
# training images of the data sets known by name
KNOWN_SIZES = {
    "embedded": 10_000,
    "places": 4_224,
    "mnist": 60_000,
    "fashion_mnist": 60_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "stl10": 105_000,
}


class Data(Section):
    """The images."""

    name: Annotated[
        Literal["embedded", "places", "mnist", "fashion_mnist", "cifar10", "cifar100", "stl10", "folder"],
        Field(description='"embedded", "places": ship with it; "folder": any folder; torchvision reads the rest'),
    ] = "embedded"
    root: Annotated[
        str, Field(description="folder of the images; for torchvision's data sets the folder that holds theirs")
    ] = "data"
    download: Annotated[bool, Field(description="let torchvision download a missing data set into root")] = False
    limit: Annotated[int, Field(ge=0, description="train on the first n images only; 0: all")] = 0
    expected_images: Annotated[
        int, Field(ge=0, description="images the recipe is made for; another number found is pointed out; 0: any")
    ] = 0
    on_bad_image: Annotated[
        Literal["error", "skip"],
        Field(
            description="an unreadable image stops the run, or one that is not in the batch takes its place and it is "
            "counted"
        ),
    ] = "error"
    background: Annotated[
        str,
        Field(
            pattern=r"^(white|black|gray|drop|#[0-9a-fA-F]{6})$",
            description='what transparent images are laid on: "white", "black", "gray", "#rrggbb"; "drop": their '
            "transparency is ignored, as in runs that were recorded without this key",
        ),
    ] = "white"
    deep_gray: Annotated[
        Literal["by_type", "by_values"],
        Field(
            description="what is white in gray images of more than 8 bits: 65535, or 1 for floating point, and values "
            "beyond are unreadable; by_values: 255 where none is larger, as in runs recorded without this key"
        ),
    ] = "by_type"
    max_pixels: Annotated[
        int, Field(ge=0, description="an image of more pixels is unreadable: it would take memory; 0: no limit")
    ] = 178_956_970
    threads: Annotated[
        int, Field(ge=0, description="threads a process that make views; 0: one for each core it may use")
    ] = 0

    @property
    def known_images(self) -> int:
        """Images that are trained on, as far as that can be told without opening them; 0 where it cannot."""
        images = KNOWN_SIZES.get(self.name) or self.expected_images
        return min(images, self.limit or images)


class Augmentation(Section):
    """The law of a view (paper, 3 and Appendix A)."""

    law: Annotated[
        Literal["method", "simclr"],
        Field(
            description="whose values keys of this section have that a recipe leaves out: those of the method's "
            "publication, or SimCLR's, to compare methods on the same views"
        ),
    ] = "method"
    image_size: Annotated[int, Field(ge=8, description="side of a view in pixels")] = 224
    strength: Annotated[
        float, Field(ge=0, le=MAX_STRENGTH, description="strength of the colour distortion: ImageNet 1.0, CIFAR 0.5")
    ] = 1.0
    colors: Annotated[
        tuple[float, ...],
        Field(
            strict=False,
            description="largest change of brightness, contrast, saturation, hue (turns), as other methods have them, "
            "e.g. [0.4, 0.4, 0.4, 0.1]; []: from strength",
        ),
    ] = ()
    min_scale: Annotated[float, Field(gt=0, le=1, description="smallest crop as a share of the image's area")] = 0.08
    aspect: Annotated[
        tuple[float, float], Field(strict=False, description="smallest and largest width of a crop over its height")
    ] = (3 / 4, 4 / 3)
    resize: Annotated[
        Literal["bicubic", "bicubic_legacy"],
        Field(description="the authors' TF2 kernel or their TF1 kernel (the paper's)"),
    ] = "bicubic"
    flip_prob: Annotated[Share, Field(description="probability of a left-right flip")] = 0.5
    same_flip: Annotated[bool, Field(description="one draw of the flip for all views of an image")] = False
    jitter_prob: Annotated[Share, Field(description="probability of the colour jitter")] = 0.8
    gray_prob: Annotated[Share, Field(description="probability of the change to gray")] = 0.2
    gray_law: Annotated[
        Literal["luma", "mean"], Field(description="gray is the luma, as the authors', or the mean of R, G and B")
    ] = "luma"
    gray_first: Annotated[bool, Field(description="gray before the colour jitter, not after it")] = False
    gray_shared: Annotated[bool, Field(description="one draw of the change to gray for all views of an image")] = False
    blur_prob: Annotated[Share, Field(description="probability of the blur; CIFAR: 0")] = 0.5
    blur_sigma_group: Annotated[
        int,
        Field(ge=0, description="0: a sigma for each image; n: one for n images of the global batch (authors' code)"),
    ] = 0
    brightness_law: Annotated[
        Literal["multiplicative", "additive"],
        Field(description="x f (authors' code since June 2020) or x + d (the paper's experiments)"),
    ] = "multiplicative"
    random_order: Annotated[bool, Field(description="the four colour operations in random order")] = True
    augment_on: Annotated[
        Literal["auto", "cpu", "device"],
        Field(
            description="where colour and blur are done: by CPU threads, or on the device for a whole batch (equal to "
            "1e-5); auto: the device with CUDA and images in files or operations"
        ),
    ] = "auto"
    device_crops: Annotated[
        Literal["float32", "float16", "uint8"],
        Field(
            description="crops on their way to the device: float32 is exact, float16 is off by up to 2.5e-4, uint8 by "
            "up to 2e-3 and cuts the overshoot of the resize"
        ),
    ] = "float32"
    evaluation_crop: Annotated[
        float, Field(gt=0, le=1, description="share of the shorter side shown in evaluation, above 32 pixels")
    ] = 0.875
    operations: Annotated[
        tuple[StudyOperation, ...],
        Field(
            strict=False,
            description='of the paper\'s studies, done in this order to a view made as above, e.g. ["crop", "color"]',
        ),
    ] = ()
    operations_on: Annotated[
        Literal["both", "first"],
        Field(description="operations change both views of a pair, or the first alone (Figure 5)"),
    ] = "both"
    operation_prob: Annotated[Share, Field(description="probability of each of the operations, for each view")] = 1.0
    cutout_side: Annotated[Share, Field(description="cutout: side of the gray square as a share of the view's")] = 0.5
    noise_deviation: Annotated[
        float, Field(ge=0, description="noise: standard deviation, of values in [0, 1]; unpublished, as the next")
    ] = 0.1
    solarize_from: Annotated[Share, Field(description="solarize: values from here on are inverted")] = 0.5
    same_crop: Annotated[
        bool,
        Field(description="before the operations both views are the same: one draw of all of the above (Figure 5)"),
    ] = False


class Encoder(Section):
    """The network f."""

    name: Annotated[
        str,
        Field(
            description='"resnet": SimCLR\'s, by the next keys; "timm:NAME", "torchvision:NAME": a network of these '
            'libraries; "python:package.module:function": one of your own'
        ),
    ] = "resnet"
    options: Annotated[
        dict[str, Any],
        Field(description="of a network by name: arguments of what builds it, e.g. { drop_path_rate = 0.1 }"),
    ] = {}
    pretrained: Annotated[
        bool | str,
        Field(
            description="of a network by name: start from the library's own weights, or from a FILE of weights under "
            "its names; mean and std are then theirs unless given here"
        ),
    ] = False
    download: Annotated[
        bool, Field(description="pretrained = true: fetch weights that are in no cache on this machine")
    ] = False
    freeze_patch_embedding: Annotated[
        bool, Field(description="transformers: the layer that cuts images into patches stays as it began (MoCo v3)")
    ] = False
    depth: Annotated[Literal[18, 34, 50, 101, 152, 200], Field(description="layers of the ResNet")] = 50
    width: Annotated[
        float, Field(ge=1 / 64, le=16, description="multiplies every channel count: 1, 2, 4 or a fraction")
    ] = 1
    stem: Annotated[
        Literal["imagenet", "cifar", "cifar_pad2", "cifar_no_relu"],
        Field(
            description="7x7 convolution and max-pool, or 3x3 for images up to 32 pixels; the rest for files of others"
        ),
    ] = "imagenet"
    flavor: Annotated[
        Literal["torchvision", "reference"],
        Field(description="features equal to torchvision's and timm's, or the authors' network to the last detail"),
    ] = "torchvision"
    selective_kernels: Annotated[
        bool, Field(description="SimCLR v2's networks: SK units in bottlenecks, stem and shortcuts of ResNet-D")
    ] = False
    se_ratio: Annotated[
        Share, Field(description="squeeze-excitation to that share of a block's width, e.g. 0.25; 0: none")
    ] = 0.0
    mean: Annotated[Three, Field(description="of the images an imported encoder was trained on; authors: 0")] = (
        0,
        0,
        0,
    )
    std: Annotated[Three, Field(description="images are divided by it, after the mean; authors: 1")] = (1, 1, 1)
    input: Annotated[
        Literal["rgb", "standardized", "lightness"],
        Field(description="before all else: nothing; each image to mean 0 and deviation 1; its lightness, three times"),
    ] = "rgb"
    norm: Annotated[
        Literal["batch", "layer", "none"],
        Field(description="batch norm; layer norm over channels and places of an image; none (CPC)"),
    ] = "batch"

    @property
    def is_resnet(self) -> bool:
        """Whether it is SimCLR's own; otherwise it is a network by name."""
        return self.name == "resnet"


class Head(Section):
    """The projection head g."""

    num_layers: Annotated[int, Field(ge=0, le=8, description="0: none, 1: linear, 2: the paper's, 3: SimCLR v2's")] = 2
    hidden_dim: Annotated[
        int, Field(ge=0, description="width of the hidden layers; 0: that of the encoder's features")
    ] = 0
    output_dim: Annotated[int, Field(ge=2, description="dimensions of z")] = 128


class Loss(Section):
    """What SimCLR makes small: NT-Xent, or a loss that the paper compares with it."""

    name: Annotated[
        Literal["nt_xent", "nt_logistic", "margin"],
        Field(description="of SimCLR: NT-Xent; NT-Logistic, margin triplet (paper, Table 2)"),
    ] = "nt_xent"
    temperature: Annotated[float, Field(gt=0, description="temperature: ImageNet 0.1, CIFAR 0.5")] = 0.1
    normalize: Annotated[bool, Field(description="l2-normalise z (the paper's cosine similarity)")] = True
    negatives: Annotated[
        Literal["both_views", "other_view"],
        Field(description="other images in both views, or in the view that a row is not of (the paper's Table 4)"),
    ] = "both_views"
    semi_hard: Annotated[
        bool,
        Field(description="nt_logistic, margin: only the most similar negative that is less similar than the positive"),
    ] = False
    margin: Annotated[float, Field(ge=0, description="margin: by how much a positive is to be more similar")] = 0.8
    reduction: Annotated[
        Literal["paper", "reference"],
        Field(description="nt_xent: mean over 2N rows, or the authors' sum of both views' means, twice the gradient"),
    ] = "reference"

    @property
    def title(self) -> str:
        """Its name for people."""
        return {
            "nt_xent": "NT-Xent",
            "nt_logistic": "NT-Logistic",
            "margin": "margin triplet",
        }[self.name]


class Optimizer(Section):
    """The update rule."""

    name: Annotated[
        Literal["lars", "sgd", "adam", "adamw"],
        Field(description="LARS, SGD with momentum, Adam, or AdamW, whose decay is apart from the gradient"),
    ] = "lars"
    learning_rate: Annotated[float, Field(gt=0, description="base learning rate, before scaling with the batch")] = 0.3
    learning_rate_scaling: Annotated[
        Literal["linear", "sqrt", "none"], Field(description="peak = base B/256, base sqrt(B), or base")
    ] = "linear"
    momentum: Annotated[float, Field(ge=0, lt=1, description="momentum of LARS and SGD")] = 0.9
    nesterov: Annotated[
        bool, Field(description="SGD: Nesterov's momentum, as SimCLR's authors; false: plain, as MoCo's")
    ] = True
    beta1: Annotated[
        float, Field(ge=0, lt=1, description="Adam, AdamW: share of the past in the mean of gradients")
    ] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1, description="Adam, AdamW: share of the past in the mean of squares")] = (
        0.999
    )
    weight_decay: Annotated[
        float,
        Field(ge=0, description="weight decay; norms, tokens and positions are exempt, and biases with LARS and AdamW"),
    ] = 1e-6
    decay_norms: Annotated[
        bool, Field(description="all but LARS: norms decay like all else, as in the authors' code of MoCo and InstDist")
    ] = False
    trust_coefficient: Annotated[float, Field(gt=0, description="LARS: scale of the trust ratio")] = 0.001
    adapt_probe: Annotated[
        bool,
        Field(description="LARS adapts the probe's kernel too (authors' code of March 2020; later code leaves it out)"),
    ] = False
    sgd_momentum: Annotated[
        Literal["rate_outside", "rate_inside"],
        Field(description="SGD: the learning rate outside the velocity (PyTorch, TF1) or inside it (authors' TF2)"),
    ] = "rate_outside"
    gradient_clip: Annotated[float, Field(ge=0, description="largest norm of the whole gradient; 0: no clipping")] = 0.0

    @property
    def rule(self) -> str:
        """Which update rule this is; what one rule keeps of its past steps means nothing to another."""
        return f"sgd, {self.sgd_momentum}" if self.name == "sgd" else self.name


class Training(Section):
    """The loop."""

    epochs: Annotated[float, Field(gt=0, description="passes over the images")] = 100
    warmup_epochs: Annotated[float, Field(ge=0, description="epochs of linear warm-up")] = 10
    batch_size: Annotated[int, Field(ge=2, description="images a step over all processes (the global batch N)")] = 4096
    round_up_to_checkpoint: Annotated[
        bool,
        Field(description="go on at rate 0 until the next checkpoint is due, as the authors' TF2 loop does"),
    ] = False
    seed: Annotated[
        int, Field(ge=0, lt=2**63, description="of the initial weights, the order and every augmentation")
    ] = 0
    global_batch_norm: Annotated[bool, Field(description="batch statistics over all processes")] = True
    probe: Annotated[
        bool,
        Field(
            description="train a linear classifier on the detached features alongside, where there are labels "
            "(supervised training learns through it, whatever is said here)"
        ),
    ] = True
    precision: Annotated[
        Literal["float32", "bfloat16", "auto", "float64", "tf32"],
        Field(
            description="of convolutions and matrices, the loss stays float32; auto: bfloat16 on CUDA from Ampere on, "
            "else float32; tf32: float32 whose products CUDA rounds to 10 bits of mantissa; float64: everything, for "
            "proofs"
        ),
    ] = "float32"
    channels_last: Annotated[bool, Field(description="memory layout of the images; faster for most networks")] = True
    compile: Annotated[bool, Field(description="torch.compile the encoder")] = False
    activation_checkpointing: Annotated[
        bool, Field(description="keep only each block's input and compute the rest again: less memory, a third slower")
    ] = False
    init_from: Annotated[str, Field(description="encoder or checkpoint file to start the encoder from")] = ""
    device: Annotated[Literal["auto", "cpu", "cuda"], Field(description="auto: CUDA where there is one")] = "auto"


class Checkpoints(Section):
    """What is kept on disk."""

    every_epochs: Annotated[float, Field(gt=0, description="save each n epochs, and at the end")] = 1
    keep_last: Annotated[int, Field(ge=1, description="newest checkpoints kept")] = 3
    keep_every_epochs: Annotated[int, Field(ge=0, description="also keep for good one each n epochs; 0: none")] = 0


class Monitor(Section):
    """What is written while training."""

    log_every_steps: Annotated[int, Field(ge=1, description="steps between two lines of metrics.jsonl")] = 10
    knn_every_epochs: Annotated[
        float, Field(ge=0, description="epochs between two kNN evaluations on the test split (where labelled); 0: none")
    ] = 0.0
    tensorboard: Annotated[bool, Field(description="write TensorBoard files too, in the run's tensorboard folder")] = (
        False
    )
    wandb: Annotated[
        Literal["off", "online", "offline"],
        Field(description="report to Weights & Biases too; offline: to files, sent later by `wandb sync`"),
    ] = "off"
    wandb_project: Annotated[str, Field(description="project of Weights & Biases")] = "simclr-plus"
    hung_after_seconds: Annotated[
        float,
        Field(
            ge=0,
            description="a process whose step takes longer is hung and the run is ended; preparing, evaluating and "
            "saving may take four times as long; 0: never",
        ),
    ] = 1800.0
