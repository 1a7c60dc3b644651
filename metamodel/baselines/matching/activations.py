"""Similarities of what components of two subjects write on the same inputs; both subjects have to be at hand.

Activation matching after Li et al. 2016 (Convergent Learning: Do different neural networks learn the same
representations?), with one basis-free number for each component, and linear CKA (Kornblith et al. 2019,
Similarity of Neural Network Representations Revisited, equation 5) of all that it writes.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metamodel.analogy.pairs import MatchedPair
from metamodel.baselines.matching.similarity import correlation
from metamodel.circuits.base_run import source_outputs
from metamodel.subjects.canonical import canonical
from metamodel.subjects.config import components
from metamodel.subjects.subject import Subject

MOST_PROMPTS = 64
"""Inputs on which both subjects are run."""
Written = Float[Tensor, "node sample d_model"]
Theirs = Float[Tensor, "theirs sample column"]
"""The same of another subject, of another width perhaps."""


class Activations:
    """A similarity of pairs whose subjects read the same inputs; None for all others."""

    def __init__(
        self,
        compare: Callable[[Written, Theirs], Float[Tensor, "node theirs"]],
        subject_of: Callable[[str], Subject | None],
        tokens_of: Callable[[str], Int[Tensor, "batch pos"] | None],
    ):
        """Args:
        compare: `norm_correlation` or `linear_cka`.
        subject_of: the subject of a side's id, where it is at hand.
        tokens_of: inputs of its task. Both subjects are run on those of the first.
        """
        self._compare, self._subject_of, self._tokens_of = compare, subject_of, tokens_of

    def __call__(self, pair: MatchedPair) -> Float[Tensor, "node theirs"] | None:
        first, second = self._subject_of(pair.first_side.id), self._subject_of(pair.second_side.id)
        tokens = self._tokens_of(pair.first_side.id)
        if first is None or second is None or tokens is None:
            return None
        if first.config.d_vocab != second.config.d_vocab or tokens.shape[1] > second.config.n_ctx:
            return None
        sides = ((first, pair.first), (second, pair.second))
        if any(set(graph.names) - {node.name for node in components(s.config)} for s, graph in sides):
            return None  # strangers write nothing here
        ours = written(first, tokens[:MOST_PROMPTS], pair.first.names)
        theirs = written(second, tokens[:MOST_PROMPTS], pair.second.names)
        return self._compare(ours, theirs)


@torch.no_grad()
def written(subject: Subject, tokens: Int[Tensor, "batch pos"], names: tuple[str, ...]) -> Written:
    """What components of these names write at every position; nothing for the unembedding.

    In the canonical form, so that no gauge lowers the similarity of a component and its copy.
    """
    subject, config = canonical(subject), subject.config
    taps = ["hook_embed", "hook_pos_embed"]
    for layer in range(config.n_layers):
        taps += [f"blocks.{layer}.attn.hook_result"]
        taps += [f"blocks.{layer}.hook_mlp_out"] if config.has_mlp else []
    run = subject.run(tokens.long(), taps=taps)
    outputs = source_outputs(config, {name: value[0] for name, value in run.taps.items()}).flatten(1, 2)
    outputs = torch.cat([outputs, torch.zeros_like(outputs[:1])])  # the unembedding comes last
    place = {node.name: i for i, node in enumerate(components(config))}
    return outputs[[place[name] for name in names]]


def norm_correlation(first: Written, second: Theirs) -> Float[Tensor, "node theirs"]:
    """Correlation over inputs and positions of how much components write: the similarity `activations`."""
    return correlation(first.norm(dim=-1), second.norm(dim=-1))


def linear_cka(first: Written, second: Theirs) -> Float[Tensor, "node theirs"]:
    """`‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖)` of centred outputs, the similarity `raw_activations`; 0 of constants."""
    ours, theirs = (x.double() - x.double().mean(1, keepdim=True) for x in (first, second))
    shared = torch.stack([(x.T @ theirs).square().sum((1, 2)) for x in ours])
    norms = [torch.stack([(x.T @ x).norm() for x in side]) for side in (ours, theirs)]
    whole = norms[0][:, None] * norms[1][None, :]
    return (shared / whole.clamp_min(torch.finfo(torch.float32).tiny)).float()
