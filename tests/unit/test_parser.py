"""Commands read their configuration strictly, and say what is wrong with it in one line."""

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Literal

import pytest
import yaml

from metamodel.config import InputError, require
from metamodel.config.command import run_command
from metamodel.config.parser import command_parser, parse_config, parse_options, plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """Settings of a test's optimiser."""

    lr: float = 1e-3
    """Step width."""
    kind: Literal["adam", "sgd"] = "adam"
    """Which one."""

    def __post_init__(self):
        require(self.lr > 0, "optim.lr", expected="> 0", got=self.lr, do="Set a positive learning rate.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A shape."""

    width: int
    """Width, 100% of it."""
    depth: int = 1
    """Depth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    """A test's configuration."""

    name: str
    """Its name."""
    sizes: dict[str, Size]
    """Shapes, by name."""
    order: tuple[Size, ...] = ()
    """Shapes, in order."""
    limit: int | None = None
    """An optional number."""
    optim: Inner = field(default_factory=lambda: Inner(lr=0.5))
    """The optimiser."""


FILE = """\
name: first
sizes:
  small: {width: 4}
  large: {width: 8, depth: 2}
order:
  - {width: 1}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "test.yaml"
    path.write_text(FILE)
    return path


def read(*arguments: str) -> Outer:
    parser = command_parser(prog="metamodel.test", description="A test.")
    parser.add_argument("--out", type=str, default=None, help="folder")
    parser.add_argument("--workers", type=int, default=1, help="number")
    parser.add_argument("--way", type=Literal["a", "b"], default="a", help="way")
    return parse_config(parser, Outer, arguments)[0]


def test_a_file_and_overrides_make_a_frozen_configuration(file):
    assert read("--config", str(file)) == Outer(
        name="first",
        sizes={"small": Size(width=4), "large": Size(width=8, depth=2)},
        order=(Size(width=1),),
        optim=Inner(lr=0.5),
    )
    overridden = read("--config", str(file), "--sizes.small.depth=3", "--optim.lr", "1e-4", "--limit", "7")
    assert overridden.sizes == {"small": Size(width=4, depth=3), "large": Size(width=8, depth=2)}
    assert (overridden.optim, overridden.limit) == (Inner(lr=1e-4), 7)


def test_options_of_the_command_stand_apart_from_the_configuration(file):
    parser = command_parser(prog="metamodel.test", description="A test.")
    parser.add_argument("--out", type=str, default=None, help="folder")
    config, options = parse_config(parser, Outer, ["--out", "x"], default_file=str(file))
    assert (config.name, options.out) == ("first", "x")
    assert not hasattr(options, "name")


def test_the_printed_configuration_is_accepted_back(file, tmp_path, capsys):
    with pytest.raises(SystemExit) as done:
        read("--config", str(file), "--optim.kind", "sgd", "--print_config")
    assert done.value.code == 0
    printed = capsys.readouterr().out
    assert set(yaml.safe_load(printed)) == {"name", "sizes", "order", "limit", "optim"}
    (tmp_path / "again.yaml").write_text(printed)
    expected = read("--config", str(file), "--optim.kind", "sgd")
    assert read("--config", str(tmp_path / "again.yaml")) == expected
    assert plain(expected) == yaml.safe_load(printed)


def test_help_comes_from_the_docstrings_of_the_fields(capsys):
    with pytest.raises(SystemExit) as done:
        read("--help")
    assert done.value.code == 0
    shown = capsys.readouterr().out
    for words in ("Step width.", "Shapes, by name.", "default: 0.5", "--optim.kind {adam,sgd}", "A test."):
        assert words in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--nmae=x"],
            "metamodel.test: expected a known option, got --nmae. See --help. Did you mean '--name'?",
        ),
        (
            ["--optim.lrr", "3"],
            "metamodel.test: expected a known option, got --optim.lrr. See --help. "
            "Did you mean '--optim.lr'?",
        ),
        (
            ["--wokers=2"],
            "metamodel.test: expected a known option, got --wokers. See --help. Did you mean '--workers'?",
        ),
        (
            ["--sizes.small.widht", "3"],
            "--sizes.small.widht: expected a known key, got 'widht'. Rename or remove it. "
            "Did you mean 'width'?",
        ),
        (["--optim.lr=fast"], "--optim.lr: expected a number, got 'fast'. Correct it."),
        (["--optim.kind", "adm"], "--optim.kind: expected one of adam, sgd, got 'adm'. Correct it."),
        (["--limit", "x"], "--limit: expected an integer or null, got 'x'. Correct it."),
        (["--way=c"], "--way: expected one of a, b, got 'c'. Correct it."),
        (["--workers", "x"], "--workers: expected an integer, got 'x'. Correct it."),
        (["--sizes.large.depth=deep"], "--sizes.large.depth: expected an integer, got 'deep'. Correct it."),
        (["--optim.lr"], "--optim.lr: expected a value, got none. Give one."),
        (["--optim.lr=-0.1"], "optim.lr: expected > 0, got -0.1. Set a positive learning rate."),
        (["stray"], "metamodel.test: expected options only, got 'stray'. See --help."),
    ],
)
def test_a_wrong_argument_is_one_line(file, arguments, message):
    with pytest.raises(InputError) as error:
        read("--config", str(file), *arguments)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name:", "nam:", "nam: expected a known key, got 'nam'. Rename or remove it. Did you mean 'name'?"),
        (
            "depth: 2",
            "detph: 2",
            "sizes.large.detph: expected a known key, got 'detph'. Rename or remove it. "
            "Did you mean 'depth'?",
        ),
        (
            "large: {width: 8, depth: 2}\norder:",
            "lmit: {width: 8}\nlmit: 3\norder:",
            "lmit: expected a known key, got 'lmit'. Rename or remove it. Did you mean 'limit'?",
        ),
        ("depth: 2", "depth: two", "sizes.large.depth: expected an integer, got 'two'. Correct it."),
        (
            "- {width: 1}",
            "- {width: 1, colour: red}",
            "order.0.colour: expected a known key, got 'colour'. Rename or remove it. "
            "Known keys: width, depth.",
        ),
        ("order:", "limit: x\norder:", "limit: expected an integer or null, got 'x'. Correct it."),
        (
            "order:",
            "optim: {lrr: 3}\norder:",
            "optim.lrr: expected a known key, got 'lrr'. Rename or remove it. Did you mean 'lr'?",
        ),
    ],
)
def test_a_wrong_key_or_value_in_a_file_names_file_and_place(file, old, new, message):
    assert old in FILE
    file.write_text(FILE.replace(old, new))
    with pytest.raises(InputError) as error:
        read("--config", str(file))
    assert str(error.value) == f"{file}: {message}"


def test_a_file_that_is_missing_broken_or_empty_is_one_line(file, tmp_path):
    def message(*arguments: str) -> str:
        with pytest.raises(InputError) as error:
            read(*arguments)
        return str(error.value)

    near = tmp_path / "tset.yaml"
    assert message("--config", str(near)) == (
        f"--config: expected a YAML file, got no file {near}. Check the path. Did you mean '{file}'?"
    )
    assert message("--config") == "--config: expected a value, got none. Give one."
    assert message() == "metamodel.test: name: expected a value, got none. Give --name or a --config with it."
    file.write_text("name: [")
    assert message("--config", str(file)) == (
        f"{file}, line 1: expected YAML, got a syntax error. Check brackets and indentation."
    )
    file.write_text("")
    assert message("--config", str(file)).startswith(f"{file}: expected keys with values, got an empty file.")
    file.write_text("- 1")
    assert message("--config", str(file)).startswith(f"{file}: expected keys with values, got a list.")


def test_a_command_without_configuration_is_as_strict():
    parser = command_parser(prog="metamodel.test", description="A test.")
    parser.add_argument("folder", type=str, help="a folder")
    assert parse_options(parser, ["x"]).folder == "x"
    with pytest.raises(InputError) as error:
        parse_options(parser, ["x", "--fodler=3"])
    assert str(error.value) == "metamodel.test: expected a known option, got --fodler. See --help."
    with pytest.raises(InputError) as error:
        parse_options(parser, [])
    assert str(error.value) == "metamodel.test: folder: expected a value, got none. Give it; see --help."


def raising(error: BaseException):
    def main(arguments: list[str]) -> None:
        raise error

    return main


def test_a_users_mistake_is_one_line_and_code_2(capsys, monkeypatch):
    mistake = InputError("seed", expected="an\ninteger", got="x", do="Fix it.")
    with pytest.raises(SystemExit) as ended:
        run_command(raising(mistake), [])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "seed: expected an integer, got x. Fix it.\n"
    monkeypatch.setenv("METAMODEL_DEBUG", "1")
    with pytest.raises(SystemExit):
        run_command(raising(mistake), [])
    assert "Traceback" in capsys.readouterr().err


def test_an_interruption_is_one_line_and_code_130_and_our_own_errors_pass(capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(raising(KeyboardInterrupt()), [])
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip() == (
        "Interrupted. What is finished is kept: run the same command again to go on."
    )
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()), [])


def test_parsing_imports_nothing_heavy():
    code = (
        "import sys, metamodel.config.parser, metamodel.config.command, data_gen.config, data_gen.build, "
        "data_gen.verify;"
        "print([m for m in ('torch', 'numpy', 'datasets', 'lightning', 'transformers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
