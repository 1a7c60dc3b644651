"""The table `remeasured`: labels and circuits of a zoo's triples, measured again by `data_gen.remeasured`."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from metamodel.triples.store import Zoo
from metamodel.triples.tables import table_names

TABLE = "remeasured"
Measurements = Mapping[str, Sequence[Mapping[str, Any]]]
"""Id of a triple -> rows: `raw` and `state` `[node * label]`, `member` `[edge]`, `node_member` `[node]`."""


def measurements(zoo: Zoo) -> Measurements:
    """All rows by the triple that they are of; none where the zoo was not measured again.

    Raises: InputError if the table is damaged or was made for another zoo.
    """
    if TABLE not in table_names(zoo.folder):
        return {}
    return by_triple(zoo.table(TABLE).to_list())


def by_triple(rows: Sequence[Mapping[str, Any]]) -> Measurements:
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["id"]].append(row)
    return found
