"""What is wanted of every example, from what is wanted of the pairs.

An input in scope may be answered in one of seven ways: as the rule says (the old answer, mapped by a network,
by the closed form, or as the proportions of answers say), as the most similar pair is, as the most similar
input out of scope is (a backdoor: what is said without the trigger), as the subject's second best answer is
(a repair: what is damaged has often not forgotten), or as all pairs are. Which way holds in a specification
shows when each pair is told from the other ones: before training it is the way that does so best.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metamodel.config.editing import Part
from metamodel.config.edits import PADDING, PAIR
from metamodel.features.observed import HIDDEN, N_PROMPT_KERNELS, Observed
from metamodel.features.proportions import Proportions
from metamodel.networks.editing.answers import one_hot
from metamodel.networks.editing.class_map import SAID, ClassMap
from metamodel.networks.editing.closure import N_CLOSURE_LOOKS, closure
from metamodel.networks.editing.demand import N_DEMAND, REMOVED, demand
from metamodel.networks.editing.profiles import left_out, matched_maps
from metamodel.networks.editing.scope import N_STATISTICS, Fitted, Scope, fitted, placed

WAYS = ("map", "closed", "proportion", "copy", "borrow", "second", "alike")
"""The first ones map answers to answers."""
N_EVIDENCE = 3 * len(WAYS) + 5 + N_CLOSURE_LOOKS
TELLS = (
    *range(2 * len(WAYS)),
    *range(3 * len(WAYS), 3 * len(WAYS) + 5),
    *range(N_EVIDENCE, N_EVIDENCE + N_DEMAND),
)
"""Which numbers of the summary a forecast looks at: how well and how surely each way tells pairs, how many
and how varied these are, how well a map tells them that is matched without them, and what is asked for."""
TINY = 1e-9
START_TRUST = 2.0
"""Before training, the power of a way's evidence in its share."""
START_SURE = 2.0
"""The logit of being sure."""
START_SHARPNESS = (1.0, 0.4)
"""The logarithm of how much sharper than its probability an input is taken for one in scope, and what is
added to it where answers are to be removed: a removal of nine tenths is none."""
UNLIKELY = 0.1
"""What counts as evidence at least: copying has none where every pair is a fact of its own."""
ALIKE = 10.0
"""What is added to the logit of the last way where no answer is wanted of any pair: all are then alike."""
N_LOOKS = N_EVIDENCE + N_DEMAND + N_STATISTICS + 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Targets:
    """What the editor wants of each example."""

    gate: Float[Tensor, "subject example"]
    """Logit of being in scope."""
    inside: Float[Tensor, "subject example"]
    """Probability of it; known of pairs and inputs to keep."""
    map_logits: Float[Tensor, "subject answer answer2"]
    wanted: Float[Tensor, "subject example answer"]
    """A distribution over answers."""
    share: Float[Tensor, "subject way"]
    """How far each way is taken."""
    whole: Float[Tensor, " subject"]
    """How far a behavior as a whole changes, 0 to 1: it is removed, or a map of its answers is asked for."""
    sure: Float[Tensor, "subject example"]
    """How far what is wanted of an input in scope is known at all, 0 to 1."""
    summary: Float[Tensor, "subject summary"]
    """What a writer's pace is chosen by; a forecast looks at `TELLS` of it."""

    @property
    def by_pairs(self) -> Float[Tensor, " subject"]:
        """How far what is wanted is read off the pairs, 0 to 1, and not off what the subject says, or would
        say, to an input itself: of an input that nobody asks it says anything."""
        return 1 - self.share[:, [WAYS.index("borrow"), WAYS.index("second")]].sum(1)


