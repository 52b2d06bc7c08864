"""How numbers are drawn in characters: curves, axes, sparks."""
