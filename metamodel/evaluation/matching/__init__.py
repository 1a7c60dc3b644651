"""What a match is worth against what is known of a pair: scores, and their intervals over lineages."""
