"""From a zoo of pairs and a configuration to a trained matcher, resumable."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as lightning
import torch
from torch.utils.data import DataLoader

from metamodel.analogy.graph import CircuitGraph
from metamodel.analogy.pairs import MatchedPair
from metamodel.config.matching import MatchingConfig
from metamodel.networks.matching.encoder import CircuitEncoder
from metamodel.networks.matching.ensemble import MatcherEnsemble
from metamodel.networks.matching.matcher import Matcher
from metamodel.objectives.matching import MatchingObjective
from metamodel.subjects.config import KINDS
from metamodel.training.match_pairs import MatchPairs, TrainingCircuit
from metamodel.training.matching_checkpoint import MatcherSizes
from metamodel.training.normaliser import FLAT
from metamodel.training.trainer import RESUME, Duration
from metamodel.training.trainer import train as train_objective

SAVE_EVERY = 200
"""Steps between resumable states."""
AS_STORED = ("permuted", "modified", "larger", "partial", "program", "natural")
"""Kinds of pairs whose first circuit is that of a subject of the zoo, unchanged."""


def fit_matcher(
    config: MatchingConfig, pairs: Sequence[MatchedPair], folder: Path
) -> Matcher | MatcherEnsemble:
    """A trained matcher: one network, or several of seeds that follow one another, each in its own folder.

    Raises: KeyboardInterrupt when interrupted; the last saved state is kept.
    """
    n = config.matcher.members
    if n == 1:
        return fit_member(config, pairs, folder)
    members = [
        fit_member(replace(config, seed=config.seed + k), pairs, folder / f"member{k}") for k in range(n)
    ]
    return MatcherEnsemble(members)


def fit_member(config: MatchingConfig, pairs: Sequence[MatchedPair], folder: Path) -> Matcher:
    """A trained network. Goes on from `folder / "last.ckpt"` where there is one.

    A run that goes on draws its pairs from another seed, which the step it begins at gives.

    Args:
        pairs: of the split `train`.

    Raises: KeyboardInterrupt when interrupted; the last saved state is kept.
    """
    lightning.seed_everything(config.seed, verbose=False)
    circuits = circuits_of(pairs)
    graphs = [circuit.graph for circuit in circuits]
    m = config.matcher
    matcher = sizes_of(config, graphs[0].features.shape[1]).network(
        dropout=m.dropout, feature_dropout=m.feature_dropout, column_dropout=m.column_dropout
    )
    fit_scales(matcher.encoder, graphs)
    begins = steps_done(folder)
    data = MatchPairs(pairs, circuits, config.training, seed=config.seed + begins)
    train_objective(
        MatchingObjective(matcher, config),
        DataLoader(data, batch_size=None),
        folder,
        Duration(unit="step", n=config.training.steps, save_every=SAVE_EVERY),
        config.trainer,
        name=config.name,
        logger=config.logger,
        grad_clip=config.optim.grad_clip,
    )
    return matcher.cpu().eval()


def steps_done(folder: Path) -> int:
    """Steps that a run has behind it, by its resumable state; 0 for none."""
    state = folder / RESUME
    return int(torch.load(state, weights_only=True)["global_step"]) if state.is_file() else 0


def sizes_of(config: MatchingConfig, n_features: int) -> MatcherSizes:
    m = config.matcher
    return MatcherSizes(
        n_features=n_features,
        width=m.width,
        n_layers=m.n_layers,
        n_heads=m.n_heads,
        edge_width=m.edge_width,
        n_steps=m.n_steps,
        cross_attention=m.cross_attention,
        depth=m.depth,
        centred_by_circuit=m.centre == "circuit",
        blind_share=m.blind_share,
        members=m.members,
    )


def circuits_of(pairs: Sequence[MatchedPair]) -> list[TrainingCircuit]:
    """Real circuits as they were stored, each once: the first ones of pairs of real networks.

    Planted pairs, and absent ones that are made from them, have strangers in their first circuit, too.
    """
    found = {
        pair.first_side.id: TrainingCircuit(graph=pair.first, lineage=pair.first_side.lineage)
        for pair in pairs
        if pair.kind in AS_STORED and pair.first_side.id
    }
    return [circuit for circuit in found.values() if not bool(circuit.graph.is_anchor.all())]


@torch.no_grad()
def fit_scales(encoder: CircuitEncoder, graphs: Sequence[CircuitGraph]) -> None:
    """Sets median and inverse robust deviation of each feature among nodes of each kind.

    Columns that are constant for a kind count 0 there.
    """
    features, kinds = torch.cat([g.features for g in graphs]), torch.cat([g.kinds for g in graphs])
    quartiles = torch.tensor([0.25, 0.5, 0.75], device=features.device)
    encoder.inverse_scale.zero_()
    for kind in range(len(KINDS)):
        values = features[kinds == kind]
        if len(values) > 1 and values.shape[1]:
            low, centre, high = values.quantile(quartiles, dim=0)
            spread = torch.maximum((high - low) / 1.35, 0.3 * values.std(0, correction=0))
            moves = spread > FLAT * (1 + centre.abs())
            encoder.centre[kind] = centre
            encoder.inverse_scale[kind] = torch.where(moves, 1 / spread.clamp_min(1e-12), 0.0)
