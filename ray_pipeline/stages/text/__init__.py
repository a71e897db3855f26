"""What stages do to texts: keys for comparing, checks of answers and paraphrases."""
