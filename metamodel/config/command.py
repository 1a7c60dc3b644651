"""Runs a command: a user's mistake is one line and exit code 2, an interruption one line and 130."""

import os
import sys
import traceback
from collections.abc import Callable

from metamodel.config.errors import InputError

DEBUG = "METAMODEL_DEBUG"
"""Environment variable: set to 1, the traceback of a mistake is shown too."""


def run_command(main: Callable[[list[str]], None], arguments: list[str] | None = None) -> None:
    """Calls `main` with the process's arguments, or those given. Errors of our own pass through.

    Raises: SystemExit with code 2 on bad input and 130 when interrupted.
    """
    try:
        main(sys.argv[1:] if arguments is None else arguments)
    except InputError as error:
        if os.environ.get(DEBUG) == "1":
            traceback.print_exc()
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. What is finished is kept: run the same command again to go on.\n")
        raise SystemExit(130) from None
