"""The screens: runs, one run, runs side by side, recipes, a recipe's form, checkpoints; and the dialogs over them."""
