"""Partial maps between circuits, without learning: graphs, energy, solvers, simulation, growth."""
