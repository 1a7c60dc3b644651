"""Function labels: their registry, raw scores and causal twins."""
