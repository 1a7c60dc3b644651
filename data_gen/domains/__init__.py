"""Families of domains. To add one, write its file and list it here."""

from data_gen.domains.arithmetic import Affine, Operators
from data_gen.domains.base import Domain, Family
from data_gen.domains.lookup import Grid, Lookup
from data_gen.domains.recall import Recall
from data_gen.domains.thresholds import Brackets, Counts

FAMILIES: dict[str, type[Family]] = {
    one.family: one for one in (Lookup, Grid, Operators, Affine, Brackets, Counts, Recall)
}

__all__ = ["FAMILIES", "Domain", "Family"]
