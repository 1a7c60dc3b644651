"""Which entries of an attention pattern a label is about: the same rule scores it and cuts it.

Position 0 holds BOS, which is not a token of interest: it is a key for `first_token_sink` only.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Tokens = Int[Tensor, "*subject batch pos"]
Entries = Bool[Tensor, "*subject batch query key"]


def visible(n_pos: int, attention_dir: str, device: torch.device) -> Bool[Tensor, "query key"]:
    """Entries that the subject's attention may use at all."""
    all_entries = torch.ones(n_pos, n_pos, dtype=torch.bool, device=device)
    return all_entries.tril() if attention_dir == "causal" else all_entries


def row_chance(n_pos: int, attention_dir: str, device: torch.device) -> Float[Tensor, "query key"]:
    """The row-uniform pattern: 1/(i+1) on visible entries of a causal row, 1/n of a bidirectional one."""
    seen = visible(n_pos, attention_dir, device).float()
    return seen / seen.sum(-1, keepdim=True)


def offset_entries(tokens: Tokens, k: int, attention_dir: str) -> Entries:
    """A[i, i-k]: the key k tokens back, after BOS; k = 0 is the query itself."""
    n_pos = tokens.shape[-1]
    entries = torch.zeros(n_pos, n_pos, dtype=torch.bool, device=tokens.device)
    queries = torch.arange(1 + k, n_pos, device=tokens.device)
    entries[queries, queries - k] = True
    return entries.expand(*tokens.shape[:-1], n_pos, n_pos)


def attention_entries(label: str, tokens: Tokens, attention_dir: str) -> Entries:
    """Entries of one of `ATTENTION_LABELS` but `offset_k`, for which `offset_entries` takes k."""
    n_pos = tokens.shape[-1]
    seen = visible(n_pos, attention_dir, tokens.device).clone()
    seen[:, 0] = False
    seen[0] = False
    diagonal = torch.eye(n_pos, dtype=torch.bool, device=tokens.device)
    match label:
        case "previous_token":
            return offset_entries(tokens, 1, attention_dir)
        case "self":
            return offset_entries(tokens, 0, attention_dir)
        case "first_token_sink":
            sink = torch.zeros_like(seen)
            sink[1:, 0] = True
            return sink.expand(*tokens.shape[:-1], n_pos, n_pos)
        case "duplicate_token":
            return (tokens.unsqueeze(-1) == tokens.unsqueeze(-2)) & seen & ~diagonal
        case "induction":
            before_key = torch.cat([torch.full_like(tokens[..., :1], -1), tokens[..., :-1]], dim=-1)
            own = diagonal | diagonal.roll(1, dims=-1)  # the query, and the key that follows it
            return (tokens.unsqueeze(-1) == before_key.unsqueeze(-2)) & seen & ~own
    raise AssertionError(label)


def answer_entries(
    tokens: Tokens, position: Int[Tensor, "*subject batch"], answer: Int[Tensor, "*subject batch"]
) -> Entries:
    """From the answer position to the positions up to it that hold the answer."""
    index = torch.arange(tokens.shape[-1], device=tokens.device)
    at_answer = index == position.unsqueeze(-1)
    holds = (tokens == answer.unsqueeze(-1)) & (index <= position.unsqueeze(-1))
    return at_answer.unsqueeze(-1) & holds.unsqueeze(-2)
