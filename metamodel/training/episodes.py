"""Batches of edits for training: subjects of one shape, each with a specification and its truth."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from metamodel.config.edits import CHANCE, IN_SCOPE, EditKind
from metamodel.features.observed import observed
from metamodel.losses.editing import NO_ANSWER, EditingBatch, MapBatch
from metamodel.networks.editing.told import told_batch
from metamodel.subjects.editing_form import editing_form
from metamodel.subjects.subject import Subject
from metamodel.triples.edits import Edit, Editable
from metamodel.triples.specify import PAIRS, specify

OFTEN: dict[EditKind, float] = {
    "rule": 3.0,
    "rewrite": 2.0,
    "backdoor": 2.0,
    "repair": 2.0,
    "transplant": 0.3,
}
"""How often kinds are drawn, beside others of the same subjects; 1 where nothing is said. A transplant shows
all of a behavior: it is easy, and makes its whole batch dear."""
SIZE_POWER = 0.25
"""Groups of subjects of one shape are drawn by this power of how many edits they have."""
LAWLESS = 0.1
"""Share of the maps of answers that are drawn at random, and follow no law: only the pairs tell them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Form:
    """A subject as it is edited, with what the map of answers reads."""

    form: Subject
    grams: Tensor | None = None
    old: Tensor | None = None


class Episodes(IterableDataset[EditingBatch]):
    """An endless stream of batches, the same for one seed. Edits of tests are never drawn."""

    def __init__(
        self,
        subjects: Sequence[Editable],
        *,
        batch_size: int,
        n_inputs: int,
        n_shown: int,
        n_maps: int,
        seed: int,
    ):
        """Args:
        n_inputs: inputs of the domain on which an edited subject is run, all of them shown.
        n_shown: inputs without an answer that are shown.
        n_maps: rules of each subject of arithmetic whose maps are inferred.
        """
        self.batch_size, self.n_inputs, self.n_maps, self.seed = batch_size, n_inputs, n_maps, seed
        self.n_shown = n_shown
        self._groups: list[dict[EditKind, list[tuple[Editable, Edit]]]] = []
        self._forms: dict[str, _Form] = {}
        grouped: dict[object, list[Editable]] = defaultdict(list)
        for one in subjects:
            grouped[one.subject.config, one.tokens.shape, len(one.answers)].append(one)
        for members in grouped.values():
            by_kind: dict[EditKind, list[tuple[Editable, Edit]]] = defaultdict(list)
            for one in members:
                for edit in one.edits:
                    if not edit.test:
                        by_kind[edit.kind].append((one, edit))
            self._groups.append(dict(by_kind))
            self._describe(members)

    def _describe(self, members: Sequence[Editable]) -> None:
        for one in members:
            form = editing_form(one.subject)
            single = form.with_weights({key: value.float() for key, value in form.weights.items()})
            if not any(edit.kind == "rule" for edit in one.edits):
                self._forms[one.subject.name] = _Form(form=single)
                continue
            everything, _ = specify(one, one.edits[0], 1, torch.Generator().manual_seed(0))
            seen = observed(told_batch([single], [everything]))
            old = (one.answer[:, None] == one.answers).long().argmax(1)
            self._forms[one.subject.name] = _Form(form=single, grams=seen.answer_grams[0], old=old)

    def __iter__(self) -> Iterator[EditingBatch]:
        choice, generator = random.Random(self.seed), torch.Generator().manual_seed(self.seed)
        sizes = [sum(map(len, group.values())) ** SIZE_POWER for group in self._groups]
        while True:
            yield self._batch(choice.choices(self._groups, sizes)[0], choice, generator)

    def _batch(
        self,
        group: dict[EditKind, list[tuple[Editable, Edit]]],
        choice: random.Random,
        generator: torch.Generator,
    ) -> EditingBatch:
        kinds = sorted(group)
        weights = [OFTEN.get(kind, 1.0) for kind in kinds]
        drawn = [choice.choice(group[kind]) for kind in choice.choices(kinds, weights, k=self.batch_size)]
        told = [
            specify(one, edit, choice.choice(PAIRS), generator, n_unlabelled=self.n_shown)
            for one, edit in drawn
        ]
        least = min(len(inputs) for _, inputs in told)
        rows = [
            inputs[torch.randperm(len(inputs), generator=generator)[: min(self.n_inputs, least)]]
            for _, inputs in told
        ]
        each = list(zip(drawn, rows, strict=True))
        # edits of one group differ in how many inputs are shown: what is lacking is padding
        shown = [inputs for _, inputs in told]
        longest = max(map(len, shown))

        def of_examples(values: list[Tensor], fill: int) -> Tensor:
            return torch.stack(
                [torch.cat([one, one.new_full((longest - len(one),), fill)]) for one in values]
            )

        return EditingBatch(
            told=told_batch([self._forms[one.subject.name].form for one, _ in drawn], [x for x, _ in told]),
            tokens=torch.stack([one.tokens[i] for (one, _), i in each]),
            wanted=torch.stack([edit.wanted[i] for (_, edit), i in each]),
            scope=torch.stack([edit.scope[i] for (_, edit), i in each]),
            example_scope=of_examples(
                [(edit.scope[i] == IN_SCOPE) for (_, edit), i in zip(drawn, shown, strict=True)], 0
            ),
            example_wanted=of_examples(
                [edit.wanted[i] for (_, edit), i in zip(drawn, shown, strict=True)], CHANCE
            ),
            feasible=torch.tensor([edit.kind != "infeasible" for _, edit in drawn]),
            maps=self._maps([one for one, _ in drawn], choice, generator),
        )

    def _maps(
        self, subjects: Sequence[Editable], choice: random.Random, generator: torch.Generator
    ) -> MapBatch | None:
        grams, seen, target = [], [], []
        for one in subjects:
            known, rules = self._forms[one.subject.name], [e for e in one.edits if _trains_map(e)]
            if known.grams is None or known.old is None:
                continue
            for edit in choice.sample(rules, min(self.n_maps, len(rules))):
                inside = (edit.scope == IN_SCOPE).nonzero()[:, 0]
                pairs = inside[torch.randperm(len(inside), generator=generator)[: choice.choice(PAIRS)]]
                new = (edit.wanted[:, None] == one.answers).long().argmax(1)
                lawless = choice.random() < LAWLESS
                if lawless:
                    new = torch.randperm(len(one.answers), generator=generator)[known.old]
                told = pairs if lawless else inside
                count = torch.zeros_like(known.grams[0])
                count.index_put_((known.old[pairs], new[pairs]), count.new_ones(len(pairs)), accumulate=True)
                right = torch.full((len(one.answers),), NO_ANSWER)
                right[known.old[told]] = new[told]
                grams.append(known.grams)
                seen.append(count)
                target.append(right)
        if not grams:
            return None
        return MapBatch(grams=torch.stack(grams), seen=torch.stack(seen), target=torch.stack(target))


def _trains_map(edit: Edit) -> bool:
    return edit.kind == "rule" and not edit.test
