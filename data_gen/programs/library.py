"""Named programs, each of any number of symbols and length: algorithms that transformers can learn."""

from collections.abc import Callable

from data_gen.programs.language import POSITIONS, TOKENS, Program
from data_gen.programs.sketch import Number, Sketch

Make = Callable[[Sketch], Program]


def identity(s: Sketch) -> Program:
    s.map("same", TOKENS, lambda x: int(x))
    return s.program("identity", "same", "The symbol itself: no attention is needed.")


def absolute(s: Sketch) -> Program:
    middle = s.n_symbols // 2
    s.map("size", TOKENS, lambda x: abs(int(x) - middle))
    return s.program(
        "absolute", "size", "Distance of the symbol from the middle one: no attention is needed."
    )


def first(s: Sketch) -> Program:
    s.aggregate("first", s.select(POSITIONS, POSITIONS, lambda q, k: k == 0), TOKENS)
    return s.program("first", "first", "The first symbol of the prompt.")


def shift(s: Sketch) -> Program:
    s.shift("previous")
    return s.program("shift", "previous", "The symbol one place before.")


def fraction(s: Sketch) -> Program:
    s.map("hit", TOKENS, lambda x: x == 0)
    s.mean("share", s.select(TOKENS, TOKENS, lambda q, k: True), "hit", lambda x: int(x))
    s.map("class", "share", lambda x: (x > 0) + (3 * x >= 1) + (3 * x >= 2) + (x == 1))
    return s.program("fraction", "class", "Share of symbol 0 so far: none, below 1/3, 2/3, 1, or all.")


def count(s: Sketch) -> Program:
    s.width("count", s.select(TOKENS, TOKENS, lambda q, k: k == 0))
    return s.program("count", "count", "How often symbol 0 has come so far.")


def histogram(s: Sketch) -> Program:
    s.width("count", s.select(TOKENS, TOKENS, lambda q, k: q == k))
    return s.program("histogram", "count", "How often the present symbol has come so far.")


def count_greater(s: Sketch) -> Program:
    s.width("count", s.select(TOKENS, TOKENS, lambda q, k: k > q))
    return s.program("count-greater", "count", "How many symbols so far are greater than the present one.")


def seen_before(s: Sketch) -> Program:
    s.width("count", s.select(TOKENS, TOKENS, lambda q, k: q == k))
    s.map("again", "count", lambda n: n > 1)
    return s.program("seen-before", "again", "Whether the present symbol has come before.")


def count_parity(s: Sketch) -> Program:
    s.width("count", s.select(TOKENS, TOKENS, lambda q, k: k == 0))
    s.map("parity", "count", lambda n: int(n) % 2)
    return s.program("count-parity", "parity", "Whether symbol 0 has come an odd number of times.")


def reverse(s: Sketch) -> Program:
    s.map("opposite", POSITIONS, lambda p: s.length - 1 - int(p))
    s.aggregate("mirrored", s.select("opposite", POSITIONS, lambda q, k: q == k), TOKENS)
    return s.program(
        "reverse", "mirrored", "The symbol as far from the end as this is from the start.", causal=False
    )


def dedupe(s: Sketch) -> Program:
    s.shift("previous")
    s.sequence_map("kept", "previous", TOKENS, lambda a, b: int(b) if a != b else s.n_symbols)
    return s.program("dedupe", "kept", "The symbol, or a sign for 'again' if it equals the one before.")


def trend(s: Sketch) -> Program:
    s.shift("previous")
    s.sequence_map("trend", "previous", TOKENS, lambda a, b: 3 if a == s.n_symbols else (b > a) + 2 * (b < a))
    return s.program(
        "trend", "trend", "Whether the symbol is equal to, greater or smaller than the one before."
    )


def alternation(s: Sketch) -> Program:
    s.shift("back1")
    s.shift("back2", by=2)
    s.sequence_map("differs", "back1", TOKENS, lambda a, b: a != b)
    s.sequence_map("differed", "back2", "back1", lambda a, b: a != b)
    s.sequence_map("both", "differs", "differed", lambda a, b: a == 1 and b == 1)
    return s.program("alternation", "both", "Whether the last two steps both changed the symbol.")


def detect(s: Sketch) -> Program:
    def third(x: Number) -> int:
        return 3 * int(x) // s.n_symbols

    s.shift("back1")
    s.shift("back2", by=2)
    nothing = s.n_symbols
    s.sequence_map("ends", "back1", TOKENS, lambda a, b: a != nothing and third(a) == 1 and third(b) == 2)
    s.sequence_map("found", "back2", "ends", lambda a, b: third(a) == 0 and b == 1)
    return s.program("detect", "found", "Whether a low, a middle and a high symbol have just come.")


def sort(s: Sketch) -> Program:
    s.width("rank", s.select(TOKENS, TOKENS, lambda q, k: k < q))
    s.aggregate("sorted", s.select(POSITIONS, "rank", lambda q, k: q == k), TOKENS)
    return s.program("sort", "sorted", "The symbols in order; prompts hold each at most once.", causal=False)


