"""Numbers on their way into JSON, which has no NaN: what can't be computed is null there."""

import math

__all__ = ["bounds_or_null", "value_or_null"]


def value_or_null(value: float) -> float | None:
    """The value as a plain float; None for NaN."""
    return None if math.isnan(value) else float(value)


def bounds_or_null(bounds: tuple[float, float]) -> list[float] | None:
    """An interval as `bootstrap.central` gives it; None where it is (nan, nan)."""
    return None if math.isnan(bounds[0]) else [float(bound) for bound in bounds]
