"""Opponents of the editor, all behind one interface."""
