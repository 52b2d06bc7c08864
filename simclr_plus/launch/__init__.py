"""Who owns the processes of a run: starts them, watches them, says how they ended."""
