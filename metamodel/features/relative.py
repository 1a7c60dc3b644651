"""Relational ratio signatures of single components: how each ratio stands among those of its own subject.

Three numbers of every ratio of `RatioSignature.of_components`: the log-ratio (or cosine) itself; the same
over the median of the subject's other components of its kind; and its place among them, from -1 for the least
to 1 for the largest. The place is an order statistic with soft steps, `mean_k tanh((x_i - x_k) / WIDTH)`, for
proper ranks jump where rounding swaps two equal components. All are ratios inside one subject, so no gauge
moves them, and subjects of other sizes and other scales can be compared.

Only matchers see these columns: readers and their checkpoints know those of `metamodel.features.registry`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.config.words import NodeDescription
from metamodel.features.graph import graph_of_view
from metamodel.features.ratios import RatioSignature, component_names, signature_of_view
from metamodel.features.registry import feature_names
from metamodel.features.view import Shown, view
from metamodel.subjects.subject import Subject

WIDTH = 0.1
"""Difference of log-ratios, or of cosines, from which one stands clearly above the other."""
PREFIXES = ("ratio", "ratio_over_kind", "ratio_place")


def relative_names() -> tuple[str, ...]:
    """Columns of `relative_ratios`."""
    return tuple(f"{prefix}.{name}" for prefix in PREFIXES for name in component_names())


def is_ratio(name: str) -> bool:
    """Whether a column of a description is one of these."""
    return name.partition(".")[0] in PREFIXES


def description_of(names: Sequence[str]) -> NodeDescription:
    """Which description columns of these names belong to."""
    ratios = {is_ratio(name) for name in names}
    if not ratios:
        return "edges"
    return "both" if len(ratios) == 2 else "ratios" if ratios.pop() else "features"


@torch.no_grad()
def relative_ratios(signature: RatioSignature) -> Float[Tensor, "node feature"]:
    """Ratios of every component, over those of the others of its kind, and its place among these.

    0 where a component has no such ratio, or where there is no other one of its kind that has.
    """
    ratios = signature.of_components()
    kinds = [node.kind for node in signature.nodes]
    over, place = torch.zeros_like(ratios), torch.zeros_like(ratios)
    for kind in dict.fromkeys(kinds):
        rows = torch.tensor([i for i, other in enumerate(kinds) if other == kind], device=ratios.device)
        own, n = ratios[rows], len(rows)
        itself = torch.eye(n, dtype=torch.bool, device=ratios.device)[..., None]
        others = own.expand(n, n, -1).masked_fill(itself, torch.nan)
        over[rows] = own - others.nanquantile(0.5, dim=1)
        place[rows] = ((own[:, None] - others) / WIDTH).tanh().nanmean(1)
    return torch.cat([ratios, over, place], 1).nan_to_num(nan=0.0).float()


def matcher_names() -> tuple[str, ...]:
    """Columns of `matcher_features`."""
    return (*feature_names("both"), *relative_names())


def matcher_features(subject: Subject, shown: Shown, *, ratios: bool = True) -> Float[Tensor, "node feature"]:
    """All that matchers may see of each component: features of both tracks, then ratios.

    Args:
        shown: prompts of the behavior whose circuit is meant.
        ratios: whether they are computed at all; the columns of ratios are left out without.
    """
    v = view(subject, shown=shown)
    nodes = graph_of_view(v, "both").nodes
    return torch.cat([nodes, relative_ratios(signature_of_view(v))], 1) if ratios else nodes
