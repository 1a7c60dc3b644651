"""The hooks of a bridge that are off by default: what each head writes, and what each reads."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformer_lens.model_bridge import TransformerBridge

from metamodel.config.errors import InputError

OTHER = "Choose another, such as GPT-2, GPT-NeoX, Llama, Mistral or Qwen."


def has_forks(bridge: TransformerBridge) -> bool:
    """Whether TransformerLens has hooks at single heads of this architecture."""
    try:
        with flags_on(bridge, ""):
            return True
    except InputError:
        return False


@contextmanager
def flags_on(bridge: TransformerBridge, name: str) -> Iterator[None]:
    """Turns on the hooks that are off by default, and afterwards sets all of them as they were."""
    cfg, wanted = bridge.cfg, ("attn_result", "split_qkv_input")
    before = {flag: bool(getattr(cfg, f"use_{flag}", False)) for flag in (*wanted, "attn_in")}
    switch = {flag: getattr(bridge, f"set_use_{flag}") for flag in before}
    try:
        switch["attn_in"](False)  # it excludes the split inputs
        for flag in wanted:
            try:
                switch[flag](True)
            except NotImplementedError:
                raise InputError(
                    f"{name}.use_{flag}",
                    expected="an architecture for which TransformerLens has these hooks",
                    got=repr(cfg.architecture),
                    do=OTHER,
                ) from None
        yield
    finally:
        for flag in wanted:
            switch[flag](before[flag])
        switch["attn_in"](before["attn_in"])
