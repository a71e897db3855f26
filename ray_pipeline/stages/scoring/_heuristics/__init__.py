"""The arithmetic of the quality heuristics; used by its stage alone."""
