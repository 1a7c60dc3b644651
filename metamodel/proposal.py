"""What an editor proposes for one subject: looked at before it is applied, and never applied in place."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas
import torch
from torch import Tensor

from metamodel.config.edits import CHANCE, CHANCE_FACTOR, KEEP, PAIR, UNLABELLED
from metamodel.config.errors import require
from metamodel.subjects.config import components
from metamodel.subjects.subject import Subject
from metamodel.triples.edit_spec import asked_logits
from metamodel.triples.edits import Examples

RANK_TOLERANCE = 1e-5
"""Relative to the largest singular value: changes are computed in float32."""
ROLES = {PAIR: "pair", KEEP: "keep", UNLABELLED: "unlabelled"}
_HEADS = ("W_Q", "W_K", "W_V", "b_Q", "b_K", "b_V", "W_O")
_WHERE = {
    "embed": "token_embedding",
    "pos_embed": "position_embedding",
    "unembed": "unembedding",
    "ln_final": "unembedding",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedWeight:
    """One weight that a proposal changes, as it is stored."""

    name: str
    components: tuple[str, ...]
    """Whose weights these are, heads one by one."""
    rank: int
    """Of the change as a matrix, all heads below each other."""
    norm: float
    """Frobenius norm of the change."""
    relative: float
    """The same relative to that of the weight; infinite where that is zero."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proposal:
    """A change of weights of one subject, with what it does.

    Raises: InputError for changes of unknown weights, of another shape, or that are not finite.
    """

    subject: Subject
    """As it was before; it stays so."""
    examples: Examples
    """What the editor was told."""
    changes: Mapping[str, Tensor]
    """By weight name: what `apply` adds to each weight of the subject, times alpha."""
    forecast: float
    """Probability that the edit succeeds, on inputs that were not told as well."""
    refuse_below: float
    """Forecast below which `apply` refuses."""
    notes: tuple[str, ...] = ()
    """What a user must know before applying it."""

    def __post_init__(self):
        for key, change in self.changes.items():
            where = f"{self.subject.name}: change of {key}"
            known = key in self.subject.weights
            require(known, where, expected="a weight of the subject", got="another name", do="Check it.")
            expected, got = tuple(self.subject.weights[key].shape), tuple(change.shape)
            require(
                expected == got, where, expected=f"shape {expected}", got=got, do="Change it as it is stored."
            )
            finite = bool(change.isfinite().all())
            do = "Drop this proposal: its factors overflow."
            require(finite, where, expected="finite numbers", got="nan or inf", do=do)

    @property
    def refused(self) -> bool:
        """Whether the editor forecasts failure; `apply(force=True)` does it all the same."""
        return self.forecast < self.refuse_below

    @property
    def weights(self) -> tuple[ChangedWeight, ...]:
        """Every weight that changes at all: rank, norms and components."""
        return tuple(
            _changed(self.subject, key, change) for key, change in self.changes.items() if bool(change.any())
        )

    @property
    def components(self) -> tuple[str, ...]:
        """Components whose weights change, in the order in which they compute."""
        touched = {name for weight in self.weights for name in weight.components}
        return tuple(node.name for node in components(self.subject.config) if node.name in touched)

    def apply(self, alpha: float = 1.0, *, force: bool = False) -> Subject:
        """A new subject with `alpha` times the change; shares no memory with the old one.

        Args:
            alpha: any finite number; 0 gives the weights bit by bit, 1 what was proposed, -1 its opposite.
            force: apply a proposal that the editor itself refuses.

        Raises: InputError for a refused proposal, an alpha that is not finite, or one with which weights
            are not.
        """
        check_alpha(alpha, "alpha")
        require(
            force or not self.refused,
            f"{self.subject.name}: proposal",
            expected=f"a forecast of success of at least {self.refuse_below:.2f}",
            got=f"{self.forecast:.2f}: refused",
            do="Give more pairs and inputs to keep, or force it.",
        )
        return self._with(alpha)

    def _with(self, alpha: float) -> Subject:
        made = {}
        for key, weight in self.subject.weights.items():
            made[key] = weight.detach().clone()
            if alpha != 0 and key in self.changes:
                # adding even zero would turn -0.0 into 0.0
                made[key] += (alpha * self.changes[key].double()).to(weight.dtype)
                finite = bool(made[key].isfinite().all())
                do = "Choose an alpha nearer to 0."
                expected = f"a factor with which {key} stays finite"
                require(finite, "alpha", expected=expected, got=alpha, do=do)
        return self.subject.with_weights(made)

    @torch.no_grad()
    def preview(self, alpha: float = 1.0) -> pandas.DataFrame:
        """What the subject answers before and after, one row an example, refused or not.

        Columns: `role`; `input`, its tokens; `wanted`, a token, `chance`, or nothing for inputs without an
        answer; `before` and `after`, the most likely tokens; `p_before` and `p_after`, probabilities of what
        is wanted, or of the answer before where that is no token; `ok_before` and `ok_after`, whether it is
        as wanted. A behavior that is removed may leave its answer CHANCE_FACTOR times as likely as chance.

        Raises: InputError for an alpha that is not finite.
        """
        check_alpha(alpha, "alpha")
        told = self.examples
        before = asked_logits(self.subject, told.tokens, told.position).softmax(-1)
        after = asked_logits(self._with(alpha), told.tokens, told.position).softmax(-1)
        rows = []
        for i, role in enumerate(told.role.tolist()):
            old, new = int(before[i].argmax()), int(after[i].argmax())
            wanted = {PAIR: int(told.wanted[i]), KEEP: old, UNLABELLED: None}[role]
            looked_at = old if wanted in (None, CHANCE) else wanted
            assert looked_at is not None
            p_before, p_after = float(before[i, looked_at]), float(after[i, looked_at])
            ok: tuple[bool | None, ...] = (old == wanted, new == wanted)
            if wanted is None:
                ok = (None, None)
            elif wanted == CHANCE:
                ok = tuple(p <= CHANCE_FACTOR / len(told.answers) for p in (p_before, p_after))
            rows.append(
                {
                    "role": ROLES[role],
                    "input": " ".join(map(str, told.tokens[i, : int(told.position[i]) + 1].tolist())),
                    "wanted": {None: "", CHANCE: "chance"}.get(wanted, str(wanted)),
                    "before": old,
                    "after": new,
                    "p_before": p_before,
                    "p_after": p_after,
                    "ok_before": ok[0],
                    "ok_after": ok[1],
                }
            )
        return pandas.DataFrame(rows).astype({"ok_before": "boolean", "ok_after": "boolean"})

    def to_pandas(self) -> pandas.DataFrame:
        """One row a weight that changes: components, rank and norms."""
        rows = [
            {
                "weight": weight.name,
                "components": ", ".join(weight.components),
                "rank": weight.rank,
                "norm": weight.norm,
                "relative": weight.relative,
            }
            for weight in self.weights
        ]
        return pandas.DataFrame(rows, columns=["weight", "components", "rank", "norm", "relative"]).set_index(
            "weight"
        )

    def to_dict(self, alpha: float = 1.0) -> dict[str, Any]:
        """Plain values; null where a number is not finite, or nothing is wanted."""
        shown = self.preview(alpha).astype(object)
        return {
            "subject": self.subject.name,
            "alpha": alpha,
            "forecast": round(self.forecast, 6),
            "refused": self.refused,
            "components": list(self.components),
            "weights": [
                {
                    "name": weight.name,
                    "components": list(weight.components),
                    "rank": weight.rank,
                    "norm": weight.norm,
                    "relative": weight.relative if math.isfinite(weight.relative) else None,
                }
                for weight in self.weights
            ],
            "notes": list(self.notes),
            "examples": shown.where(shown.notna(), None).to_dict("records"),
        }

    def to_json(self, alpha: float = 1.0) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(alpha), indent=1)


