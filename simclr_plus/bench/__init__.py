"""Benchmarks anyone can run: our parts beside Lightly's, in turns within one run, with a verdict to act on."""
