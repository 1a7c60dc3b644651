"""The baseline `probegen`: learned inputs are run through the frozen subject, and what comes out is read.

After Kahana et al. 2024, "Deep linear probe generators for weight space learning": inputs are the output of a
deep linear network on learned codes, trained through the frozen network together with the reader of its
responses. Widths and vocabularies differ here, so a probe is a prompt of mixtures over the subject's own
tokens (softmax of what the generator says, which starts at random tokens, half of the prompts saying their
first half twice), and the reader sees nothing of the width: of what each component writes, the inner products
between probe positions, with what stood there before the first block, and with the unembedding of the tokens
that stood there, and their size. The subject is run in canonical form, so that these are invariants of the
whole gauge group.

It runs the subject: it stands beside readers of the tracks `activations` and `both`. Patterns of attention do
not enter. Post-norm subjects cannot be run and are answered by the prior.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metamodel.baselines.entries import Embedding
from metamodel.baselines.node_order import by_node
from metamodel.baselines.trained import Inputs, Setting, TrainedPredictor
from metamodel.features.examples import Seen
from metamodel.subjects.canonical import canonical
from metamodel.subjects.config import SubjectConfig
from metamodel.subjects.forward import run_blocks
from metamodel.subjects.sites import Sites

PROBES = 4
LENGTH = 12
"""Positions of a probe; a subject with fewer sees the first of them."""
MAX_TOKENS = 64
"""Tokens that probes mix: a subject's first ones."""
CODE = 32
START = 4.0
"""Logit of the token with which each probe position starts."""
SAMPLES = PROBES * LENGTH
N_ENTRIES, N_SIZES = SAMPLES * SAMPLES + 2 * PROBES * LENGTH * LENGTH, 3
TINY = 1e-8


def canonical_weights(seen: Seen) -> Inputs | None:
    """Weights in canonical form; None for a post-norm subject."""
    assert seen.baseline_inputs is not None, f"{seen.id}: examples for baselines carry baseline_inputs"
    if seen.config.norm_position != "pre":
        return None
    form = canonical(seen.baseline_inputs.subject.double())
    return {name: value.detach().float() for name, value in form.weights.items()}


class Generator(nn.Module):
    """Deep and linear, from a learned code for each probe to logits of tokens at each position."""

    def __init__(self):
        super().__init__()
        self.codes = nn.Parameter(torch.randn(PROBES, CODE))
        self.layers = nn.Sequential(
            nn.Linear(CODE, CODE, bias=False),
            nn.Linear(CODE, CODE, bias=False),
            nn.Linear(CODE, LENGTH * MAX_TOKENS, bias=False),
        )
        start = torch.randint(MAX_TOKENS, (PROBES, LENGTH))
        start[::2, LENGTH // 2 :] = start[::2, : LENGTH // 2]
        self.start = nn.Parameter(START * nn.functional.one_hot(start, MAX_TOKENS).float())

    def forward(self, n_tokens: int) -> Float[Tensor, "probe pos token"]:
        """Mixtures over a subject's tokens; each sums to one."""
        logits = self.layers(self.codes).unflatten(-1, (LENGTH, MAX_TOKENS)) + self.start
        return logits[..., : min(n_tokens, MAX_TOKENS)].softmax(-1)


class ProbeGen(nn.Module):
    """Generator, frozen subject, and a reader of responses for each kind of component."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.generator = Generator()
        names = ("tokens", "positions", "heads", "mlps", "unembedding")
        self.read = nn.ModuleDict({name: Embedding(N_ENTRIES, N_SIZES, width, dropout) for name in names})

    def forward(self, config: SubjectConfig, inputs: Inputs) -> Float[Tensor, "subject node width"]:
        n_pos = min(LENGTH, config.n_ctx)
        mixture = self.generator(config.d_vocab)[:, :n_pos]
        tokens = torch.einsum("btv,svd->sbtd", mixture, inputs["embed.W_E"][:, : mixture.shape[-1]])
        positions = inputs["pos_embed.W_pos"][:, None, :n_pos].expand_as(tokens)
        blocks = range(config.n_layers)
        taps = [f"blocks.{layer}.attn.hook_result" for layer in blocks]
        taps += [f"blocks.{layer}.hook_mlp_out" for layer in blocks if config.has_mlp]
        run = run_blocks(inputs, config, tokens + positions, first_layer=0, site=Sites(taps, {}))
        results = torch.stack([run.taps[f"blocks.{layer}.attn.hook_result"] for layer in blocks], dim=1)
        written = {
            "tokens": tokens,
            "positions": positions,
            "heads": results.movedim(4, 2),  # subject layer head probe pos d_model
        }
        if config.has_mlp:
            outs = [run.taps[f"blocks.{layer}.hook_mlp_out"] for layer in blocks]
            written["mlps"] = torch.stack(outs, dim=1)
        answers = torch.einsum(
            "btv,sdv->sbtd", mixture, _centred(inputs["unembed.W_U"])[..., : mixture.shape[-1]]
        )
        before = tokens + positions
        found = {name: self.read[name](_responses(out, before, answers)) for name, out in written.items()}
        logits = _centred(run.logits)
        said = _responses(logits, torch.zeros_like(logits), _spread(mixture, logits))
        return by_node(
            tokens=found["tokens"],
            positions=found["positions"],
            heads=found["heads"],
            mlps=found.get("mlps"),
            unembedding=self.read["unembedding"](said),
        )


def _centred(x: Float[Tensor, "*rest d_vocab"]) -> Float[Tensor, "*rest d_vocab"]:
    return x - x.mean(-1, keepdim=True)


def _spread(mixture: Tensor, logits: Float[Tensor, "subject probe pos d_vocab"]) -> Tensor:
    """The mixtures as vectors over the subject's whole vocabulary."""
    return nn.functional.pad(mixture, (0, logits.shape[-1] - mixture.shape[-1])).expand_as(logits)


def _responses(
    out: Float[Tensor, "subject *unit probe pos width"],
    before: Float[Tensor, "subject probe pos width"],
    answers: Float[Tensor, "subject probe pos width"],
) -> tuple[Float[Tensor, "subject *unit out"], Float[Tensor, "subject *unit 3"]]:
    """Inner products of what is written, relative to its size, and the size; zero where no position."""
    short = LENGTH - out.shape[-2]
    out, before, answers = (nn.functional.pad(x, (0, 0, 0, short)) for x in (out, before, answers))
    between = [1] * (out.ndim - before.ndim)
    before, answers = (x.reshape(len(x), *between, *x.shape[1:]) for x in (before, answers))
    size = [x.square().mean((-3, -2)).sum(-1).clamp_min(TINY).sqrt() for x in (out, before, answers)]
    own, beside, said = (
        x / s[..., None, None, None] for x, s in zip((out, before, answers), size, strict=True)
    )
    flat = own.flatten(-3, -2)
    grams = [
        (flat @ flat.mT).flatten(-2),
        (own @ beside.mT).flatten(-3),
        (own @ said.mT).flatten(-3),
    ]
    sizes = [s.log().expand(out.shape[:-3]).unsqueeze(-1) for s in size]
    return torch.cat(grams, dim=-1), torch.cat(sizes, dim=-1)


SETTINGS = (
    Setting(lr=2e-3, width=48, dropout=0.35, epochs=30),
    Setting(lr=2e-3, width=48, dropout=0.5, epochs=30),
)


def probegen() -> TrainedPredictor:
    return TrainedPredictor("probegen", describe=canonical_weights, encoder=ProbeGen, settings=SETTINGS)
