"""The learning rate as a function of the step: scaling with the batch, linear warm-up, cosine decay.

Steps count from 0 and the rate is read before the step is counted, so that the first update of a run with warm-up
has rate 0, as in the authors' code (tf2/model.py, WarmUpAndCosineDecay).
"""

import math


def peak_learning_rate(base: float, batch_size: int, rule: str) -> float:
    """Learning rate at the end of warm-up for a global batch; rule "linear": base B / 256, "sqrt": base sqrt(B)."""
    if rule == "linear":
        return base * batch_size / 256
    if rule == "sqrt":
        return base * math.sqrt(batch_size)
    if rule == "none":
        return base
    raise ValueError(f'rule = {rule!r} is no learning rate scaling; use "linear", "sqrt" or "none"')


def step_count(epochs: float, images: int, batch_size: int) -> int:
    """Steps of a whole training: floor(images epochs / B) + 1 (authors' get_train_steps)."""
    return int(images * epochs) // batch_size + 1


def warmup_step_count(warmup_epochs: float, images: int, batch_size: int) -> int:
    """Steps of the warm-up: floor(images epochs / B)."""
    return int(warmup_epochs * images // batch_size)


def warmup_cosine(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Learning rate of the update that follows `step` updates: 0 to peak linearly, then half a cosine to 0."""
    if step < warmup_steps:
        return step / warmup_steps * peak
    decay_steps = total_steps - warmup_steps
    if decay_steps <= 0:
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * min(step - warmup_steps, decay_steps) / decay_steps))