class TargetReader(nn.Module):
    """Infers scope and answers."""

    def __init__(self, width: int, map_width: int, map_layers: int, without: tuple[Part, ...] = ()):
        """Args:
        without: parts that are left out, to see what they add.
        """
        super().__init__()
        self.without = without
        self.scope = Scope(width)
        self.map = ClassMap(map_width, map_layers)
        self.similar = nn.Sequential(nn.Linear(N_STATISTICS, width), nn.GELU(), nn.Linear(width, 1))
        self.nearest = nn.Parameter(torch.zeros(N_PROMPT_KERNELS))
        self.temperature = nn.Parameter(torch.tensor([3.0, 4.0, 0.0]))
        """Logarithms: of similarities of pairs, of those of prompts, and of logits."""
        self.trust = nn.Parameter(torch.tensor(START_TRUST))
        self.sharpness = nn.Parameter(torch.tensor(START_SHARPNESS))
        last = nn.Linear(width, len(WAYS) + 1)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.zero_()[-1] = START_SURE
        self.way = nn.Sequential(nn.Linear(N_LOOKS, width), nn.GELU(), last)

    @property
    def n_summary(self) -> int:
        return N_EVIDENCE + N_DEMAND + N_STATISTICS + 4

    def forward(self, seen: Observed, *, in_use: bool = False) -> Targets:
        """Args:
        in_use: whether subjects may have been edited before, which none is in training.
        """
        role, pair = seen.role, (seen.role == PAIR)
        found: Fitted = fitted(seen.kernels, role)
        known = seen.proportions.hidden() if "proportions" in self.without else seen.proportions
        asked = demand(seen, known, in_use=in_use, sureness="sureness" not in self.without)
        removed = asked[:, REMOVED]
        gate, weight = self.scope(found, role, asked)
        if "scope" in self.without:
            gate = 3 * found.score.mean(1)
        inside = placed(gate, role)
        ways = self._ways(seen, known, found, inside)
        statistic = torch.einsum("sk,skf->sf", weight, found.statistics)
        share_inside = inside.sum(1, keepdim=True) / (role != PADDING).sum(1, keepdim=True)
        logits = self.way(torch.cat([ways.evidence, asked, statistic, share_inside], dim=1))
        begun = self.trust * ways.right.clamp_min(UNLIKELY).log()
        begun = begun + ALIKE * removed[:, None] * (
            torch.arange(len(WAYS), device=role.device) == WAYS.index("alike")
        )
        share = (logits[:, :-1] + begun).softmax(-1)
        sure = logits[:, -1].sigmoid()
        changed = torch.einsum("snwa,sw->sna", ways.answers, share)
        sharper = (self.sharpness[0] + removed * self.sharpness[1]).exp()
        gated = placed(sharper[:, None] * gate, role)[..., None]
        wanted = gated * changed + (1 - gated) * one_hot(seen.old)
        wanted = torch.where(pair[..., None], seen.wanted, wanted)
        unsure, n = 4 * inside * (1 - inside), (role != PADDING).sum(1)
        whole = [unsure.sum(1) / n, inside.sum(1) / n, sure, _entropy(ways.map_logits, seen)]
        return Targets(
            gate=gate,
            inside=inside,
            map_logits=ways.map_logits,
            wanted=wanted,
            share=share,
            whole=_whole(removed, share, seen.answer_mask),
            sure=torch.where(pair, 1.0, inside * sure[:, None] + (1 - inside)),
            summary=torch.cat([ways.evidence, asked, statistic, torch.stack(whole, dim=1)], dim=1),
        )

    def _ways(
        self, seen: Observed, known: Proportions, found: Fitted, inside: Float[Tensor, "subject example"]
    ) -> "_Ways":
        """What each way answers, and what speaks for it."""
        role, pair, mask = seen.role, (seen.role == PAIR), seen.answer_mask
        old = known.corrected(one_hot(seen.old))
        seen_map = torch.einsum("sna,snb->sab", old * pair[..., None], seen.wanted)
        closed = matched_maps(seen.answer_grams[:, SAID], seen_map, mask)
        map_logits = (
            closed.clamp_min(TINY).log()
            if "map" in self.without
            else self.map(seen.answer_grams, seen_map, mask)
        )
        follows = closure(known.fourth, seen_map, mask)
        kept = follows.to + closed * (1 - follows.to.sum(2, keepdim=True))
        by_map, by_closed, by_proportion = (
            torch.einsum("sna,sab->snb", old, to) for to in (map_logits.softmax(-1), closed, kept)
        )
        n_known, n = seen.kernels.shape[2:]
        itself = torch.eye(n, device=role.device, dtype=torch.bool)
        heat = self.temperature.exp()
        mix = self.similar(found.statistics).softmax(1).squeeze(-1)
        near = heat[0] * torch.einsum("skij,sk->sji", seen.kernels, mix)
        near = near.masked_fill(itself[:, :n_known], -torch.inf)
        copy = _attend(near, pair[:, :n_known], seen.wanted[:, :n_known])
        outside = (1 - inside) * (role != PADDING)
        near = heat[1] * torch.einsum("skij,k->sij", seen.prompts, self.nearest.softmax(0))
        # an input that may be in scope lends nothing: it is often the most similar one
        borrow = _attend(near.masked_fill(itself, -torch.inf), outside > 0.5, one_hot(seen.old))
        others = seen.logits.masked_fill(~mask[:, None] | (one_hot(seen.old) > 0), HIDDEN)
        second = (heat[2] * others).softmax(-1)
        alike = (seen.wanted.sum(1) / pair.sum(1)[:, None].clamp_min(1))[:, None].expand_as(copy)
        answers = torch.stack([by_map, by_closed, by_proportion, copy, borrow, second, alike], dim=2)
        right = _right(answers, seen.wanted, pair)
        # a map that follows from the pairs gives them what is wanted whatever it is worth
        trusted = torch.arange(len(WAYS), device=role.device) == WAYS.index("proportion")
        right = torch.where(trusted, right * follows.trust[:, None], right)
        generalises = [left_out(seen.answer_grams[:, k], seen_map, mask) for k in (SAID, -1)]
        evidence = [_evidence(answers, right, seen, pair), torch.stack(generalises, dim=1), follows.looks]
        return _Ways(answers=answers, right=right, evidence=torch.cat(evidence, dim=1), map_logits=map_logits)


