"""What can be started: a recipe being edited, and the commands that start it."""
