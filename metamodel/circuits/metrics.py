"""How far an answer is from another: the numbers by which circuits and ablations are scored."""

from jaxtyping import Bool, Float, Int
from torch import Tensor


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
