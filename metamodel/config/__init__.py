"""Configuration of the commands, and how bad input is reported. Imports no torch."""

from metamodel.config.errors import InputError, require, suggestion

__all__ = ["InputError", "require", "suggestion"]
