"""A frozen record from what JSON holds: nothing missing, nothing unknown, every value of its field's type."""

import dataclasses
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from metamodel.config.errors import require, suggestion

T = TypeVar("T")


def record_from_json(cls: type[T], values: object, where: str, *, do: str) -> T:
    """A `cls` from a JSON object; see `record_values`."""
    return cls(**record_values(cls, values, where, do=do))


def record_values(cls: type, values: object, where: str, *, do: str) -> dict[str, Any]:
    """The fields of a `cls` from a JSON object, for a `cls` that has more to check; lists become tuples.

    Args:
        cls: a dataclass whose fields are numbers, text, flags, `Literal`s, tuples of one of them, or one of
            them or None.
        do: what to do about a value that is missing, unknown or of the wrong type.

    Raises: InputError that names the key below `where`.
    """
    require(isinstance(values, dict), where, expected="an object", got=type(values).__name__, do=do)
    assert isinstance(values, dict)
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    for key in values:
        more = f"{do}{suggestion(key, names)}"
        require(key in names, f"{where}.{key}", expected="a known key", got="an unknown one", do=more)
    for name in names:
        require(name in values, f"{where}.{name}", expected="a value", got="no such key", do=do)
        value, hint = values[name], hints[name]
        require(_fits(value, hint), f"{where}.{name}", expected=_words(hint), got=repr(value), do=do)
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value is of a field's type; a flag is no number."""
    match get_origin(hint):
        case origin if origin is tuple:
            return isinstance(value, list) and all(_fits(item, get_args(hint)[0]) for item in value)
        case origin if origin is Literal:
            return value in get_args(hint)
        case origin if origin is UnionType:
            return any(_fits(value, one) for one in get_args(hint))
    return type(value) in (int, float) if hint is float else type(value) is hint


def _words(hint: Any) -> str:
    """A field's type, as JSON's reader would call it."""
    match get_origin(hint):
        case origin if origin is tuple:
            return f"a list, each {_words(get_args(hint)[0])}"
        case origin if origin is Literal:
            return f"one of {', '.join(map(repr, get_args(hint)))}"
        case origin if origin is UnionType:
            return " or ".join(map(_words, get_args(hint)))
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}
    return words[hint]