def pair_balance(s: Sketch) -> Program:
    everything = s.select(TOKENS, TOKENS, lambda q, k: True)
    s.mean("opened", everything, TOKENS, lambda x: int(x == 0))
    s.mean("closed", everything, TOKENS, lambda x: int(x == 1))
    s.sequence_map("balance", "opened", "closed", lambda a, b: (a > b) + 2 * (a < b))
    return s.program("pair-balance", "balance", "Whether symbol 0 or symbol 1 has come more often so far.")


def frequency_class(s: Sketch) -> Program:
    s.width("count", s.select(TOKENS, TOKENS, lambda q, k: q == k))
    s.width("length", s.select(TOKENS, TOKENS, lambda q, k: True))
    s.sequence_map("class", "count", "length", lambda a, b: (3 * a > b) + (3 * a > 2 * b))
    return s.program("frequency-class", "class", "In which third the share of the present symbol so far is.")


def palindrome(s: Sketch) -> Program:
    s.map("opposite", POSITIONS, lambda p: s.length - 1 - int(p))
    s.aggregate("mirrored", s.select("opposite", POSITIONS, lambda q, k: q == k), TOKENS)
    s.sequence_map("differs", "mirrored", TOKENS, lambda a, b: a != b)
    s.width("errors", s.select(TOKENS, "differs", lambda q, k: k == 1))
    s.map("palindrome", "errors", lambda n: n == 0)
    return s.program("palindrome", "palindrome", "Whether the prompt reads the same backwards.", causal=False)


def shuffle_dyck(s: Sketch) -> Program:
    everything = s.select(TOKENS, TOKENS, lambda q, k: True)
    for kind in range(2):
        opens, closes = 2 * kind, 2 * kind + 1
        s.mean(f"balance{kind}", everything, TOKENS, lambda x, o=opens, c=closes: (x == o) - (x == c))
    for kind in range(2):
        s.map(f"sign{kind}", f"balance{kind}", lambda x: (x < 0) + 2 * (x > 0))
    s.sequence_map("level", "sign0", "sign1", lambda a, b: a == 0 and b == 0)
    s.sequence_map("below", "sign0", "sign1", lambda a, b: a == 1 or b == 1)
    s.mean("errors", s.select(TOKENS, "below", lambda q, k: True), "below", lambda x: int(x))
    s.map("clean", "errors", lambda x: x == 0)
    s.sequence_map("balanced", "level", "clean", lambda a, b: a == 1 and b == 1)
    return s.program("shuffle-dyck", "balanced", "Whether both kinds of brackets are balanced so far.")


def induction(s: Sketch) -> Program:
    s.shift("previous")
    s.aggregate("next", s.select(TOKENS, "previous", lambda q, k: q == k), TOKENS, default=s.n_symbols)
    return s.program(
        "induction", "next", "What followed the present symbol before; prompts leave one answer."
    )


def ioi(s: Sketch) -> Program:
    """Names 0..n-2 at three places, then a full stop, where the name that came once is asked for."""
    stop = s.n_symbols - 1
    s.width("count", s.select(TOKENS, TOKENS, lambda q, k: q == k))
    s.sequence_map("again", "count", TOKENS, lambda n, x: int(x) if n > 1 and x != stop else stop)
    s.aggregate("subject", s.select(TOKENS, "again", lambda q, k: k != stop), "again", default=stop)
    s.aggregate("object", s.select("subject", TOKENS, lambda q, k: k not in (q, stop)), TOKENS)
    names = tuple(range(stop))
    places = (names,) * (s.length - 1)
    return s.program(
        "ioi",
        "object",
        "The name that comes once, where another one comes twice.",
        first=s.length - 1,
        symbols_at=(*places, (stop,)),
    )


MAKE: dict[str, tuple[Make, int, int]] = {
    "identity": (identity, 8, 6),
    "absolute": (absolute, 7, 6),
    "first": (first, 8, 6),
    "shift": (shift, 8, 6),
    "fraction": (fraction, 4, 6),
    "count": (count, 4, 6),
    "histogram": (histogram, 4, 6),
    "count-greater": (count_greater, 5, 6),
    "seen-before": (seen_before, 5, 6),
    "count-parity": (count_parity, 4, 6),
    "reverse": (reverse, 6, 6),
    "dedupe": (dedupe, 6, 6),
    "trend": (trend, 5, 6),
    "alternation": (alternation, 4, 6),
    "detect": (detect, 3, 6),
    "sort": (sort, 9, 5),
    "pair-balance": (pair_balance, 3, 6),
    "frequency-class": (frequency_class, 3, 6),
    "palindrome": (palindrome, 3, 5),
    "shuffle-dyck": (shuffle_dyck, 4, 6),
    "induction": (induction, 6, 6),
    "ioi": (ioi, 6, 4),
}
"""Name -> how it is made, and its usual number of symbols and length."""
NULLS = ("identity", "absolute")
"""Programs without attention."""


def library_program(name: str, *, n_symbols: int | None = None, length: int | None = None) -> Program:
    """A named program, at its usual size unless told."""
    make, usual_symbols, usual_length = MAKE[name]
    return make(Sketch(n_symbols=n_symbols or usual_symbols, length=length or usual_length))