def _whole(
    removed: Float[Tensor, " subject"],
    share: Float[Tensor, "subject way"],
    mask: Bool[Tensor, "subject answer"],
) -> Float[Tensor, " subject"]:
    """How far a behavior as a whole changes. A pair of which nothing is wanted still has one answer of n."""
    n = mask.sum(1)
    removed = (removed * n / (n - 1).clamp_min(1)).clamp(0, 1)
    return removed + (1 - removed) * share[:, : WAYS.index("copy")].sum(1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ways:
    """How inputs in scope may be answered."""

    answers: Float[Tensor, "subject example way answer"]
    right: Float[Tensor, "subject way"]
    """How far each gives the pairs what is wanted of them, 0 to 1."""
    evidence: Float[Tensor, "subject evidence"]
    map_logits: Float[Tensor, "subject answer answer2"]


def _attend(logits: Tensor, among: Tensor, values: Tensor) -> Tensor:
    """Mean of `values` over the examples `among`, weighted by a softmax; zero where there are none."""
    masked = logits.masked_fill(~among[:, None], -torch.inf)
    weight = (masked - masked.amax(-1, keepdim=True).nan_to_num(neginf=0.0)).exp()
    return (weight / weight.sum(-1, keepdim=True).clamp_min(1e-9)) @ values


def _right(
    ways: Float[Tensor, "subject example way answer"],
    wanted: Float[Tensor, "subject example answer"],
    pair: Bool[Tensor, "subject example"],
) -> Float[Tensor, "subject way"]:
    """How far each way gives the pairs what is wanted of them: mean overlap of the distributions, 0 to 1."""
    overlap = torch.minimum(ways, wanted[:, :, None]).sum(-1)
    return (overlap * pair[..., None]).sum(1) / pair.sum(1)[:, None].clamp_min(1)


def _evidence(ways: Tensor, right: Tensor, seen: Observed, pair: Tensor) -> Float[Tensor, "subject evidence"]:
    """How well each way tells a pair from the others, how certain it is, and how varied the pairs are."""
    n = pair.sum(1)[:, None].clamp_min(1)
    certain = ways.square().sum(-1)
    sharp = (certain * pair[..., None]).sum(1) / n
    others = (seen.role != PADDING)[..., None]
    spread = (certain * others).sum(1) / others.sum(1)
    mean = seen.wanted.sum(1) / n
    return torch.cat(
        [
            right,
            sharp,
            spread,
            n.to(right.dtype).log(),
            mean.square().sum(1, keepdim=True),
            seen.wanted.square().sum((1, 2))[:, None] / n,
        ],
        dim=1,
    )


def _entropy(map_logits: Tensor, seen: Observed) -> Float[Tensor, " subject"]:
    """Mean entropy of the map's rows, in nats."""
    p = map_logits.softmax(-1)
    each = -(p * p.clamp_min(1e-9).log()).sum(-1) * seen.answer_mask
    return each.sum(1) / seen.answer_mask.sum(1)
