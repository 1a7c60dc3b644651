"""Weights of a network on disk: safetensors, loaded strictly."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from metamodel.config.errors import InputError, require

RETRAIN = "Train again with this version of the package, or install the version that wrote it."


def save_tensors(network: nn.Module, path: Path) -> None:
    """Writes the weights of a network."""
    tensors = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt"})


def load_tensors(network: nn.Module, path: Path) -> None:
    """Reads weights into a network of their shapes.

    Raises: InputError naming path, key, expected and found, for whatever is missing, unknown or misshapen.
    """
    require(path.is_file(), str(path), expected="a file", got="none", do="Copy the whole checkpoint.")
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            str(path), expected="a safetensors file", got=str(error), do="Copy it again."
        ) from error
    wanted: dict[str, Tensor] = network.state_dict()
    for key in sorted(wanted.keys() | found.keys()):
        where = f"{path}: {key}"
        if key not in found:
            shape = tuple(wanted[key].shape)
            raise InputError(where, expected=f"shape {shape}", got="no tensor", do="Copy the file again.")
        if key not in wanted:
            raise InputError(where, expected="no such tensor", got="one", do=RETRAIN)
        expected, got = tuple(wanted[key].shape), tuple(found[key].shape)
        require(expected == got, where, expected=f"shape {expected}", got=got, do=RETRAIN)
        finite = found[key].is_floating_point() is False or bool(torch.isfinite(found[key]).all())
        require(finite, where, expected="finite numbers", got="nan or inf", do="Copy the file again.")
    network.load_state_dict(found, strict=True)
