"""Models on this machine: their names, tokenizers, formats of text, devices."""
