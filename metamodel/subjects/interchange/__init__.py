"""To and from the networks that researchers have: TransformerLens bridges and transformers folders.

    from_bridge, to_bridge             a TransformerBridge, native or GPT-2               native.py
    hooked                             any pre-norm TransformerBridge, run through hooks  hooked.py
    from_transformers, to_transformers a module of transformers, or a folder of it        gpt2.py, encoder.py
    from_pretrained                    a folder or a hub name                             folder.py
    save_own                           our own folder, for whatever has no other form     own.py
    resolve, resolve_network           what a command line names: ZOO#ID, folder, hub name

These functions are the doors; what stands behind them is imported when it is used, since transformers and
TransformerLens take seconds to import and most commands need neither.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from metamodel.config.errors import require
from metamodel.subjects.subject import Subject

if TYPE_CHECKING:
    import transformer_lens.model_bridge

    from metamodel.subjects.interchange.hooked_bridge import HookedBridge

ZooReader = Callable[[str, str], Subject]
"""From a zoo's folder and the id of one of its subjects to that subject."""


def from_bridge(bridge: nn.Module, *, name: str = "bridge") -> Subject:
    """The subject that a TransformerBridge computes: native or GPT-2, raw weights, copied.

    Raises: InputError for any other module, for processed weights, and for an architecture that a subject
    cannot express, naming the setting.
    """
    from metamodel.subjects.interchange.native import from_bridge

    return from_bridge(bridge, name=name)


def to_bridge(subject: Subject) -> "transformer_lens.model_bridge.TransformerBridge":
    """A native TransformerBridge with the subject's weights (copied), ready for `run_with_cache`.

    Raises: InputError for a post-norm subject.
    """
    from metamodel.subjects.interchange.native import to_bridge

    return to_bridge(subject)


def hooked(bridge: nn.Module, *, name: str = "bridge") -> "HookedBridge":
    """A bridge of any pre-norm architecture, run through hooks, as `metamodel.circuits` takes it.

    Raises: InputError, naming the setting that stands in the way.
    """
    from metamodel.subjects.interchange.hooked import hooked

    return hooked(bridge, name=name)


def from_transformers(module: nn.Module, *, name: str = "transformers") -> Subject:
    """The subject that a `GPT2LMHeadModel` or `BertModel` computes; weights are copied.

    Raises: InputError for any other module, and for a setting that a subject cannot express.
    """
    from metamodel.subjects.interchange.folder import from_transformers

    return from_transformers(module, name=name)


def from_pretrained(name_or_folder: str | Path) -> Subject:
    """A subject from a folder, in transformers' format or our own, or from a hub name; folders work offline.

    Raises: InputError, one line, if it is not there, is broken, or has an unsupported architecture.
    """
    from metamodel.subjects.interchange.own import is_own, load_own

    if is_own(Path(name_or_folder).expanduser()):
        return load_own(Path(name_or_folder).expanduser())
    from metamodel.subjects.interchange.folder import from_pretrained

    return from_pretrained(name_or_folder)


def to_transformers(subject: Subject, folder: str | Path) -> Path:
    """Writes a GPT-2 folder that `AutoModelForCausalLM` and TransformerLens open, with equal logits.

    Raises: InputError where the subject has no GPT-2 form, naming what stands in the way.
    """
    from metamodel.subjects.interchange.gpt2 import save_gpt2

    return save_gpt2(subject, Path(folder))


def save_own(subject: Subject, folder: str | Path) -> Path:
    """Writes shape and raw weights as a folder that `from_pretrained` reads back bit by bit."""
    from metamodel.subjects.interchange.own import save_own

    return save_own(subject, Path(folder))


def resolve(text: str, *, read_zoo: ZooReader | None = None) -> Subject:
    """The subject that a command line names: `ZOO#ID`, a folder in transformers' format, or a hub name.

    Args:
        read_zoo: how to read one subject of a zoo; passed in, because zoos build on subjects.

    Raises: InputError, one line.
    """
    zoo, hash_sign, identity = text.rpartition("#")
    if not hash_sign:
        return from_pretrained(text)
    require(
        bool(zoo) and bool(identity),
        "subject",
        expected="ZOO#ID, a folder or a hub name",
        got=repr(text),
        do="Write the zoo's folder before # and the subject's id after it.",
    )
    require(
        read_zoo is not None,
        "subject",
        expected="a folder or a hub name",
        got=repr(text),
        do="This command reads no zoos; export the subject with Subject.to_transformers.",
    )
    assert read_zoo is not None
    return read_zoo(zoo, identity)


def resolve_network(text: str, *, read_zoo: ZooReader | None = None) -> "Subject | HookedBridge":
    """As `resolve`, with causal language models of other architectures as bridges that run through hooks.

    Raises: InputError, one line.
    """
    if "#" in text:
        return resolve(text, read_zoo=read_zoo)
    from metamodel.subjects.interchange.folder import KNOWN, bridge_from_pretrained, model_type

    if model_type(text) in KNOWN:
        return from_pretrained(text)
    from metamodel.subjects.interchange.hooked import hooked

    bridge, name = bridge_from_pretrained(text)
    return hooked(bridge, name=name)


__all__ = [
    "from_bridge",
    "from_pretrained",
    "from_transformers",
    "hooked",
    "resolve",
    "resolve_network",
    "save_own",
    "to_bridge",
    "to_transformers",
]
