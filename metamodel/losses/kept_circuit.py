"""How far an edit moves the circuit by which a subject answers what is to stay as it is.

    L = circuit_loss(edges before, edges after; P = 1, τ = 0),  on kept inputs alone

Equal answers may be reached another way, and then break elsewhere: this asks for the way too. The components
are the same before and after, so the map is the identity and needs no threshold. Edges are shares of the
margin (`metamodel.circuits.weight_gradients.edge_shares`), raw: a circuit of half the strength is another.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.analogy.graph import edge_matrix
from metamodel.circuits.weight_gradients import StackedPrompts, edge_shares
from metamodel.config.edits import FAR, NEAR
from metamodel.losses.circuit import circuit_loss
from metamodel.subjects.config import SubjectConfig

ALIKE = 1e-3
"""How often an input is corrupted into one with the same answer, beside one with another answer."""


def kept_prompts(
    tokens: Int[Tensor, "subject input pos"],
    before: Float[Tensor, "subject input d_vocab"],
    scope: Int[Tensor, "subject input"],
    n: int,
) -> tuple[StackedPrompts, Bool[Tensor, " subject"]]:
    """Pairs of kept inputs, where one answer is corrupted into another; and which subjects have two of them.

    Drawn with torch's own generator, with replacement. The answer is what the subject said before the edit.

    Args:
        before: log probabilities before the edit.
        n: pairs of each subject.
    """
    stays = ((scope == NEAR) | (scope == FAR)).float()
    able = stays.sum(1) >= 2
    stays = torch.where(able[:, None], stays, torch.ones_like(stays))
    clean = torch.multinomial(stays, n, replacement=True)
    said = before.argmax(-1)
    answer = said.gather(1, clean)
    other = (said[:, None] != answer[:, :, None]).float().clamp_min(ALIKE)
    corrupt = torch.multinomial((other * stays[:, None]).flatten(0, 1), 1).view_as(clean)

    def of(rows: Int[Tensor, "subject batch"]) -> Int[Tensor, "subject batch pos"]:
        return tokens.gather(1, rows[..., None].expand(-1, -1, tokens.shape[2]))

    position = torch.full_like(clean, tokens.shape[2] - 1)
    return StackedPrompts(clean=of(clean), corrupt=of(corrupt), position=position, answer=answer), able


def kept_circuit_loss(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    config: SubjectConfig,
    prompts: StackedPrompts,
) -> Float[Tensor, " subject"]:
    """Distance in [0, 1] of the circuits before and after an edit, differentiable in the weights after it.

    Args:
        before, after: weights `[subject, ...]`.
        prompts: as of `kept_prompts`.
    """
    with torch.no_grad():
        old = edge_matrix(config, edge_shares(before, config, prompts))
    new = edge_matrix(config, edge_shares(after, config, prompts))
    identity = torch.eye(old.shape[-1], device=old.device, dtype=old.dtype).expand(len(old), -1, -1)
    return circuit_loss(old, new, tau=0.0, p=identity)
