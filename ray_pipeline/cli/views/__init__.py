"""What the commands print: tables and texts for a terminal, JSON for a program."""
