"""What answers requests: one file for each kind of engine."""
