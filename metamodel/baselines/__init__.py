"""Opponents of the meta-model, all behind one interface."""
