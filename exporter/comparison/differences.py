"""How one tensor differs between two models: sums over its elements, which add up over windows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


@dataclass
class Difference:
    """Sums over pairs (a, b) of elements, in fp64; a is the reference."""

    count: int = 0
    max_abs: float = 0.0  # max |a - b|
    absolute: float = 0.0  # sum |a - b|
    noise: float = 0.0  # sum (a - b)^2
    energy_a: float = 0.0
    energy_b: float = 0.0
    product: float = 0.0

    @classmethod
    def between(cls, a: Floats, b: Floats) -> Difference:
        """The sums of two arrays of one shape."""
        a64, b64 = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        delta = np.abs(a64 - b64)
        return cls(
            count=a64.size,
            max_abs=float(delta.max(initial=0.0)),
            absolute=float(delta.sum()),
            noise=float(delta @ delta),
            energy_a=float(a64 @ a64),
            energy_b=float(b64 @ b64),
            product=float(a64 @ b64),
        )

    def __add__(self, other: Difference) -> Difference:
        sums = {name: getattr(self, name) + getattr(other, name) for name in vars(self)}
        return Difference(**{**sums, "max_abs": max(self.max_abs, other.max_abs)})

    @property
    def mean_abs(self) -> float:
        return self.absolute / self.count if self.count else 0.0

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the tensors as vectors; 1 where both are zero."""
        norms = math.sqrt(self.energy_a) * math.sqrt(self.energy_b)
        return self.product / norms if norms else float(self.noise == 0)

    @property
    def snr_db(self) -> float:
        """10 log10(energy of a / energy of a - b); inf where they are equal, -inf where only a is 0."""
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.energy_a / self.noise) if self.energy_a else -math.inf
