"""An editor that never runs the subject: it looks at weights and at the tokens of a specification.

For every head and every neuron it sees invariants of the canonical form: norms, depth, and direct paths, that
is how far it writes towards the wanted answers, and reads the tokens of the pairs' and of the kept prompts. A
small network turns them into a gate, by which what the component writes is scaled. It shows how far an edit
can be told from weights alone.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metamodel.baselines.editing.aims import Aims, loss, truth, wanted_distribution
from metamodel.baselines.editing.base import Changes, Episode, Opponent
from metamodel.baselines.editing.learning import learn, seeded
from metamodel.config.edits import CHANCE, KEEP, PAIR
from metamodel.subjects.canonical import canonical
from metamodel.subjects.forward import logits_at
from metamodel.subjects.mapped_back import mapped_back
from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Examples

WIDTH, STEPS, BATCH, LEARNING_RATE = 24, 200, 4, 3e-3
MOST_INPUTS = 160
"""Inputs of a domain that are trained on."""
TINY = 1e-6


def component_features(
    form: Subject, examples: Examples
) -> tuple[Float[Tensor, "layer head feature"], Float[Tensor, "layer neuron feature"]]:
    """What is seen of heads and of neurons."""
    weights, config = form.weights, form.config
    pair, keep = examples.role == PAIR, examples.role == KEEP
    target = wanted_distribution(examples.wanted[pair], examples.answers, config.d_vocab).mean(0)
    uniform = torch.zeros_like(target)
    uniform[examples.answers] = 1 / len(examples.answers)
    towards = weights["unembed.W_U"] @ (target - uniform).to(weights["unembed.W_U"].dtype)
    towards = towards / weights["unembed.W_U"].norm(dim=0).mean()
    shown, kept = (weights["embed.W_E"][examples.tokens[among]].mean((0, 1)) for among in (pair, keep))
    kept = torch.where(keep.any(), kept, torch.zeros_like(kept))
    told = [float(torch.tensor(float(pair.sum())).log1p()), float((examples.wanted[pair] == CHANCE).any())]
    heads, neurons = [], []
    for layer in range(config.n_layers):
        block, depth = f"blocks.{layer}", (layer + 1) / config.n_layers
        read, write = weights[f"{block}.attn.W_V"], weights[f"{block}.attn.W_O"]
        query, key = weights[f"{block}.attn.W_Q"], weights[f"{block}.attn.W_K"]
        through = read @ write
        seen = [
            through.norm(dim=(1, 2)).clamp_min(TINY).log(),
            (query @ key.mT).norm(dim=(1, 2)).clamp_min(TINY).log(),
            through.diagonal(dim1=1, dim2=2).sum(1) / through.norm(dim=(1, 2)).clamp_min(TINY),
            (write @ towards).norm(dim=1),
            torch.einsum("m,hmn,n->h", shown, through, towards),
            torch.einsum("m,hmn,n->h", kept, through, towards),
        ]
        heads.append(_features(seen, [depth, *told]))
        if config.has_mlp:
            into, out = weights[f"{block}.mlp.W_in"], weights[f"{block}.mlp.W_out"]
            seen = [
                into.norm(dim=0).clamp_min(TINY).log(),
                out.norm(dim=1).clamp_min(TINY).log(),
                (into * out.T).sum(0),
                out @ towards,
                shown @ into,
                kept @ into,
            ]
            neurons.append(_features(seen, [depth, *told]))
    return torch.stack(heads), torch.stack(neurons) if neurons else torch.zeros(0, 0, N_FEATURES)


N_FEATURES = 9


def _features(seen: list[Tensor], constants: list[float]) -> Float[Tensor, "unit feature"]:
    columns = [*seen, *(torch.full_like(seen[0], value) for value in constants)]
    return torch.stack(columns, dim=1).float()


class Gates(nn.Module):
    """A number for each component: by how much what it writes is scaled up or down."""

    def __init__(self, rows: Float[Tensor, "row feature"]):
        super().__init__()
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", rows.mean(0))
        self.register_buffer("spread", rows.std(0, correction=0).clamp_min(1e-3))
        self.net = nn.Sequential(
            nn.Linear(N_FEATURES, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1)
        )
        for parameter in self.net[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Float[Tensor, "*rest feature"]) -> Float[Tensor, "*rest"]:
        return self.net((features - self.mean) / self.spread).squeeze(-1)


class WeightsOnly(Opponent):
    """Gates of heads and neurons, from weights and tokens."""

    def __init__(self, *, steps: int = STEPS):
        self._steps = steps
        self._heads = Gates(torch.zeros(1, N_FEATURES))
        self._neurons = Gates(torch.zeros(1, N_FEATURES))

    @property
    def name(self) -> str:
        return "weights_only"

    def tune(self, episodes: Sequence[Episode]) -> None:
        forms = [canonical(episode.editable.subject) for episode in episodes]
        seen = [component_features(form, e.examples) for form, e in zip(forms, episodes, strict=True)]
        with seeded():
            self._heads = Gates(torch.cat([heads.flatten(0, 1) for heads, _ in seen]))
            self._neurons = Gates(torch.cat([neurons.flatten(0, 1) for _, neurons in seen]))
        aims = [_some(truth(episode)) for episode in episodes]
        losses = [partial(self._loss, *one) for one in zip(forms, seen, aims, strict=True)]
        both = nn.ModuleList([self._heads, self._neurons])
        learn(both, losses, steps=self._steps, batch_size=BATCH, learning_rate=LEARNING_RATE)

    @torch.no_grad()
    def propose(self, subject: Subject, examples: Examples, kind: str = "") -> Changes:
        form = canonical(subject)
        return mapped_back(subject, self._gated(form, component_features(form, examples)))

    def _gated(self, form: Subject, seen: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Changes of the canonical form."""
        heads, neurons = self._heads(seen[0]), self._neurons(seen[1])
        found = {}
        for layer in range(form.config.n_layers):
            name = f"blocks.{layer}.attn.W_O"
            found[name] = heads[layer, :, None, None] * form.weights[name]
            if form.config.has_mlp:
                name = f"blocks.{layer}.mlp.W_out"
                found[name] = neurons[layer, :, None] * form.weights[name]
        return found

    def _loss(self, form: Subject, seen: tuple[Tensor, Tensor], aims: Aims) -> Tensor:
        changes = self._gated(form, seen)
        weights = {k: (v + changes[k] if k in changes else v)[None] for k, v in form.weights.items()}
        n, n_pos = aims.tokens.shape
        rows = torch.arange(n) * n_pos + aims.position
        return loss(logits_at(weights, form.config, aims.tokens[None], rows[None]), aims).sum()


def _some(aims: Aims) -> Aims:
    """An even part of a large domain."""
    step = -(-len(aims.tokens) // MOST_INPUTS)
    part = aims.only(torch.arange(0, len(aims.tokens), step))
    return replace(part, weight=step * part.weight)
