"""A model that somebody else trained, run by transformers itself: its attention on random tokens and text.

Nothing of the subject that a reader sees takes part in this: another forward, another copy of the weights.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from data_gen.labels.batteries import batteries
from metamodel.config.errors import require
from metamodel.subjects.interchange.quiet import quiet

TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json")
"""Files of which a folder with a tokenizer has one."""
LENGTH = 64
"""Tokens of a prompt at most."""
BATCH = 8
Tokens = Int[Tensor, "batch pos"]
Pattern = Float[Tensor, "layer batch head query key"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ForeignModel:
    """A module of transformers and what its prompts are made of."""

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    first: int | None
    """Token that the tokenizer puts before a text."""
    last: int | None
    """Token that it puts behind."""
    length: int
    """Tokens of a prompt."""

    @classmethod
    def open(cls, folder: Path) -> "ForeignModel":
        """A folder that `metamodel.from_pretrained` reads, with its tokenizer if there is one."""
        with quiet():
            module = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
            found = any((folder / name).is_file() for name in TOKENIZERS)
            tokenizer = AutoTokenizer.from_pretrained(folder) if found else None
        config, encoder = module.config, module.config.model_type == "bert"
        first, last = None, None
        if tokenizer is not None:
            first = tokenizer.cls_token_id if encoder else tokenizer.bos_token_id
            last = tokenizer.sep_token_id if encoder else None
        length = min(LENGTH, config.max_position_embeddings)
        return cls(module=module.eval(), tokenizer=tokenizer, first=first, last=last, length=length)

    @property
    def symbols(self) -> Int[Tensor, " symbol"]:
        """Tokens that stand for text: no special ones, and none in brackets, as BERT has them unused."""
        start = 0 if self.first is None else self.first
        left_out = {start}
        if self.tokenizer is not None:
            left_out |= set(self.tokenizer.all_special_ids)
            words = self.tokenizer.get_vocab()
            left_out |= {i for word, i in words.items() if re.fullmatch(r"\[.+\]", word)}
        return torch.tensor([i for i in range(self.module.config.vocab_size) if i not in left_out])

    def random(self, n: int, *, seed: int) -> tuple[Tokens, Tokens | None]:
        """Prompts of random tokens, without repetition and with it; the second is None for short contexts.

        Without a token of its own for it, token 0 starts a prompt, as in the probes of readers.
        """
        draw = torch.Generator().manual_seed(seed)
        start = 0 if self.first is None else self.first
        n_pos = self.length - (self.last is not None)
        made = batteries(draw, n=n, n_pos=n_pos, bos=start, symbols=self.symbols)
        return self._ended(made.random), None if made.repeated is None else self._ended(made.repeated)

    def windows(self, text: str, n: int) -> Tokens:
        """At most `n` parts of a text, evenly spaced, in the model's own tokens.

        Raises: InputError without a tokenizer, or for a text shorter than one part.
        """
        where = "--text"
        do = "Leave --text out, or add the tokenizer to the folder."
        require(
            self.tokenizer is not None, where, expected="a model with a tokenizer", got="one without", do=do
        )
        assert self.tokenizer is not None
        inside = self.length - (self.first is not None) - (self.last is not None)
        with quiet():
            ids = torch.tensor(self.tokenizer(text, add_special_tokens=False).input_ids, dtype=torch.long)
        n_found = len(ids) // inside
        require(
            n_found > 0, where, expected=f"at least {inside} tokens", got=len(ids), do="Give a longer text."
        )
        parts = ids[: n_found * inside].view(n_found, inside)
        chosen = torch.linspace(0, n_found - 1, min(n, n_found)).round().long()
        parts = parts[chosen]
        if self.first is not None:
            parts = torch.cat([parts.new_full((len(parts), 1), self.first), parts], dim=1)
        return self._ended(parts)

    @torch.no_grad()
    def attention(self, tokens: Tokens) -> Pattern:
        """What every head attends to."""
        parts = []
        for some in tokens.split(BATCH):
            run = self.module(input_ids=some, output_attentions=True, use_cache=False)
            parts.append(torch.stack(run.attentions))
        return torch.cat(parts, dim=1)

    def _ended(self, tokens: Tokens) -> Tokens:
        if self.last is None:
            return tokens
        return torch.cat([tokens, tokens.new_full((len(tokens), 1), self.last)], dim=1)
