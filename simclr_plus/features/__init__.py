"""What h is for many images, kept on disk, and what can be measured on it alone."""
