"""Causal structure of a subject."""
