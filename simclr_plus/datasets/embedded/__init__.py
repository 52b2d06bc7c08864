"""Data that ships with the package: a subset of Fashion-MNIST under its own MIT licence."""
