"""What was measured, where it is kept, and how it is reported."""
