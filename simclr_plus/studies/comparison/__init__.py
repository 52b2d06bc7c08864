"""All methods on one footing: the same encoder, images, budget, seeds and evaluators."""
