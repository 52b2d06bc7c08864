"""What is in a run folder, and what it says of its run. No torch."""
