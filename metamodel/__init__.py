"""Meta-models: networks that read and edit other networks. See the README for a start in 60 seconds.

    subject = metamodel.from_pretrained("path/to/gpt2")
    reading = metamodel.load("checkpoints/function-small").read(subject)
    reading.to_pandas()

    spec = metamodel.EditSpec(pairs=[([3, 1, 12], 4)], keep=[[5, 1, 12]])
    proposal = metamodel.load("path/to/editor").propose(subject, spec)
    edited = proposal.apply()

    mapping = metamodel.load("checkpoints/matching").match(one_triple, other_triple)

Names are imported when they are first used, so that `import metamodel` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metamodel.config.errors import InputError
    from metamodel.editing import SubjectEditor
    from metamodel.features.graph import graph_of
    from metamodel.loading import load
    from metamodel.mapping import Mapping
    from metamodel.matching import Behaving, SubjectMatcher
    from metamodel.proposal import Proposal
    from metamodel.reading import FunctionReader, Reading
    from metamodel.subjects.config import SubjectConfig
    from metamodel.subjects.interchange import from_bridge, from_pretrained
    from metamodel.subjects.subject import Subject
    from metamodel.triples.edit_spec import EditSpec
    from metamodel.triples.store import Zoo

__version__ = "0.1.0"

_HOME = {
    "Behaving": "metamodel.matching",
    "EditSpec": "metamodel.triples.edit_spec",
    "FunctionReader": "metamodel.reading",
    "InputError": "metamodel.config.errors",
    "Mapping": "metamodel.mapping",
    "Proposal": "metamodel.proposal",
    "Reading": "metamodel.reading",
    "Subject": "metamodel.subjects.subject",
    "SubjectConfig": "metamodel.subjects.config",
    "SubjectEditor": "metamodel.editing",
    "SubjectMatcher": "metamodel.matching",
    "Zoo": "metamodel.triples.store",
    "from_bridge": "metamodel.subjects.interchange",
    "from_pretrained": "metamodel.subjects.interchange",
    "graph_of": "metamodel.features.graph",
    "load": "metamodel.loading",
}

__all__ = [
    "Behaving",
    "EditSpec",
    "FunctionReader",
    "InputError",
    "Mapping",
    "Proposal",
    "Reading",
    "Subject",
    "SubjectConfig",
    "SubjectEditor",
    "SubjectMatcher",
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
