"""Scores a reader beside its opponents, with intervals, and writes what was found."""
