"""What circuits are found in: a subject, or a bridge of another architecture that is run through hooks."""

from typing import Protocol, runtime_checkable

from torch import nn

from metamodel.circuits.base_run import Intervention
from metamodel.circuits.edge_run import EdgeRun
from metamodel.circuits.prompts import Prompts, check_answers_differ, check_fit, check_padding
from metamodel.circuits.subject_run import SubjectRun
from metamodel.config.errors import InputError, require
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.subject import Subject


@runtime_checkable
class Network(Protocol):
    """What circuits are found in: a `Subject`, or an `interchange.hooked` bridge."""

    @property
    def config(self) -> SubjectConfig: ...

    @property
    def name(self) -> str: ...


def network_of(given: Network | nn.Module) -> Network:
    """The network that a user names: a bridge becomes a subject where it can, and is run by hooks elsewhere.

    Raises: InputError for a module that is no bridge, or a bridge that neither way can express.
    """
    if isinstance(given, Subject):
        return given
    from metamodel.subjects.interchange.hooked import hooked
    from metamodel.subjects.interchange.hooked_bridge import HookedBridge
    from metamodel.subjects.interchange.native import from_bridge, is_native

    if isinstance(given, HookedBridge):
        return given
    require(
        isinstance(given, nn.Module),
        "subject",
        expected="a Subject or a TransformerBridge",
        got=type(given).__name__,
        do="Use Subject.from_pretrained, or TransformerBridge.boot_transformers.",
    )
    assert isinstance(given, nn.Module)
    try:
        return from_bridge(given)
    except InputError:
        if is_native(given):
            raise
    return hooked(given)


def subject_of(given: Network | nn.Module, what: str) -> Subject:
    """The subject that a user names, for what bridges cannot do. Raises: InputError for other bridges."""
    network = network_of(given)
    if not isinstance(network, Subject) and isinstance(given, nn.Module):
        return Subject.from_bridge(given)  # says what stands in the way
    if not isinstance(network, Subject):
        raise InputError(
            "subject",
            expected=f"a subject, or a native or GPT-2 bridge, for {what}",
            got=f"{network.name}, which is run through hooks",
            do="Score whole edges or nodes.",
        )
    return network


def edge_run(
    network: Network, prompts: Prompts, intervention: Intervention, *, freeze_norm: bool = False
) -> EdgeRun:
    """A run in which the network's edges can be patched.

    Args:
        freeze_norm: every LayerNorm of a patched run divides by what it divides by in this run.

    Raises: InputError if the prompts do not fit the network, clean and corrupt answers agree, or the
    network is post-norm.
    """
    check_fit(network.config, prompts, who=network.name)
    check_padding(network.config, prompts, intervention)
    check_answers_differ(prompts)
    if isinstance(network, Subject):
        return SubjectRun.of(network, prompts, intervention, freeze_norm=freeze_norm)
    from metamodel.circuits.bridge_run import bridge_run
    from metamodel.subjects.interchange.hooked_bridge import HookedBridge

    assert isinstance(network, HookedBridge)
    return bridge_run(network, prompts, intervention, freeze_norm=freeze_norm)
