"""How like a teacher a student is, as terms of its loss, for stacks of students and their teachers."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from data_gen.siit_exchange import exchanged_logits, partner, run_clean
from metamodel.analogy.exchange import stream_sites
from metamodel.analogy.procrustes import evenly, procrustes, ratio
from metamodel.circuits.weight_gradients import writing_sites, written
from metamodel.subjects.config import SubjectConfig, components
from metamodel.subjects.forward import Weights, forward
from metamodel.subjects.sites import Replacement


def kl(
    teacher: Float[Tensor, "subject row d_vocab"], student: Float[Tensor, "subject row d_vocab"]
) -> Float[Tensor, " subject"]:
    """KL(teacher ‖ student) in nats, mean over rows."""
    wanted = teacher.log_softmax(-1)
    return (wanted.exp() * (wanted - student.log_softmax(-1))).sum(-1).mean(-1)


def streams(
    weights: Weights, config: SubjectConfig, tokens: Int[Tensor, "subject batch pos"]
) -> list[Float[Tensor, "subject batch pos d_model"]]:
    """The residual stream behind each block."""
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(config.n_layers)]
    taps = forward(weights, config, tokens, taps=names).taps
    return [taps[name] for name in names]


def matched_layers(n_student: int, n_teacher: int) -> list[tuple[int, int]]:
    """For each of the student's blocks the teacher's of nearest depth."""
    depths = [round((layer + 1) / n_student * n_teacher) - 1 for layer in range(n_student)]
    return [(layer, min(n_teacher - 1, max(0, depth))) for layer, depth in enumerate(depths)]


def cka(
    one: Float[Tensor, "subject row column"], other: Float[Tensor, "subject row d_model"]
) -> Float[Tensor, " subject"]:
    """Linear centred kernel alignment, in [0, 1] (Kornblith et al. 2019)."""
    x, y = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)

    def squared(a: Tensor, b: Tensor) -> Tensor:
        return (a.mT @ b).pow(2).sum((1, 2))

    return squared(x, y) / (squared(x, x) * squared(y, y)).sqrt().clamp_min(1e-12)


def rsa(
    one: Float[Tensor, "subject row column"], other: Float[Tensor, "subject row d_model"]
) -> Float[Tensor, " subject"]:
    """Correlation of the cosine distances between rows (Kriegeskorte et al. 2008), in [-1, 1]."""
    upper = torch.ones(one.shape[1], one.shape[1], dtype=torch.bool, device=one.device).triu(1)

    def distances(x: Tensor) -> Tensor:
        x = F.normalize(x - x.mean(1, keepdim=True), dim=-1)
        found = (1 - x @ x.mT)[:, upper]
        return F.normalize(found - found.mean(1, keepdim=True), dim=-1)

    return (distances(one) * distances(other)).sum(-1)


Side = tuple[Weights, SubjectConfig]
"""A stack of subjects."""


def interchange(
    student: Side,
    teacher: Side,
    tokens: Int[Tensor, "subject batch pos"],
    position: Int[Tensor, "subject batch"],
    theirs: Int[Tensor, "subject batch"],
    own: Int[Tensor, "subject batch"],
) -> Float[Tensor, " subject"]:
    """KL from the teacher's answers to the student's when matched components are exchanged in both.

    Interchange intervention distillation (Wu et al. 2021), on the map of a circuit instead of a given one.

    Args:
        theirs, own: component that is exchanged on each prompt, of the teacher and of the student; its source
            is the next prompt.
    """
    with torch.no_grad():
        wanted = _exchanged(teacher, tokens, position, theirs)
    return kl(wanted, _exchanged(student, tokens, position, own))


def transplanted(
    student: Side,
    teacher: Side,
    tokens: Int[Tensor, "subject batch pos"],
    position: Int[Tensor, "subject batch"],
    theirs: Int[Tensor, " subject"],
    own: Int[Tensor, " subject"],
) -> Float[Tensor, " subject"]:
    """KL from the teacher's answers under interchange to the student's with the teacher's own write in place.

    Writes are carried by one orthogonal map of streams, fitted anew and without gradient: what learns is how
    the student reads them (as Model Alignment Search, arXiv 2501.06164, learns the map).

    Args:
        theirs, own: the one component of each subject that is exchanged on all prompts.
    """
    n = tokens.shape[1]
    with torch.no_grad():
        wanted = _exchanged(teacher, tokens, position, theirs[:, None].expand(-1, n))
        rotation, scale = stream_maps(student, teacher, tokens)
        given, made = _written(teacher, tokens, theirs), _written(student, tokens, own)
        given = partner(given, 1) - given.mean((1, 2), keepdim=True)
        given = scale[:, None, None, None] * torch.einsum("sbpm,smn->sbpn", given, rotation)
        write = made.mean((1, 2), keepdim=True) + given
    weights, config = student
    replace: dict[str, Replacement] = {}
    nodes = components(config)
    for layer in range(config.n_layers):
        heads = [i for i, node in enumerate(nodes) if node.kind == "head" and node.layer == layer]
        here = own[:, None] == torch.tensor(heads)
        replace[f"blocks.{layer}.attn.hook_result"] = _put(here[:, None, None, :, None], write.unsqueeze(3))
        if config.has_mlp:
            here = own == heads[-1] + 1
            replace[f"blocks.{layer}.hook_mlp_out"] = _put(here[:, None, None, None], write)
    return kl(wanted, _asked(forward(weights, config, tokens, replace=replace).logits, position))


@torch.no_grad()
def stream_maps(
    student: Side, teacher: Side, tokens: Int[Tensor, "subject batch pos"]
) -> tuple[Float[Tensor, "subject d_model column"], Float[Tensor, " subject"]]:
    """Orthogonal map and scale from each teacher's residual stream to its student's (Procrustes)."""
    (x, x_size), (y, y_size) = (_stream_rows(side, tokens) for side in (teacher, student))
    rotation, scale = procrustes(x, y)
    return rotation, scale * ratio(x_size, y_size)


def misalignment(
    student: Side, teacher: Side, tokens: Int[Tensor, "subject batch pos"]
) -> Float[Tensor, " subject"]:
    """What the best orthogonal map of streams leaves, in [0, 1]: 1 − ‖XᵀY‖_* / (‖X‖ ‖Y‖).

    The shape metric of Williams et al. 2021, with a gradient in the student. Writes can only be carried from
    subject to subject where this is small.
    """
    with torch.no_grad():
        x, _ = _stream_rows(teacher, tokens)
    y, _ = _stream_rows(student, tokens)
    nuclear = torch.linalg.svdvals(x.mT @ y).sum(1)
    return 1 - nuclear / (x.norm(dim=(1, 2)) * y.norm(dim=(1, 2)))


def _stream_rows(
    side: Side, tokens: Int[Tensor, "subject batch pos"]
) -> tuple[Float[Tensor, "subject row d_model"], Float[Tensor, "subject item"]]:
    """Centred residual streams at depths 0, 1/2 and 1, each with the same weight, and their norms."""
    weights, config = side
    sites = stream_sites(config)
    taps = forward(weights, config, tokens, taps=sites).taps
    parts = [_centred(taps[name], config).flatten(1, 2) for name in sites]
    return evenly([part - part.mean(1, keepdim=True) for part in parts])


def _centred(x: Float[Tensor, "*rest d_model"], config: SubjectConfig) -> Float[Tensor, "*rest d_model"]:
    """Without its mean over `d_model`, which no LayerNorm sees."""
    return x - x.mean(-1, keepdim=True) if config.has_norm else x


def _written(
    side: Side, tokens: Int[Tensor, "subject batch pos"], node: Int[Tensor, " subject"]
) -> Float[Tensor, "subject batch pos d_model"]:
    """What one component of each subject writes."""
    weights, config = side
    taps = forward(weights, config, tokens, taps=writing_sites(config)).taps
    return _centred(written(weights, config, taps)[torch.arange(len(node)), node], config)


def _put(here: Tensor, write: Tensor) -> Replacement:
    return lambda value: torch.where(here, write, value)


def _exchanged(
    side: Side,
    tokens: Int[Tensor, "subject batch pos"],
    position: Int[Tensor, "subject batch"],
    node: Int[Tensor, "subject batch"],
) -> Float[Tensor, "subject batch d_vocab"]:
    """Answers when a component of each prompt writes what it writes on the next prompt."""
    return _asked(exchanged_logits(*side, run_clean(*side, tokens), node[:, None])[:, 0], position)


def _asked(
    logits: Float[Tensor, "subject batch pos d_vocab"], position: Int[Tensor, "subject batch"]
) -> Float[Tensor, "subject batch d_vocab"]:
    return logits.gather(2, position[..., None, None].expand(-1, -1, 1, logits.shape[-1])).squeeze(2)
