"""The recipes that ship with SimCLR+: TOML files, read by simclr_plus.recipe."""