def check_alpha(alpha: float, where: str) -> None:
    """Raises: InputError unless it is a finite number."""
    require(
        math.isfinite(alpha), where, expected="a finite number", got=alpha, do="Use 1 for the whole edit."
    )


def _changed(subject: Subject, key: str, change: Tensor) -> ChangedWeight:
    matrix = change.double().reshape(-1, change.shape[-1])
    values = torch.linalg.svdvals(matrix)
    before = float(subject.weights[key].double().norm())
    norm = float(matrix.norm())
    return ChangedWeight(
        name=key,
        components=_touched(subject, key, change),
        rank=int((values > RANK_TOLERANCE * values[0]).sum()),
        norm=norm,
        relative=norm / before if before > 0 else math.inf,
    )


def _touched(subject: Subject, key: str, change: Tensor) -> tuple[str, ...]:
    """Components that a weight belongs to; of one that belongs to several heads, those whose part changes."""
    path, leaf = key.rsplit(".", 1)
    if path in _WHERE:
        return (_WHERE[path],)
    _, layer, part = path.split(".")
    if part in ("mlp", "ln2"):
        return (f"MLP{layer}",)
    heads = range(subject.config.n_heads)
    if leaf in _HEADS:
        heads = [head for head in heads if bool(change[head].any())]
    return tuple(f"L{layer}H{head}" for head in heads)
