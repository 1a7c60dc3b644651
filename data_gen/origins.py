"""How subjects of each origin are made: from the spec of a shard to subjects, or reasons why not."""

from collections.abc import Callable

from data_gen.cells import MadeOrigin
from data_gen.compiled import make_compiled_shard
from data_gen.made import MadeShard
from data_gen.planted import make_planted
from data_gen.population import ShardSpec
from data_gen.siit import make_siit
from data_gen.trained import make_trained

Maker = Callable[[ShardSpec, Callable[[int, int], None] | None], MadeShard]
"""Called with a spec, and with what it may tell (work done, work in all)."""

MAKERS: dict[MadeOrigin, Maker] = {
    "trained": make_trained,
    "compiled": make_compiled_shard,
    "siit": make_siit,
    "planted": make_planted,
}
