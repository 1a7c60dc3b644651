"""Solved edits that an editor remembers, and begins from where one is near."""
