"""The heuristic quality scores: clarity, response quality, diversity, complexity, in batches."""
