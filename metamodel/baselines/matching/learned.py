"""NGM (Wang et al. 2022), the learned solver of pygmtools, trained from nothing on our training pairs.

Its pretrained weights match keypoints of pictures, so they are never loaded. It reads the same affinity as
the solvers without learning, and learns by the binary cross-entropy of true pairs, as in its paper.
"""

import warnings
from collections.abc import Sequence
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metamodel.baselines.matching.base import Setting, TrainingPair, grid
from metamodel.baselines.matching.lawler import Lawler, affinity
from metamodel.baselines.matching.library import library
from metamodel.baselines.matching.problem import Problem
from metamodel.config.errors import require

STEPS, BATCH, LEARNING_RATE = 150, 4, 3e-3
LARGEST = 400
"""Pairs of nodes that a training pair has at most: an affinity of a training step costs the square of it."""
CHANNELS = (16, 16, 16)
FORMS, POWER = ("product", "gain"), 0.5


class LearnedSolver(Lawler):
    """One network for each form of affinity. It must be trained (`fit`) before it solves anything."""

    def __init__(self, *, steps: int = STEPS, seed: int = 0):
        self._steps, self._seed = steps, seed
        self._networks: dict[str, nn.Module] = {}

    @property
    def name(self) -> str:
        return "ngm"

    def settings(self) -> tuple[Setting, ...]:
        return grid(power=[POWER], form=[*FORMS], anchors=[0.5, 1.0], temperature=[0.02, 0.05, 0.1, 0.2])

    def fit(self, pairs: Sequence[TrainingPair]) -> None:
        """Every pair is seen with its similarity and without, at random, so that one network serves both."""
        small = [pair for pair in pairs if _size(pair) <= LARGEST]
        require(
            bool(small),
            "NGM: training pairs",
            expected=f"pairs with at most {LARGEST} pairs of nodes",
            got=[_size(pair) for pair in pairs][:5],
            do="Give smaller circuits to train on.",
        )
        pygmtools = library("pygmtools")
        self._networks = {form: self._trained(pygmtools, small, form) for form in FORMS}

    def solved(
        self, pygmtools: ModuleType, k: Float[Tensor, "entry same"], n: int, m: int, setting: Setting
    ) -> Float[Tensor, "row column"]:
        key = str(setting["form"])
        require(
            key in self._networks,
            "NGM",
            expected="a trained network",
            got="none",
            do="Call `fit` with training pairs first.",
        )
        return _said(pygmtools, self._networks[key], k, n, m, float(setting["temperature"]))

    def _trained(self, pygmtools: ModuleType, pairs: Sequence[TrainingPair], form: str) -> nn.Module:
        generator = torch.Generator().manual_seed(self._seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            network = pygmtools.utils.get_network(
                pygmtools.ngm, gnn_channels=CHANNELS, pretrain=False, backend="pytorch"
            )
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pygmtools")
            for _ in range(self._steps):
                losses = []
                for i in torch.randint(len(pairs), (BATCH,), generator=generator).tolist():
                    with_it = bool(torch.rand((), generator=generator) < 0.5)
                    losses.append(_loss(pygmtools, network, pairs[i], form, with_it))
                optimizer.zero_grad()
                torch.stack(losses).mean().backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
        return network.eval()


def _loss(
    pygmtools: ModuleType,
    network: nn.Module,
    pair: TrainingPair,
    form: str,
    with_similarity: bool,
) -> Float[Tensor, ""]:
    """Binary cross-entropy of the coupling, by pair of nodes of one kind."""
    problem = Problem.of(pair.first, pair.second, pair.similarity if with_similarity else None)
    n, m = len(problem.free), len(problem.free_theirs)
    k = affinity(problem, power=POWER, form=form)
    said = _said(pygmtools, network, k, n, m, 0.05)
    truth = (pair.truth[:, None] == torch.arange(len(pair.second))).double().numpy()
    right = torch.tensor(problem.among_free(truth), dtype=said.dtype)
    allowed = torch.tensor(problem.among_free(problem.allowed))
    losses = nn.functional.binary_cross_entropy(said.clamp(1e-6, 1 - 1e-6), right, reduction="none")
    return losses[allowed].sum() / max(n, m)


def _said(
    pygmtools: ModuleType,
    network: nn.Module,
    k: Float[Tensor, "entry same"],
    n: int,
    m: int,
    temperature: float,
) -> Float[Tensor, "row column"]:
    """The coupling of one pair. With more nodes than theirs the network is asked the other way round."""
    if n > m:
        swapped = k.reshape(m, n, m, n).permute(1, 0, 3, 2).reshape(n * m, n * m)
        return _said(pygmtools, network, swapped, m, n, temperature).T
    return pygmtools.ngm(k, n, m, network=network, sk_tau=temperature, pretrain=False, backend="pytorch")


def _size(pair: TrainingPair) -> int:
    return int((~pair.first.is_anchor).sum()) * int((~pair.second.is_anchor).sum())
