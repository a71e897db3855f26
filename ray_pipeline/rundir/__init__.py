"""The run directory: every file in it, who writes it and how it is read."""
