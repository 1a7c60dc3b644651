"""How far an answer is from another: the numbers by which circuits and ablations are scored."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metamodel.circuits.prompts import Prompts
from metamodel.config.errors import InputError, require, suggestion

Metric = Literal["margin", "logit_difference", "probability", "kl", "accuracy"]
"""`margin`: the right answer's logit minus the runner-up's, who is found anew in every patched run;
`logit_difference`: minus the corrupt answer's; `probability`: of the right answer; `kl`: KL(clean ‖ patched)
in nats, the only one that is larger for worse answers; `accuracy`: 1 where the right answer is likeliest."""
METRICS: tuple[Metric, ...] = get_args(Metric)


def check_metric(name: str) -> Metric:
    """The metric of this name. Raises: InputError for an unknown one."""
    if name not in METRICS:
        do = f"Choose one of them.{suggestion(name, METRICS)}"
        raise InputError("metric", expected=" or ".join(METRICS), got=repr(name), do=do)
    return name


def margin(
    logits: Float[Tensor, "*rest batch d_vocab"], answer: Int[Tensor, " batch"]
) -> Float[Tensor, "*rest batch"]:
    """Logit of the right answer minus the best other logit: positive exactly where the answer is right."""
    index = answer.expand(logits.shape[:-1]).unsqueeze(-1)
    others = logits.scatter(-1, index, -float("inf"))
    return logits.gather(-1, index).squeeze(-1) - others.amax(-1)


def kl(
    clean_logits: Float[Tensor, "*rest batch d_vocab"], patched_logits: Float[Tensor, "*more batch d_vocab"]
) -> Float[Tensor, "*more batch"]:
    """KL divergence KL(clean ‖ patched) of the answer distributions, in nats, for each prompt."""
    clean = clean_logits.log_softmax(-1)
    probability = clean.exp()
    negative_entropy = (probability * clean).sum(-1)
    # Σ p log q without the array of log q: log q = logit − log Σ exp(logit), and Σ p = 1.
    expected_logit = (probability * patched_logits).sum(-1)
    return negative_entropy - expected_logit + patched_logits.logsumexp(-1)


def correct(
    logits: Float[Tensor, "*rest batch d_vocab"], answer: Int[Tensor, " batch"]
) -> Bool[Tensor, "*rest batch"]:
    """Whether the most likely token is the right answer."""
    return logits.argmax(-1) == answer


def accuracy(
    logits: Float[Tensor, "*rest batch d_vocab"], answer: Int[Tensor, " batch"]
) -> Float[Tensor, "*rest"]:
    """Share of prompts, in [0, 1], whose most likely token is the right answer."""
    return correct(logits, answer).to(logits.dtype).mean(-1)


def _logit(logits: Tensor, token: Tensor) -> Tensor:
    return logits.gather(-1, token.expand(logits.shape[:-1]).unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measure:
    """One metric on fixed prompts: from logits where answers are asked to a number for each prompt."""

    metric: Metric
    answer: Int[Tensor, " ask"]
    corrupt_answer: Int[Tensor, " ask"] | None
    prompt: Int[Tensor, " ask"] | None
    """Index of the prompt that each answer belongs to; None where each prompt asks one."""
    n_prompts: int
    clean_logits: Float[Tensor, "ask d_vocab"]

    @classmethod
    def of(cls, metric: Metric, prompts: Prompts, clean_logits: Float[Tensor, "ask d_vocab"]) -> "Measure":
        """Raises: InputError for an unknown metric, or a logit difference of prompts with targets."""
        check_metric(metric)
        asked = prompts.asked
        require(
            metric != "logit_difference" or asked.corrupt_answer is not None,
            "metric",
            expected="a metric that needs no corrupt answers, since prompts have targets at all positions",
            got="'logit_difference'",
            do="Use margin, or leave targets out.",
        )
        return cls(
            metric=metric,
            answer=asked.answer,
            corrupt_answer=asked.corrupt_answer,
            prompt=None if prompts.targets is None else asked.row,
            n_prompts=len(prompts),
            clean_logits=clean_logits,
        )

    def __call__(self, logits: Float[Tensor, "*patch ask d_vocab"]) -> Float[Tensor, "*patch batch"]:
        value = self._value(logits)
        if self.prompt is None:
            return value
        total = value.new_zeros(*value.shape[:-1], self.n_prompts)
        count = torch.bincount(self.prompt, minlength=self.n_prompts)
        return total.index_add(-1, self.prompt, value) / count

    def _value(self, logits: Tensor) -> Tensor:
        match self.metric:
            case "margin":
                return margin(logits, self.answer)
            case "logit_difference":
                assert self.corrupt_answer is not None
                return _logit(logits, self.answer) - _logit(logits, self.corrupt_answer)
            case "probability":
                return (_logit(logits, self.answer) - logits.logsumexp(-1)).exp()
            case "kl":
                return kl(self.clean_logits, logits)
            case "accuracy":
                return correct(logits, self.answer).to(logits.dtype)
