"""Edits with known truth: subjects that answer whole domains, and what is wanted of them."""
