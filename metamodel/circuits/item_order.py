"""Items in an order in which those that fire together stand together, so that groups of neighbours are
groups.

A search that tests groups (`metamodel.circuits.search`) spends fewer runs where the items that matter are
neighbours. What they do together is read from activations, without any ablation.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.circuits.nodes import Neuron
from metamodel.circuits.oracles import neurons
from metamodel.circuits.prompts import Prompts
from metamodel.config.errors import InputError, require, suggestion
from metamodel.subjects.subject import Subject

Grouping = Literal["clusters", "components"]


def correlated_order(
    activations: Float[Tensor, "sample item"], how: Grouping = "clusters"
) -> tuple[int, ...]:
    """Indices of all items, correlated ones side by side.

    Args:
        how: `clusters` takes the leaves of an average-linkage tree over 1 - |correlation|; `components` puts
            each item with the principal component of the standardised activations that it loads on most, the
            largest component first and the heaviest loadings first within it.

    Items that never change correlate with nothing and come last.

    Raises: InputError for an unknown way, activations that are not finite, or fewer than two samples.
    """
    if how not in get_args(Grouping):
        do = f"Choose one of them.{suggestion(how, get_args(Grouping))}"
        raise InputError("how", expected=" or ".join(get_args(Grouping)), got=repr(how), do=do)
    require(
        len(activations) >= 2 and bool(activations.isfinite().all()),
        "activations",
        expected="at least two samples, all finite",
        got=f"{len(activations)} samples" if len(activations) < 2 else "nan or inf",
        do="Record activations on more prompts.",
    )
    x = activations.double().cpu().numpy()
    x = x - x.mean(0)
    size = np.linalg.norm(x, axis=0)
    alive = np.flatnonzero(size > 1e-9 * max(1.0, float(size.max(initial=0.0))))
    dead = np.setdiff1d(np.arange(x.shape[1]), alive)
    if len(alive) > 1:
        unit = x[:, alive] / size[alive]
        alive = alive[_by_clusters(unit) if how == "clusters" else _by_components(unit)]
    return tuple(int(i) for i in (*alive, *dead))


def _by_clusters(unit: np.ndarray) -> np.ndarray:
    from scipy.cluster.hierarchy import leaves_list, linkage  # a second that others need not wait

    distance = np.clip(1 - np.abs(unit.T @ unit), 0, None)
    return leaves_list(linkage(distance[np.triu_indices(len(distance), 1)], "average"))


def _by_components(unit: np.ndarray) -> np.ndarray:
    _, scale, axes = np.linalg.svd(unit, full_matrices=False)
    loading = np.abs(scale[:, None] * axes)
    best = loading.argmax(0)
    return np.lexsort((-loading.max(0), best))


def neuron_activations(
    subject: Subject, prompts: Prompts, items: Sequence[Neuron | str] | None = None
) -> Float[Tensor, "sample item"]:
    """What neurons say at all positions of all prompts, clean and corrupt; by default all neurons.

    Raises: InputError for an unknown neuron, or tokens that the subject does not know.
    """
    every = [neuron.name for neuron in neurons(subject.config)]
    names = every if items is None else [item if isinstance(item, str) else item.name for item in items]
    index = {name: i for i, name in enumerate(every)}
    for name in names:
        if name not in index:
            do = f"The subject has {len(every)}.{suggestion(name, every)}"
            raise InputError("neurons", expected="names of this subject's", got=repr(name), do=do)
    sites = [f"blocks.{layer}.mlp.hook_post" for layer in range(subject.config.n_layers)]
    run = subject.run(torch.cat([prompts.clean, prompts.corrupt]), taps=sites)
    values = torch.cat([run.taps[site][0].flatten(0, 1) for site in sites], dim=1)
    return values[:, [index[name] for name in names]]
