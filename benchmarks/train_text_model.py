"""Trains a small GPT-2 of characters on text, for a reader that has seen nothing like it.

    python benchmarks/train_text_model.py OUT --text README.md docs/*.md [--steps 1500] [--seed 0]

No line of this project's own training runs here: the module, its initialisation and its loss are those of
transformers, the optimiser is NAdam under a cosine, the data is natural text. OUT is a folder as
save_pretrained writes it, with a tokenizer of single characters beside the weights; `--steps 0` leaves the
initial weights, which compute nothing and stand as a control.

Prints progress to stderr and one JSON object as last line of stdout: bits per character on the last twentieth
of the text, beside what the frequencies of characters and of pairs alone would pay.
"""

import json
import math
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from metamodel.config.command import run_command
from metamodel.config.errors import require
from metamodel.config.parser import command_parser, parse_options

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""Stands for rare characters, and for those of other texts."""
MIN_COUNT = 5
"""Occurrences from which a character has a token of its own."""
HELD_OUT = 20
"""The last of this many parts of the text is kept for the loss that is reported."""
WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""


def main(arguments: list[str]) -> None:
    parser = command_parser(prog="benchmarks.train_text_model", description=__doc__ or "")
    parser.add_argument("out", type=str, help="folder to write, which must not exist")
    parser.add_argument("--text", type=str, nargs="+", required=True, help="files of text to learn")
    parser.add_argument("--steps", type=int, default=1500, help="updates; 0 for a control without training")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=128, help="d_model")
    parser.add_argument("--context", type=int, default=128, help="characters of a training window")
    parser.add_argument("--batch", type=int, default=8, help="windows an update")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    given = parse_options(parser, arguments)
    out = Path(given.out)
    require(
        not out.exists(), "out", expected="a new folder", got=f"{out}, which exists", do="Name another one."
    )
    for key, least in (("steps", 0), ("layers", 1), ("heads", 1), ("width", 1), ("context", 2), ("batch", 1)):
        value = getattr(given, key)
        require(value >= least, f"--{key}", expected=f"at least {least}", got=value, do="Give more.")
    expected = f"a divisor of --width {given.width}"
    fits = given.width % given.heads == 0
    require(fits, "--heads", expected=expected, got=given.heads, do="Choose another number.")
    text = text_of(given.text)
    known = vocabulary(text)
    cut = len(text) - max(len(text) // HELD_OUT, given.context + 1)
    expected = f"more than {2 * given.context + 2} characters"
    require(
        cut > given.context, "--text", expected=expected, got=len(text), do="Give more, or a smaller context."
    )

    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from metamodel.subjects.interchange.quiet import quiet

    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(known),
            n_positions=given.context,
            n_embd=given.width,
            n_layer=given.layers,
            n_head=given.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    place = {character: i for i, character in enumerate(known)}
    tokens = torch.tensor([place.get(character, place[UNKNOWN]) for character in text])
    began = time.perf_counter()
    with quiet():
        learn(model, tokens[:cut], given.steps, batch=given.batch, rate=given.rate, seed=given.seed)
        seconds = time.perf_counter() - began
        model.save_pretrained(out)
        tokenizer_of(known).save_pretrained(out)
    found = {
        "folder": str(out),
        "files": given.text,
        "n_characters": len(text),
        "d_vocab": len(known),
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "steps": given.steps,
        "seed": given.seed,
        "bits_per_character": round(bits(model, tokens[cut:], given.context), 3),
        "bits_by_frequency": round(bits_by_counts(tokens[:cut].tolist(), tokens[cut:].tolist(), 0), 3),
        "bits_by_pairs": round(bits_by_counts(tokens[:cut].tolist(), tokens[cut:].tolist(), 1), 3),
        "train_s": round(seconds, 1),
    }
    print(json.dumps(found))


def text_of(files: list[str]) -> str:
    """All files, one after another. Raises: InputError for one that is not there, or is not text."""
    parts = []
    for file in files:
        require(
            Path(file).is_file(), "--text", expected="a file", got=f"no file {file}", do="Check the path."
        )
        parts.append(Path(file).read_text(encoding="utf-8", errors="replace"))
    return "\n".join(parts)


def vocabulary(text: str) -> list[str]:
    """Characters with a token of their own, in order, and the one that stands for all others."""
    counts = Counter(text)
    return sorted({character for character, n in counts.items() if n >= MIN_COUNT} | {UNKNOWN})


def tokenizer_of(characters: list[str]) -> "PreTrainedTokenizerFast":
    """A tokenizer of transformers with one token a character."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(WordLevel({c: i for i, c in enumerate(characters)}, unk_token=UNKNOWN))
    made.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token=UNKNOWN)


def learn(
    model: "GPT2LMHeadModel", tokens: "Tensor", steps: int, *, batch: int, rate: float, seed: int
) -> None:
    """Trains in place on windows drawn with `seed`."""
    import torch
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.NAdam(model.parameters(), lr=rate)
    schedule = get_cosine_schedule_with_warmup(optimizer, int(WARM_UP * steps), steps)
    draw = torch.Generator().manual_seed(seed)
    context = model.config.n_positions
    model.train()
    for step in range(steps):
        start = torch.randint(len(tokens) - context, (batch, 1), generator=draw)
        window = tokens[start + torch.arange(context)]
        loss = model(input_ids=window, labels=window).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: {loss.item() / math.log(2):.3f} bits a character", file=sys.stderr)
    model.eval()


def bits(model: "GPT2LMHeadModel", tokens: "Tensor", context: int) -> float:
    """Bits a character in windows one after another."""
    import torch

    n = len(tokens) // context
    windows = tokens[: n * context].view(n, context)
    model.eval()
    with torch.no_grad():
        losses = [float(model(input_ids=w, labels=w).loss) for w in windows.split(16)]
    sizes = [len(w) for w in windows.split(16)]
    return sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes) / math.log(2)


def bits_by_counts(seen: list[int], asked: list[int], order: int) -> float:
    """Bits a character that counts of the training part pay: of characters, or of pairs mixed with those."""
    n_symbols = max(max(seen), max(asked)) + 1
    single, pairs = Counter(seen), Counter(pairwise(seen))
    paid = 0.0
    for before, after in pairwise(asked):
        share = (single[after] + 1) / (len(seen) + n_symbols)
        if order:
            share = (pairs[before, after] + share) / (single[before] + 1)
        paid -= math.log2(share)
    return paid / (len(asked) - 1)


if __name__ == "__main__":
    run_command(main)
