"""Bad input is answered in one line: where, what was expected, what was given, what to do."""

import difflib
from collections.abc import Collection, Iterable
from functools import partial


class InputError(ValueError):
    """A mistake in what a user gave us. Commands print it as one line and exit with code 2."""

    def __init__(self, where: str, *, expected: str, got: object, do: str):
        self.where, self.expected, self.got, self.do = where, expected, got, do
        super().__init__(f"{where}: expected {expected}, got {got}. {do}")

    def __reduce__(self) -> tuple[object, ...]:
        """For another process: without it the one line would be all that is unpickled."""
        return partial(InputError, expected=self.expected, got=self.got, do=self.do), (self.where,)


def require(ok: bool, where: str, *, expected: str, got: object, do: str) -> None:
    """Raises: InputError, unless `ok`."""
    if not ok:
        raise InputError(where, expected=expected, got=got, do=do)


def suggestion(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def require_one_of(word: str, known: Collection[str], where: str) -> None:
    """Raises: InputError, with the nearest known word, unless `word` is one of `known`."""
    require(
        word in known,
        where,
        expected=f"one of {', '.join(known)}",
        got=repr(word),
        do=f"Name one of them.{suggestion(word, known)}",
    )
