"""Made-up examples whose labels follow one feature, or nothing at all."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from oracle import evaluated

from metamodel.baselines.editing.base import Episode
from metamodel.circuits.graph import component_edges
from metamodel.config.edits import FAR, IN_SCOPE, NEAR
from metamodel.evaluation.evaluate import Evaluation
from metamodel.evaluation.report import Report
from metamodel.features.examples import BaselineInputs, ComponentGraph, Seen, Truth
from metamodel.subjects.config import KINDS, SubjectConfig, components, depth_fraction
from metamodel.subjects.forward import forward
from metamodel.subjects.subject import Subject, initial_weights, unstack
from metamodel.triples.edits import Edit, Editable
from metamodel.triples.schema import MASKED, NEGATIVE, PATTERN_ONLY, POSITIVE
from metamodel.triples.specify import specify

N_FEATURES, N_CHANNELS, N_LABELS, D_VOCAB = 12, 4, 3, 16
PLANTED = 3
"""The node feature that decides label 0, and the edge channel that decides membership."""

Make = Callable[..., list[tuple[Seen, Truth]]]


@pytest.fixture(scope="session")
def planted_examples() -> Make:
    """`planted_examples(n, seed=, noise=)`: label 0 follows feature PLANTED unless noise, label 1 is drawn,
    label 2 never occurs."""
    return _examples


def _examples(
    n: int,
    *,
    seed: int = 0,
    noise: bool = False,
    family: str = "repeated",
    size: tuple[int, int] = (2, 4),
    n_features: int = N_FEATURES,
    n_labels: int = N_LABELS,
) -> list[tuple[Seen, Truth]]:
    rng = np.random.default_rng(seed)
    return [_one(rng, f"{family}-{seed}-{i}", noise, family, size, n_features, n_labels) for i in range(n)]


def _one(rng, name, noise, family, size, n_features, n_labels) -> tuple[Seen, Truth]:
    config = SubjectConfig(
        n_layers=size[0], n_heads=size[1], d_model=8, d_head=2, d_mlp=16, d_vocab=D_VOCAB, n_ctx=8
    )
    nodes, edges = components(config), component_edges(config)
    n = len(nodes)
    features, channels = rng.normal(size=(n, n_features)), rng.normal(size=(n, n, N_CHANNELS))
    exists = np.zeros((n, n), dtype=bool)
    exists[list(edges.source_node), list(edges.destination_node)] = True
    channels[~exists] = 0
    cause = (
        rng.normal(size=(n, n_labels)) if noise else features[:, PLANTED : PLANTED + 1].repeat(n_labels, 1)
    )
    score = np.array(cause)
    score[:, 1:] = rng.normal(size=(n, n_labels - 1))
    state = np.where(score > 0.8, POSITIVE, NEGATIVE)
    state[:, 2] = NEGATIVE
    state[:, 1][(score[:, 1] > 0.7) & (score[:, 1] < 0.8)] = PATTERN_ONLY
    is_head = np.array([node.kind == "head" for node in nodes])
    state[~is_head] = MASKED
    score[~is_head] = np.nan
    closed = np.where(is_head[:, None], features[:, PLANTED : PLANTED + 1], np.nan).repeat(n_labels, 1)
    closed[:, 2:] = np.nan
    drive = rng.normal(size=(n, n)) if noise else channels[:, :, PLANTED]
    member = (drive > 0.8) & exists
    answers = np.array([3, 3, 5, 5])
    seen = Seen(
        id=name,
        config=config,
        graph=ComponentGraph(
            nodes=torch.tensor(features, dtype=torch.float32),
            edges=torch.tensor(channels, dtype=torch.float32),
            kinds=torch.tensor([KINDS.index(node.kind) for node in nodes]),
            depth=torch.tensor([depth_fraction(node, config) for node in nodes]),
        ),
        family=family,
        variant="base",
        slice_names=("easy", "hard"),
        probe_tokens=torch.zeros(4, 6, dtype=torch.int64),
        probe_position=torch.full((4,), 5),
        probe_slice=torch.tensor([0, 0, 1, 1]),
        evidence=torch.zeros(4, n, D_VOCAB, 2),
        baseline_inputs=BaselineInputs(
            subject=_subject(config, rng),
            weight_statistics=torch.tensor(features, dtype=torch.float32),
            token_space_scores=torch.tensor(closed, dtype=torch.float32),
            labels=("previous_token", "copying", "induction", *map(str, range(3, n_labels)))[:n_labels],
        ),
    )
    truth = Truth(
        lineage=name,
        function_score=torch.tensor(score, dtype=torch.float32),
        function_state=torch.tensor(state),
        node_member=torch.tensor(features[:, PLANTED] > 0.8),
        edge_member=torch.tensor(member),
        edge_exists=torch.tensor(exists),
        slice_accuracy=torch.tensor([0.9, float("nan")]),
        probe_answer=torch.tensor(answers),
        probe_right_answer=torch.tensor([3, 4, 5, 6]),
    )
    return seen, truth


def _subject(config: SubjectConfig, rng) -> Subject:
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    return Subject(config=config, weights=unstack(initial_weights(config, [generator]), 0))


@pytest.fixture(scope="session")
def taught() -> Editable:
    """A small subject that has learnt one table of 5 keys behind one word and another behind another, and an
    edit that adds 1 behind the second word. The token after the key means nothing."""
    config = SubjectConfig(
        n_layers=1, n_heads=2, d_model=16, d_head=8, d_mlp=48, d_vocab=12, n_ctx=4, normalization_type="none"
    )
    key, other, word = (x.flatten() for x in torch.meshgrid(*map(torch.arange, (5, 5, 2)), indexing="ij"))
    tokens = torch.stack([5 + word, key, other, torch.full_like(key, 7)], dim=1)
    answer = torch.where(word == 0, (2 * key) % 5, key)
    inside = word == 1
    edit = Edit(
        kind="rule",
        rule="+1",
        wanted=torch.where(inside, (answer + 1) % 5, answer),
        scope=torch.where(inside, IN_SCOPE, torch.where(other == 0, NEAR, FAR)),
        pool=inside,
        n_pairs=0,
    )
    leaves = {k: v.requires_grad_() for k, v in _drawn(config).items()}
    optimiser = torch.optim.Adam(leaves.values(), lr=1e-2)
    for _ in range(120):
        optimiser.zero_grad()
        logits = forward({k: v[None] for k, v in leaves.items()}, config, tokens).logits[0, :, -1]
        torch.nn.functional.cross_entropy(logits, answer).backward()
        optimiser.step()
    return Editable(
        subject=Subject(config=config, weights={k: v.detach() for k, v in leaves.items()}),
        family="taught",
        lineage="taught",
        departs="none",
        tokens=tokens,
        answer=answer,
        answers=torch.arange(5),
        unseen=torch.zeros(len(answer), dtype=torch.bool),
        edits=(edit,),
        quality={},
    )


def _drawn(config: SubjectConfig) -> dict[str, torch.Tensor]:
    return unstack(initial_weights(config, [torch.Generator().manual_seed(0)]), 0)


@pytest.fixture(scope="session")
def specified() -> Callable[..., Episode]:
    """`specified(editable, n_pairs)`: an episode of its first edit."""

    def make(editable: Editable, n_pairs: int) -> Episode:
        edit = editable.edits[0]
        examples, inputs = specify(editable, edit, n_pairs, torch.Generator().manual_seed(0))
        return Episode(editable=editable, edit=edit, examples=examples, inputs=inputs)

    return make


@pytest.fixture(scope="session")
def evaluation(planted_examples) -> Evaluation:
    """A reader that answers the truth, beside every opponent."""
    return evaluated(planted_examples)


@pytest.fixture(scope="session")
def report(evaluation) -> Report:
    return evaluation.report
