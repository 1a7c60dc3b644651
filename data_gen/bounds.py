"""Checks that all configurations of the workshop share: values that must not be too small."""

from collections.abc import Mapping

from metamodel.config import require


def at_least(config: object, where: str, least: Mapping[str, float | int]) -> None:
    for name, bound in least.items():
        value = getattr(config, name)
        require(
            value >= bound,
            f"{where}.{name}",
            expected=f"at least {bound}",
            got=value,
            do=f"Set {bound} or more.",
        )


def positive(config: object, where: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{where}.{name}", expected="> 0", got=value, do="Set a positive value.")
