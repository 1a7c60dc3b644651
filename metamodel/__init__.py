"""Meta-models: networks that read and edit other networks. See the README for a start in 60 seconds.

    subject = metamodel.from_pretrained("path/to/gpt2")
    reading = metamodel.load("checkpoints/function-small").read(subject)
    reading.to_pandas()

Names are imported when they are first used, so that `import metamodel` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metamodel.config.errors import InputError
    from metamodel.features.graph import graph_of
    from metamodel.reading import FunctionReader, Reading, load
    from metamodel.subjects.config import SubjectConfig
    from metamodel.subjects.interchange import from_bridge, from_pretrained
    from metamodel.subjects.subject import Subject
    from metamodel.triples.store import Zoo

__version__ = "0.1.0"

_HOME = {
    "FunctionReader": "metamodel.reading",
    "InputError": "metamodel.config.errors",
    "Reading": "metamodel.reading",
    "Subject": "metamodel.subjects.subject",
    "SubjectConfig": "metamodel.subjects.config",
    "Zoo": "metamodel.triples.store",
    "from_bridge": "metamodel.subjects.interchange",
    "from_pretrained": "metamodel.subjects.interchange",
    "graph_of": "metamodel.features.graph",
    "load": "metamodel.reading",
}

__all__ = [
    "FunctionReader",
    "InputError",
    "Reading",
    "Subject",
    "SubjectConfig",
    "Zoo",
    "from_bridge",
    "from_pretrained",
    "graph_of",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'metamodel' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
