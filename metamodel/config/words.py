"""Words that several packages share: what meta-models may look at, and along which axis a test departs."""

from typing import Literal, get_args

Track = Literal["weights", "activations", "both"]
"""What a reader may look at."""
TRACKS: tuple[Track, ...] = get_args(Track)
TestSplit = Literal["seed", "variant", "size", "recipe", "origin", "task"]
"""Tests, each named for the one axis along which it departs from training."""
TEST_SPLITS: tuple[TestSplit, ...] = get_args(TestSplit)
Departure = Literal["none", "variant", "size", "recipe", "origin", "task"]
"""Along which axis a subject departs from those that meta-models train on; other seeds depart in nothing."""
EditDeparture = Literal["none", "seed", "size", "task"]
"""The same of subjects to be edited. Of those that depart in nothing some are drawn for the tests of other
seeds; `seed` is for subjects that are meant for these tests alone."""
NodeDescription = Literal["edges", "features", "ratios", "both"]
"""What matchers see of components: nothing but their edges, features, ratio signatures, or both of these."""
