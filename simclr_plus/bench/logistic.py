"""The sweep of 45 penalties of transfer beside scikit-learn's L-BFGS: time, optima, and the penalty that each chooses.

Features are those of a ResNet-18 with random weights for the 10,000 embedded images: 512 numbers an image. scikit-learn
goes along the same path, each fit warm from the one before, and stops where the gradient is as small as ours; both on
one thread, by processor time.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from simclr_plus.augmentations.law import simclr_law
from simclr_plus.bench.rounds import Report, compare, hardware, torch_threads
from simclr_plus.datasets.images import TEST, TRAIN, open_images
from simclr_plus.encoders.resnet import ResNet
from simclr_plus.errors import EnvironmentNotAbleError
from simclr_plus.evaluators.logistic import Path as LogisticPath
from simclr_plus.evaluators.logistic import fit_path
from simclr_plus.evaluators.transfer import PENALTIES, chosen_penalty
from simclr_plus.features.extraction import features_of, labels_of
from simclr_plus.recipe.keys import Data

OURS, THEIRS = "SimCLR+ fit_path", "scikit-learn lbfgs"
CLASSES = 10
Labelled = tuple[Tensor, Tensor]  # features [N, F] and labels [N]


@dataclass(frozen=True)
class _Fits:
    """A path of fits: processor time, and for each penalty the objective and the share of validation images."""

    seconds: float
    iterations: int
    objectives: Sequence[float]
    scores: list[float]


def bench_logistic(
    *, images: int, tolerance: float = 1e-8, down_to: float = 0.0, say: Callable[[str], None] = lambda _: None
) -> Report:
    """Fit on `images` embedded images of ten classes, choose on 2,000 others; leave out penalties below `down_to`."""
    penalties = [l2 for l2 in PENALTIES if l2 >= down_to]
    try:
        import sklearn
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        raise EnvironmentNotAbleError("this benchmark compares with scikit-learn: pip install scikit-learn") from None
    training, validation = _embedded(images)
    x = training[0]
    say(f"features {list(x.shape)} are there; fitting {len(penalties)} penalties twice")
    with torch_threads(1), threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path, ours = _our_fits(training, validation, penalties, tolerance)
        say(f"ours: {ours.seconds:.1f} s; the same by scikit-learn")
        theirs = _their_fits(training, validation, penalties, path, say)
    seconds = {OURS: [ours.seconds], THEIRS: [theirs.seconds]}
    ratios, verdicts = _compared(penalties, path, ours, theirs)
    return Report(
        name="logistic",
        settings={
            "images": len(x),
            "features": x.shape[1],
            "classes": CLASSES,
            "penalties": len(penalties),
            "tolerance": tolerance,
        },
        comparisons=[compare(f"{len(x):,} x {x.shape[1]}, all penalties", seconds, base=THEIRS, items="paths/s")],
        ratios=ratios,
        verdicts=verdicts,
        machine=hardware() | {"scikit-learn": sklearn.__version__},
    )


def _embedded(images: int) -> tuple[Labelled, Labelled]:
    """Features and labels of the first `images` to fit on, and of those to choose on."""
    torch.manual_seed(0)
    encoder, law, cpu = ResNet(18).eval(), simclr_law(56), torch.device("cpu")
    training, validation = (
        (features_of(encoder, part, law, device=cpu)[0].double(), labels_of(part))
        for part in (open_images(Data(), TRAIN).first(images), open_images(Data(), TEST))
    )
    return training, validation


def _our_fits(
    training: Labelled, validation: Labelled, penalties: list[float], tolerance: float
) -> tuple[LogisticPath, _Fits]:
    started = time.process_time()
    path = fit_path(*training, CLASSES, penalties, tolerance=tolerance)
    seconds = time.process_time() - started
    x, y = validation
    scores = [float((path.scores(x, i).argmax(1) == y).double().mean()) for i in range(len(penalties))]
    return path, _Fits(seconds, sum(path.iterations), path.objective, scores)


def _their_fits(
    training: Labelled, validation: Labelled, penalties: list[float], path: LogisticPath, say: Callable[[str], None]
) -> _Fits:
    """Along the same path, each fit until the gradient is as small as ours."""
    from sklearn.linear_model import LogisticRegression

    (x, y), (x_validation, y_validation) = training, validation
    theirs = LogisticRegression(max_iter=100_000, warm_start=True)
    seconds, iterations = 0.0, 0
    objectives, scores = [0.0] * len(penalties), [0.0] * len(penalties)
    for number in reversed(range(len(penalties))):
        l2 = penalties[number]
        _, largest = gradient_of(x, y, path.weights[number], path.offsets[number], l2)
        started = time.process_time()
        theirs.set_params(C=1 / l2, tol=largest).fit(x.numpy(), y.numpy())
        seconds += time.process_time() - started
        iterations += int(theirs.n_iter_[0])
        w, b = torch.from_numpy(theirs.coef_.copy()), torch.from_numpy(theirs.intercept_.copy())
        objectives[number], _ = gradient_of(x, y, w, b, l2)
        scores[number] = float((theirs.predict(x_validation.numpy()) == y_validation.numpy()).mean())
        say(f"l2 {l2:.3g}: {theirs.n_iter_[0]} iterations, {seconds:.0f} s so far")
    return _Fits(seconds, iterations, objectives, scores)


def _compared(
    penalties: list[float], path: LogisticPath, ours: _Fits, theirs: _Fits
) -> tuple[dict[str, float], list[str]]:
    """The ratios and the verdicts of the report."""
    our_choice, their_choice = chosen_penalty(ours.scores), chosen_penalty(theirs.scores)
    pairs = list(zip(ours.objectives, theirs.objectives, strict=True))
    gaps = {f"{l2:.3g}": b / a - 1 for l2, (a, b) in zip(penalties, pairs, strict=True)}
    equal = sum(abs(gap) < 1e-6 for gap in gaps.values())
    worse, better = max((a - b) / b for a, b in pairs), max((b - a) / a for a, b in pairs)
    faster = theirs.seconds / ours.seconds
    ratios = {
        "times_scikit_learn": faster,
        "objective_above_theirs": worse,
        "their_objective_above_ours": better,
        "equal_to_1e-6": equal,
        **{f"their_objective_above_ours_at_{l2}": gap for l2, gap in gaps.items()},
        "our_iterations": ours.iterations,
        "their_iterations": theirs.iterations,
        "our_l2": penalties[our_choice],
        "their_l2": penalties[their_choice],
        "our_validation_top1": ours.scores[our_choice],
        "their_validation_top1": theirs.scores[their_choice],
    }
    verdicts = [
        f"the path is fitted {faster:.1f} times as fast as by scikit-learn; of the {len(penalties)} objectives "
        f"ours is at most {worse:.1g} above theirs, theirs at most {better:.1g} above ours, relative; {equal} are "
        "equal to 1e-6",
        f"chosen: {penalties[our_choice]:.3g} ({ours.scores[our_choice]:.2%} of validation images), by scikit-learn "
        f"{penalties[their_choice]:.3g} ({theirs.scores[their_choice]:.2%}); all of our fits converged: "
        f"{all(path.converged)}",
    ]
    return ratios, verdicts


def gradient_of(x: Tensor, y: Tensor, w: Tensor, b: Tensor, l2: float) -> tuple[float, float]:
    """Objective, and the largest element of the gradient of objective / N, in the features as given."""
    scores = x @ w.T + b
    objective = float(torch.nn.functional.cross_entropy(scores, y, reduction="sum") + l2 / 2 * (w * w).sum())
    error = scores.softmax(dim=1) - torch.nn.functional.one_hot(y, CLASSES)
    gradient = torch.cat([(error.T @ x + l2 * w).flatten(), error.sum(dim=0)]) / len(x)
    return objective, float(gradient.abs().max())
