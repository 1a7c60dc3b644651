"""Networks in transformers' format: a module, a folder or a hub name becomes a subject or one line."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PretrainedConfig,
)

from metamodel.config.errors import InputError, require
from metamodel.subjects.interchange.encoder import encoder_config, from_encoder
from metamodel.subjects.interchange.gpt2 import from_gpt2, gpt2_config
from metamodel.subjects.interchange.quiet import quiet
from metamodel.subjects.interchange.setting import SUPPORTED, require_setting
from metamodel.subjects.subject import Subject

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_SAVE_AGAIN = "Save the network again with save_pretrained."
KNOWN = ("gpt2", "bert")
"""Values of `model_type` whose networks are read as subjects."""
Loaded = TypeVar("Loaded")
_UNREADABLE = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError),
    *(RuntimeError, SafetensorError, StrictDataclassError),
)
"""What transformers raises for files that are absent, broken or of the wrong shape: it uses a setting of the
wrong type as if it were right, so that almost anything may come."""


def from_transformers(module: nn.Module, *, name: str) -> Subject:
    """The subject of a module that is already in memory."""
    match module:
        case GPT2LMHeadModel():
            return from_gpt2(module, name=name)
        case BertModel():
            return from_encoder(module, name=name)
        case _:
            raise InputError(
                f"{name}: architecture",
                expected="GPT2LMHeadModel or BertModel",
                got=type(module).__name__,
                do=SUPPORTED,
            )


def from_pretrained(name_or_folder: str | Path) -> Subject:
    """The subject of a folder or hub name. The configuration is judged before any weight is read."""
    text = _expanded(name_or_folder)
    with quiet():
        kind = model_type(text)
        require_setting(f"{text}: architecture", kind, KNOWN)
        config = _loaded(text, "config.json", lambda: AutoConfig.from_pretrained(text))
    if isinstance(config, GPT2Config):
        gpt2_config(config, text)
        module = _module(text, config, AutoModelForCausalLM, {})
    else:
        assert isinstance(config, BertConfig)
        encoder_config(config, text)
        module = _module(text, config, AutoModel, {"add_pooling_layer": False})
    return from_transformers(module, name=_name(text))


def bridge_from_pretrained(name_or_folder: str | Path) -> "tuple[TransformerBridge, str]":
    """A bridge of a causal language model of any architecture that TransformerLens knows, and its name.

    Raises: InputError, one line, if it is not there, is broken, or TransformerLens does not know it.
    """
    text = _expanded(name_or_folder)
    with quiet():
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

        config = _loaded(text, "config.json", lambda: AutoConfig.from_pretrained(text))
        module = _module(text, config, AutoModelForCausalLM, {})
        made = _loaded(
            text,
            "architecture",
            lambda: build_bridge_from_module(module.eval(), type(module).__name__, hf_config=config),
        )
    return made, _name(text)


def model_type(name_or_folder: str | Path) -> object:
    """What config.json says of the architecture; None where it says nothing. Raises: as `from_pretrained`."""
    text = _expanded(name_or_folder)

    def read() -> object:
        config: object = PretrainedConfig.get_config_dict(text)[0]
        if not isinstance(config, dict):
            raise TypeError(f"a {type(config).__name__} in place of an object")
        return config.get("model_type")

    with quiet():
        return _loaded(text, "config.json", read)


def _expanded(name_or_folder: str | Path) -> str:
    """With the home folder written out. Raises: InputError for a path that is not there."""
    text = str(name_or_folder)
    text = str(Path(text).expanduser()) if text.startswith("~") else text
    _require_present(text)
    return text


def _name(text: str) -> str:
    return "/".join(Path(text).resolve().parts[-2:]) if Path(text).is_dir() else text


def _require_present(text: str) -> None:
    """A folder that is not there is said to be so, before the hub takes its path for a badly formed name."""
    path = Path(text)
    looks_like_path = path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1 or "\\" in text
    require(
        path.is_dir() or not (looks_like_path or path.is_file() or not text),
        "subject",
        expected="a folder in transformers' format or a hub name",
        got=f"{text!r}, which is {'a file' if path.is_file() else 'not there'}",
        do="Check the path.",
    )
    require(
        not path.is_dir() or (path / "config.json").is_file(),
        text,
        expected="a folder with a config.json in transformers' format",
        got="none in it",
        do="Name the folder that save_pretrained wrote.",
    )


def _module(
    text: str,
    config: PretrainedConfig,
    loader: type[AutoModel | AutoModelForCausalLM],
    options: dict[str, bool],
) -> nn.Module:
    """The module, every weight of it read from the checkpoint; transformers would draw absent ones."""
    options = options | {"output_loading_info": True, "ignore_mismatched_sizes": True}
    with quiet():
        loaded = _loaded(
            text,
            "weights",
            lambda: loader.from_pretrained(text, config=config, dtype=torch.float32, **options),
        )
    module, report = cast(tuple[nn.Module, dict[str, Any]], loaded)
    for key, got, expected in sorted(report["mismatched_keys"]):
        raise InputError(
            f"{text}: weights",
            expected=f"{key} of shape {tuple(expected)}",
            got=f"shape {tuple(got)}",
            do=_SAVE_AGAIN,
        )
    for key in sorted(report["missing_keys"]):
        raise InputError(f"{text}: weights", expected=key, got="no such tensor", do=_SAVE_AGAIN)
    return module


def _loaded(text: str, what: str, load: Callable[[], Loaded]) -> Loaded:
    try:
        return load()
    except _UNREADABLE as error:
        here = Path(text).is_dir()
        raise InputError(
            f"{text}: {what}",
            expected="a readable checkpoint" if here else "a folder, or a hub name that can be reached",
            got=_first_line(error),
            do=_SAVE_AGAIN if here else "Check the name and the network.",
        ) from error


def _first_line(error: Exception) -> str:
    """What went wrong, in one line; a line that ends with a colon is a heading of the next."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    heading = lines[0].endswith(":") and len(lines) > 1
    return " ".join(lines[:2] if heading else lines[:1]).rstrip(".")
