"""How far a planted copy of a circuit is moved from it. Imports no torch."""

from dataclasses import asdict, dataclass

from metamodel.config.errors import require


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedLevel:
    """How far the second circuit is moved from the first. Raises: InputError below 0."""

    noise: float = 0.0
    """Standard deviation of the logarithm of each edge's factor."""
    feature_noise: float = 0.0
    """Standard deviation of what is added to features, in units of the spread of each."""
    dropped: int = 0
    """Heads and MLPs that the second circuit lacks; two are always left."""
    inserted: int = 0
    """Strangers in each of the two circuits."""
    extra_layers: int = 0
    """Blocks by which the second subject is deeper."""

    def __post_init__(self):
        for name, value in asdict(self).items():
            require(
                value >= 0, f"level.{name}", expected="at least 0", got=value, do="Set 0 for no such change."
            )

    def values(self) -> dict[str, float]:
        """As pairs store it."""
        return {name: float(value) for name, value in asdict(self).items()}
