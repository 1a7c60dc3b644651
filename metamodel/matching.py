"""A trained matcher, which maps one circuit onto another: `metamodel.load(path).match(a, b)`."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from metamodel.analogy.graph import CircuitGraph, circuit_graph, compatible, stacked
from metamodel.analogy.mapping import Match
from metamodel.analogy.pairs import NONE
from metamodel.analogy.solver import worthiest_map
from metamodel.behaving import Behaving, check_subjects, transplanted
from metamodel.circuits.exact import edge_scores
from metamodel.config.errors import require
from metamodel.features.relative import is_ratio, matcher_features, matcher_names
from metamodel.features.view import Shown
from metamodel.loading import local_folder, uploaded
from metamodel.mapping import Mapping
from metamodel.networks.matching.matcher import SoftMatch
from metamodel.subjects.subject import Subject
from metamodel.subjects.threads import one_thread
from metamodel.training.matching_checkpoint import MatchingCheckpoint, load_matching_checkpoint
from metamodel.triples.schema import Triple

MOST_ENTRIES = 64 * 32 * 32
"""Pairs of nodes, of all pairs of circuits that are matched at once."""


class SubjectMatcher:
    """A checkpoint that matches circuits. Make one with `metamodel.load`."""

    def __init__(self, checkpoint: MatchingCheckpoint, *, folder: Path | None = None):
        self.checkpoint = checkpoint
        self.folder = folder
        """Where it was loaded from."""
        names = matcher_names()
        for name in checkpoint.feature_names:
            do = "Train the matcher again with this version of the package."
            require(name in names, "feature_names", expected="a known feature", got=repr(name), do=do)
        self._columns = torch.tensor(
            [names.index(name) for name in checkpoint.feature_names], dtype=torch.int64
        )
        self._sees_ratios = any(map(is_ratio, checkpoint.feature_names))

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path) -> "SubjectMatcher":
        """From a folder, or a name on the hub.

        Raises: InputError if it is not there, or not a checkpoint of a matcher of this version.
        """
        return load(local_folder(name_or_folder))

    def push_to_hub(self, repository: str) -> str:
        """Uploads the folder, metrics and card included, with the user's own login; returns its address.

        Raises: InputError for a matcher that was not loaded from a folder.
        """
        return uploaded(self.folder, repository, "a matcher")

    def match(
        self,
        first: "Behaving | Triple | CircuitGraph",
        second: "Behaving | Triple | CircuitGraph",
        *,
        transplant: bool = False,
    ) -> Mapping:
        """Which component of one circuit corresponds to which of another, and where the analogy breaks down.

        Any sizes. Of a subject with prompts every edge is patched exactly first; a triple of a zoo holds its
        circuit; a `CircuitGraph` is taken as it is, with the features of `describe`.

        Args:
            transplant: whether components are transplanted along the growth of the map, see
                `analogy/cumulative.py`: it runs both subjects on prompts of the second.

        Raises: InputError for prompts that do not fit their subject; for a transplant, also where a side is
            no subject, or the first subject does not embed the prompts of the second.
        """
        if transplant:
            check_subjects(first, second)
        with one_thread():
            one, other = self.describe(first), self.describe(second)
            found = self.match_graphs(one, other)
        null = self.checkpoint.null_scores
        above = bisect_left(null, found.score) / len(null) if null else float("nan")
        mapping = Mapping.of(one, other, found, null_share=above, keep_above=self.checkpoint.keep_above)
        if not transplant:
            return mapping
        assert not isinstance(first, CircuitGraph)
        assert not isinstance(second, CircuitGraph)
        with one_thread():
            return replace(mapping, transplants=transplanted(mapping, first, second))

    def describe(self, what: "Behaving | Triple | CircuitGraph") -> CircuitGraph:
        """The circuit as the matcher sees it."""
        if isinstance(what, CircuitGraph):
            expected = f"{len(self._columns)} features of each node, as `describe` gives them"
            do = "Describe the subject with this matcher."
            require(
                what.features.shape[1] == len(self._columns),
                "circuit",
                expected=expected,
                got=what.features.shape[1],
                do=do,
            )
            return what
        if isinstance(what, Triple):
            b = what.behavior
            shown = Shown(tokens=b.shown_tokens, position=b.shown_position)
            return self._described(what.subject, what.circuit.noising_margin, shown)
        scores = edge_scores(what.subject, what.prompts, "noising").margin
        shown = Shown(tokens=what.prompts.clean, position=what.prompts.position)
        return self._described(what.subject, scores, shown)

    def _described(self, subject: Subject, values: Float[Tensor, " edge"], shown: Shown) -> CircuitGraph:
        nodes = matcher_features(subject, shown, ratios=self._sees_ratios)[:, self._columns]
        return circuit_graph(subject.config, values.float(), nodes)[0]

    def match_graphs(self, first: CircuitGraph, second: CircuitGraph) -> Match:
        """One pair of circuits; see `match_all`."""
        return self.match_all([(first, second)])[0]

    @torch.no_grad()
    def match_all(self, pairs: Sequence[tuple[CircuitGraph, CircuitGraph]]) -> list[Match]:
        """Many pairs, in batches of like size. The score is the logit that the circuit is there at all."""
        network = self.checkpoint.matcher.eval()
        device = next(network.parameters()).device
        order = sorted(range(len(pairs)), key=lambda i: max(map(len, pairs[i])))
        found: dict[int, Match] = {}
        for rows in _batches([max(map(len, pairs[i])) for i in order], order):
            first = stacked([pairs[i][0] for i in rows]).to(device)
            second = stacked([pairs[i][1] for i in rows]).to(device)
            found |= dict(
                zip(rows, self._decoded(network(first, second), [pairs[i] for i in rows]), strict=True)
            )
        return [found[i] for i in range(len(pairs))]

    @torch.no_grad()
    def similarity(self, first: CircuitGraph, second: CircuitGraph) -> Float[Tensor, "node theirs"]:
        """How alike the matcher takes nodes to be before it looks at the edges of a map; higher for more."""
        network = self.checkpoint.matcher.eval()
        device = next(network.parameters()).device
        one, other = stacked([first]).to(device), stacked([second]).to(device)
        return network.similarity(one, other, compatible(one, other))[1][0].cpu()

    def _decoded(self, soft: SoftMatch, pairs: Sequence[tuple[CircuitGraph, CircuitGraph]]) -> list[Match]:
        kept = worthiest_map((soft.p - self.checkpoint.keep_above) * soft.free, soft.free)
        chosen = kept | (~soft.free & (soft.p > 0.5))
        place = torch.where(chosen.any(-1), chosen.int().argmax(-1), NONE).cpu()
        p, presence = soft.p.cpu(), soft.presence.cpu()
        return [
            Match(p=p[i, : len(one), : len(other)], pairs=place[i, : len(one)], score=float(presence[i]))
            for i, (one, other) in enumerate(pairs)
        ]


def _batches(sizes: Sequence[int], order: Sequence[int]) -> Iterator[list[int]]:
    """Rows of ascending size, in batches that hold `MOST_ENTRIES` pairs of nodes at most, or one row."""
    held: list[int] = []
    for size, row in zip(sizes, order, strict=True):
        if held and (len(held) + 1) * size**2 > MOST_ENTRIES:
            yield held
            held = []
        held.append(row)
    if held:
        yield held


def load(folder: str | Path) -> SubjectMatcher:
    """The matcher of a checkpoint's folder.

    Raises: InputError naming path, key, expected and found, if anything is missing, unknown or misshapen.
    """
    return SubjectMatcher(load_matching_checkpoint(Path(folder)), folder=Path(folder))
