"""How the cells of a study are run, here or by SLURM, and what they cost."""
