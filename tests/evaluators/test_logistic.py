"""The solver against scikit-learn, an independent gradient and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from simclr_plus.evaluators.logistic import fit_path


def made_up(n: int, f: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of very different scales with a common mean, labels that they only partly tell."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, f, generator=generator, dtype=torch.float64) * torch.logspace(0, -3, f, dtype=torch.float64) + 5
    mix = torch.randn(f, f, generator=generator, dtype=torch.float64) / f**0.5
    truth = torch.randn(f, classes, generator=generator, dtype=torch.float64)
    y = ((x - 5) @ truth + 2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)).argmax(1)
    return x @ mix, y


def objective(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, b: torch.Tensor, l2: float) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(x @ w.T + b, y, reduction="sum") + l2 / 2 * (w**2).sum()


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_optimum_is_scikit_learns(classes: int) -> None:
    x, y = made_up(300, 12, classes)
    classes = int(y.max()) + 1
    penalties = [1e-4, 1e-1, 10.0, 1e4]
    path = fit_path(x, y, classes, penalties, tolerance=1e-12)
    assert all(path.converged)
    for i, l2 in enumerate(penalties):
        theirs = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=100_000, solver="newton-cg").fit(x.numpy(), y.numpy())
        if len(theirs.coef_) == 1:  # two classes: one row, of twice the penalty in the softmax form
            w, b = torch.tensor(theirs.coef_), torch.tensor(theirs.intercept_)
            w, b = torch.cat([-w / 2, w / 2]), torch.cat([-b / 2, b / 2])
            assert path.objective[i] <= float(objective(x, y, w, b, l2)) * (1 + 1e-9)
            continue
        reached = float(objective(x, y, torch.tensor(theirs.coef_), torch.tensor(theirs.intercept_), l2))
        assert path.objective[i] == pytest.approx(reached, rel=1e-6)
        expected = theirs.predict(x.numpy())
        assert (path.scores(x, i).argmax(1).numpy() == expected).mean() > 0.99


def test_objective_and_gradient_norm_are_those_of_the_features_as_given() -> None:
    x, y = made_up(200, 8, 4)
    classes = int(y.max()) + 1
    path = fit_path(x, y, classes, [0.3], tolerance=1e-6)
    w, b = path.weights[0].clone().requires_grad_(), path.offsets[0].clone().requires_grad_()
    value = objective(x, y, w, b, 0.3)
    assert path.objective[0] == pytest.approx(value.item(), rel=1e-9)
    value.backward()
    assert w.grad is not None and b.grad is not None
    # the norm is measured on centred features: moving the origin mixes the offset's gradient into the weights'
    moved = w.grad - b.grad[:, None] * x.mean(dim=0)
    norm = float(torch.cat([moved.flatten(), b.grad]).norm()) / len(x)
    assert path.gradient_norm[0] == pytest.approx(norm, rel=1e-4, abs=1e-12)


def test_the_order_of_the_penalties_does_not_matter() -> None:
    x, y = made_up(200, 8, 3)
    penalties = [10.0, 1e-2, 1.0]
    together = fit_path(x, y, 3, penalties, tolerance=1e-12)
    for i, l2 in enumerate(penalties):
        alone = fit_path(x, y, 3, [l2], tolerance=1e-12)
        assert alone.objective[0] == pytest.approx(together.objective[i], rel=1e-9)
        assert torch.allclose(alone.weights[0], together.weights[i], atol=1e-2)


def test_a_fit_that_is_cut_short_says_so() -> None:
    x, y = made_up(300, 12, 5)
    classes = int(y.max()) + 1
    short = fit_path(x, y, classes, [1e-4], max_iterations=3)
    whole = fit_path(x, y, classes, [1e-4])
    assert short.converged == (False,) and short.iterations == (3,)
    assert whole.converged == (True,) and whole.objective[0] < short.objective[0]


def test_several_labels_are_one_vs_rest_without_those_left_out() -> None:
    x, _ = made_up(400, 6, 2)
    generator = np.random.default_rng(0)
    labels = generator.integers(-1, 2, (400, 3))
    path = fit_path(x, torch.from_numpy(labels), 3, [0.5], tolerance=1e-12)
    total = 0.0
    for c in range(3):
        kept = labels[:, c] >= 0
        theirs = LogisticRegression(C=2.0, tol=1e-10, max_iter=100_000).fit(x.numpy()[kept], labels[kept, c])
        w, b = torch.tensor(theirs.coef_[0]), float(theirs.intercept_[0])
        logits = x[torch.from_numpy(kept)] @ w + b
        known = torch.from_numpy(labels[kept, c]).double()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, known, reduction="sum")
        total += float(loss + 0.25 * (w**2).sum())
    assert path.objective[0] == pytest.approx(total, rel=1e-6)


def test_classes_that_never_occur_and_separable_examples_end_in_finite_numbers() -> None:
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    path = fit_path(x, torch.tensor([0, 0, 1, 1]), 3, [1e-6, 1.0])
    assert torch.isfinite(path.weights).all() and torch.isfinite(path.offsets).all()
    assert (path.scores(x, 0).argmax(1) == torch.tensor([0, 0, 1, 1])).all()
