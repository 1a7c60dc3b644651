"""Networks in transformers' format: a module, a folder or a hub name becomes a subject or one line."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import torch
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
from metamodel.subjects.interchange.setting import SUPPORTED
from metamodel.subjects.subject import Subject

Loaded = TypeVar("Loaded")
_UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
"""What transformers raises for files that are absent, broken or of the wrong shape."""


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
    text = str(name_or_folder)
    _require_present(text)
    with quiet():
        config = _loaded(text, "config.json", lambda: AutoConfig.from_pretrained(text))
    name = "/".join(Path(text).resolve().parts[-2:]) if Path(text).is_dir() else text
    match config:
        case GPT2Config():
            gpt2_config(config, text)
            module = _module(text, config, AutoModelForCausalLM, {})
        case BertConfig():
            encoder_config(config, text)
            module = _module(text, config, AutoModel, {"add_pooling_layer": False})
        case _:
            raise InputError(
                f"{text}: architecture",
                expected="'gpt2' or 'bert'",
                got=repr(config.model_type),
                do=SUPPORTED,
            )
    return from_transformers(module, name=name)


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
    with quiet():
        loaded = _loaded(
            text,
            "weights",
            lambda: loader.from_pretrained(
                text, config=config, dtype=torch.float32, output_loading_info=True, **options
            ),
        )
    module, report = cast(tuple[nn.Module, dict[str, set[str]]], loaded)
    missing = sorted(report["missing_keys"])
    require(
        not missing,
        f"{text}: weights",
        expected=f"{missing[:1]}",
        got="no such tensor",
        do="Save the network again with save_pretrained.",
    )
    return module


def _loaded(text: str, what: str, load: Callable[[], Loaded]) -> Loaded:
    try:
        return load()
    except _UNREADABLE as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        here = Path(text).is_dir()
        raise InputError(
            f"{text}: {what}",
            expected="a readable checkpoint" if here else "a folder, or a hub name that can be reached",
            got=reason.rstrip("."),
            do="Save the network again with save_pretrained." if here else "Check the name and the network.",
        ) from error
