"""The terminal UI of SimCLR+, built with Textual; it imports no torch and only reads run folders."""
