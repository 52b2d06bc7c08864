"""How it looks: colours, and everything in ASCII."""
