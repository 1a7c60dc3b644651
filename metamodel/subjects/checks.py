"""What a forward is asked for, judged before anything runs: names of sites, and tokens."""

from collections.abc import Collection

from torch import Tensor

from metamodel.config.errors import InputError, require, suggestion
from metamodel.subjects.config import SubjectConfig


def check_names(config: SubjectConfig, where: str, given: Collection[str], known: tuple[str, ...]) -> None:
    """Raises: InputError for a post-norm subject, which cannot be run, or a name that is not known."""
    require(
        config.norm_position == "pre",
        "subject.norm_position",
        expected="'pre' to run a subject",
        got="'post'",
        do="Post-norm encoders can be read on the weights track only.",
    )
    for name in given:
        # A suggestion takes a millisecond, so that it is looked for only when one is needed.
        if name not in known:
            raise InputError(
                where,
                expected="a site of this subject",
                got=repr(name),
                do=f"See metamodel.subjects.sites.{suggestion(name, known)}",
            )


def check_tokens(config: SubjectConfig, tokens: Tensor, *, where: str, who: str) -> None:
    """Raises: InputError unless all tokens are among the `d_vocab` that the subject embeds.

    `forward` does not look at tokens, which would cost training a pass over them: in a stack, a token out of
    range silently reads a row of another subject's embedding.
    """
    if tokens.numel() == 0:
        return
    low, high = int(tokens.min()), int(tokens.max())
    require(
        low >= 0 and high < config.d_vocab,
        where,
        expected=f"tokens from 0 to {config.d_vocab - 1}, those {who} knows",
        got=low if low < 0 else high,
        do="Choose tokens that fit the subject's vocabulary.",
    )
