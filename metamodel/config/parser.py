"""Reads a command's arguments into a frozen configuration, and answers a mistake in one line.

A bare jsonargparse parser: YAML, dotted overrides and help from the fields' docstrings come from it. Fields
are registered one by one, because it cannot take the defaults of slotted dataclasses. Imports no torch, so
that `--help` and a mistyped key answer at once.

    parser = command_parser(prog="data_gen.build", description=__doc__)
    parser.add_argument("--out", type=str, default=None, help="folder of the zoo")
    config, options = parse_config(parser, ZooConfig, arguments)
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from docstring_parser import parse_from_object
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from metamodel.config.errors import InputError, require, suggestion
from metamodel.config.explain import Given, explain

T = TypeVar("T")


def command_parser(*, prog: str, description: str) -> ArgumentParser:
    """Parser of one command. Add the command's own options, then parse with a function of this module."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(
        prog=f"python -m {prog}",
        description=description,
        exit_on_error=False,
        print_config=None,
        allow_abbrev=False,
    )


def parse_options(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """The options of a command without configuration.

    Raises: InputError on a mistake.
    """
    return _parse(parser, arguments, config_class=None, file=None)


def parse_config(
    parser: ArgumentParser,
    config_class: type[T],
    arguments: Sequence[str],
    *,
    default_file: str | None = None,
) -> tuple[T, Namespace]:
    """The configuration (file, then overrides) and the command's own options.

    Args:
        parser: a `command_parser` with the command's own options.
        config_class: frozen dataclass; its fields become the keys of the file and dotted options.
        arguments: those of the command line.
        default_file: taken where no `--config` is given.

    Raises:
        InputError: on a mistake in file or arguments, or a value out of range.
        SystemExit: with code 0 after `--help` and `--print_config`.
    """
    options = {action.dest for action in parser._actions}
    parser.add_argument("-c", "--config", action="config", help="YAML file with the keys below")
    parser.add_argument(
        "--print_config", action="store_true", help="print the resolved configuration and exit"
    )
    _add_fields(parser, config_class, "")
    given = list(arguments)
    file = _config_file(given)
    if file is None and default_file is not None:
        file, given = default_file, ["--config", default_file, *given]
    if file is not None and not {"-h", "--help"} & set(given):
        _check_file(file)
    parsed = _parse(parser, given, config_class=config_class, file=file)
    config = config_class(**{f.name: parsed[f.name] for f in dataclasses.fields(config_class)})  # pyright: ignore[reportArgumentType]
    if parsed["print_config"]:
        sys.stdout.write(yaml.safe_dump(plain(config), sort_keys=False))
        raise SystemExit(0)
    return config, Namespace(**{name: parsed[name] for name in options if name in parsed})


def plain(value: object) -> Any:
    """A configuration as what YAML and JSON hold: mappings, lists, text, numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _parse(
    parser: ArgumentParser, arguments: Sequence[str], *, config_class: type | None, file: str | None
) -> Namespace:
    given = Given(
        prog=parser.prog.removeprefix("python -m "),
        arguments=tuple(arguments),
        options=tuple(s for action in parser._actions for s in action.option_strings),
        config_class=config_class,
        file=file,
    )
    try:
        return parser.instantiate(parser.parse_args(list(arguments)))
    except argparse.ArgumentError as error:
        raise explain(str(error), given) from error


def _check_file(file: str) -> None:
    folder = Path(file).parent
    near = [str(path) for path in folder.glob("*.yaml")] if folder.is_dir() else []
    require(
        Path(file).is_file(),
        "--config",
        expected="a YAML file",
        got=f"no file {file}",
        do=f"Check the path.{suggestion(file, near)}",
    )
    try:
        tree = yaml.safe_load(Path(file).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(
            f"{file}{line}", expected="YAML", got="a syntax error", do="Check brackets and indentation."
        ) from error
    require(
        isinstance(tree, dict),
        file,
        expected="keys with values",
        got="an empty file" if tree is None else f"a {type(tree).__name__}",
        do="Write `key: value` lines; --help lists the keys.",
    )


def _config_file(arguments: Sequence[str]) -> str | None:
    for argument, follower in zip_longest(arguments, arguments[1:]):
        if argument in ("-c", "--config"):
            return follower
        if argument.startswith("--config="):
            return argument.partition("=")[2]
    return None


def _add_fields(parser: ArgumentParser, config_class: type, prefix: str) -> None:
    """One argument a field; a field that is itself a configuration becomes a group of dotted ones."""
    hints = get_type_hints(config_class)
    described = {p.arg_name: p.description or "" for p in parse_from_object(config_class).params}
    for item in dataclasses.fields(config_class):
        name, hint, default = prefix + item.name, hints[item.name], item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        words = " ".join(described.get(item.name, "").split()).replace("%", "%%")
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            parser.add_class_arguments(hint, nested_key=name)
            if default is not dataclasses.MISSING:
                parser.set_defaults({f"{name}.{key}": value for key, value in _leaves(default)})
        elif default is dataclasses.MISSING:
            parser.add_argument(f"--{name}", type=hint, required=True, help=words)
        else:
            parser.add_argument(f"--{name}", type=hint, default=default, help=words)


def _leaves(config: Any) -> Iterator[tuple[str, object]]:
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from ((f"{item.name}.{key}", leaf) for key, leaf in _leaves(value))
        else:
            yield item.name, value
