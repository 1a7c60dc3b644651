"""Pairs of circuits whose correspondence is known by construction."""
