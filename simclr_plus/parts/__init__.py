"""Parts of the methods that SimCLR is compared with, each by its method: they work alone in a loop of one's own."""
