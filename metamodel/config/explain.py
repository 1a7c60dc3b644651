"""Turns what jsonargparse says of a mistake into where, expected, got and what to do, with a suggestion."""

import dataclasses
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from metamodel.config.errors import InputError, suggestion

WORDS: dict[object, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    dict: "a mapping",
    tuple: "a list",
    list: "a list",
    type(None): "null",
}
"""How a type is named to a user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a command was given, to find the place of a mistake in it."""

    prog: str
    arguments: tuple[str, ...]
    options: tuple[str, ...]
    """Option strings of the command itself."""
    config_class: type | None
    file: str | None
    """The YAML file that was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a key stands."""

    where: str
    path: tuple[str, ...]
    value: object = None


def explain(message: str, given: Given) -> InputError:
    """The error that says of jsonargparse's `message` what a user needs."""
    text = " ".join(message.split())
    if found := re.search(r"[Uu]nrecognized arguments: (.*)", text):
        return _unknown_argument(found[1].split()[0].split("=")[0], given)
    if found := re.search(r"(?:Group '(.+?)' does not accept o|O)ption '(.+?)'", text):
        return _unknown_key(".".join(filter(None, found.groups())), given)
    if keys := re.findall(r'Parser key "(.+?)":', text):
        return _wrong_type(keys[-1], text, given)
    if found := re.search(r"arguments are required: ([^,]+)", text):
        name = found[1].strip().removeprefix("--")
        if name in _keys(given.config_class):
            do = f"Give --{name} or a --config with it."
        else:
            do = f"Give --{name}." if f"--{name}" in given.options else "Give it; see --help."
        return InputError(f"{given.prog}: {name}", expected="a value", got="none", do=do)
    if found := re.search(r"argument (\S+): expected (.+)", text):
        expected = found[2].replace("one argument", "a value")
        return InputError(found[1].split("/")[-1], expected=expected, got="none", do="Give one.")
    if found := re.search(r"argument (\S+): (.+)", text):
        return InputError(found[1].split("/")[-1], expected="a valid value", got=found[2], do="Correct it.")
    return InputError(given.prog, expected="valid arguments", got=text, do="See --help.")


def _unknown_argument(word: str, given: Given) -> InputError:
    if not word.startswith("-"):
        return InputError(given.prog, expected="options only", got=repr(word), do="See --help.")
    known = [*given.options, *(f"--{key}" for key in _keys(given.config_class))]
    do = f"See --help.{suggestion(word, known)}"
    return InputError(given.prog, expected="a known option", got=word, do=do)


def _unknown_key(key: str, given: Given) -> InputError:
    place = _locate(key, None, given)
    known = _field_names(_type_at(given.config_class, place.path[:-1]))
    name = key.rsplit(".", 1)[-1]
    hint = suggestion(name, known) or f" Known keys: {', '.join(known)}."
    do = f"Rename or remove it.{hint}"
    return InputError(place.where, expected="a known key", got=repr(name), do=do)


def _wrong_type(key: str, text: str, given: Given) -> InputError:
    values = re.findall(r"Got value: (.+?)(?: Subparser| Problem|$)", text)
    value = values[-1] if values else None
    place = _locate(key, value, given)
    expected = words(_type_at(given.config_class, place.path)) or _named_type(text)
    got = value if place.value is None else place.value
    return InputError(place.where, expected=expected, got=repr(got), do="Correct it.")


def _named_type(text: str) -> str:
    """The type that jsonargparse names, for options that are no fields of a configuration."""
    if listed := re.search(r"Expected a typing\.Literal\[(.+?)\]", text):
        return "one of " + listed[1].replace("'", "")
    named = re.search(r"Expected a <class '(\w+)'>", text)
    in_words = {kind.__name__: name for kind, name in WORDS.items() if isinstance(kind, type)}
    return in_words.get(named[1], named[1]) if named else "a value of another type"


def _locate(key: str, value: str | None, given: Given) -> Place:
    """Finds a key, of which jsonargparse may have told the last part only, in arguments or file."""
    last = key.rsplit(".", 1)[-1]
    for argument, follower in zip_longest(given.arguments, given.arguments[1:], fillvalue=""):
        name, equals, inline = argument.partition("=")
        path = tuple(name.removeprefix("--").split("."))
        if name.startswith("--") and (".".join(path) == key or (len(path) > 1 and path[-1] == last)):
            return Place(where=name, path=path, value=inline if equals else follower)
    if given.file is not None:
        places = [
            (path, item)
            for path, item in _walk(yaml.safe_load(Path(given.file).read_text()), ())
            if path[-1] == last
        ]
        places.sort(key=lambda place: (".".join(place[0]) != key, value is None or str(place[1]) != value))
        for path, item in places[:1]:
            return Place(where=f"{given.file}: {'.'.join(path)}", path=path, value=item)
    return Place(where=key, path=tuple(key.split(".")))


def _walk(tree: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, str(key)), value
        yield from _walk(value, (*path, str(key)))


def _type_at(hint: Any, path: Sequence[str]) -> Any:
    """Type of the field at a path of keys and indices; None where there is none."""
    for key in path:
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            hint = get_type_hints(hint).get(key)
        elif get_origin(hint) is dict:
            hint = get_args(hint)[1]
        elif get_origin(hint) in (tuple, list):
            hint = get_args(hint)[0]
        else:
            return None
    return hint


def _field_names(hint: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(hint)] if dataclasses.is_dataclass(hint) else []


def _keys(hint: Any) -> list[str]:
    """Dotted names of all fields of a configuration, nested ones included."""
    found = []
    for name in _field_names(hint):
        found += [name, *(f"{name}.{key}" for key in _keys(_type_at(hint, [name])))]
    return found


def words(hint: Any) -> str:
    """A type in a user's words; empty if there are none."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(words(arm) for arm in get_args(hint))
    if dataclasses.is_dataclass(hint):
        return f"keys {', '.join(_field_names(hint))}"
    return WORDS.get(get_origin(hint) or hint, "")
