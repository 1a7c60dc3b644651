"""Imports what only opponents of matching need, and says what to install where it is missing."""

import importlib
from types import ModuleType

from metamodel.config.errors import InputError

PACKAGES = {"ot": "POT", "pygmtools": "pygmtools"}


def library(module: str) -> ModuleType:
    """Raises: InputError, with the command that installs it, where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            "opponents of matching",
            expected=f"the package {PACKAGES[module]}",
            got="none installed",
            do='Run `pip install -e ".[match]"`.',
        ) from error
