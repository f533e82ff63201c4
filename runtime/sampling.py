"""Choosing the next token from logits.

The order is that of transformers' generate(): repetition penalty, temperature, top-k, top-p, min-p, then a
draw. Each filter sees what the one before it left, renormalized. All tokens that tie at a filter's border are
kept, so that the choice depends on the logits alone and not on how a sort treats equals.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quamba_export.runtime.errors import ExitCode, QuambaError

Probabilities = NDArray[np.float32]
HEAD = 1024  # tokens summed first: they reach top-p nearly always, and a whole vocabulary takes 0.5 ms


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, by default greedily. Raises QuambaError (exit 2) for a value out of range."""

    temperature: float = 0.0  # 0: the most probable token, the lowest id where several are
    top_k: int = 0  # keep the k most probable tokens; 0: all
    top_p: float = 1.0  # keep the most probable tokens that together reach this share; 1: all
    min_p: float = 0.0  # keep tokens at least this share as probable as the most probable one; 0: all
    repetition_penalty: float = (
        1.0  # > 1 makes tokens of the prompt and the text so far less likely (CTRL, 2019)
    )
    seed: int = 0  # row i of a batch draws from the stream (seed, i)

    @property
    def greedy(self) -> bool:
        """Whether the next token is the likeliest one, whatever came before."""
        return self.temperature == 0.0 and self.repetition_penalty == 1.0

    def __post_init__(self) -> None:
        for name in RANGES:
            value = getattr(self, name)
            if allowed := wanted_instead(name, value):
                message = f"--{name.replace('_', '-')} is out of range"
                raise QuambaError(message, found=str(value), allowed=allowed, code=ExitCode.USAGE)


RANGES: dict[str, tuple[float, float]] = {
    "temperature": (1e-6, 1000),  # or 0; below 1e-6, fp32 logits would overflow
    "top_k": (0, 1 << 31),
    "top_p": (1e-9, 1),
    "min_p": (0, 1),
    "repetition_penalty": (0.001, 1000),
    "seed": (0, (1 << 64) - 1),
}


def wanted_instead(name: str, value: float) -> str:
    """What a field of Sampling may be, where it may not be `value`; "" where it may. NaN is in no range."""
    low, high = RANGES[name]
    or_zero = name == "temperature"
    if low <= value <= high or (or_zero and value == 0):
        return ""
    return f"{'0, or ' if or_zero else ''}{low} to {high}"


class Sampler:
    """Chooses the tokens of one sequence, and remembers what has occurred in it."""

    def __init__(
        self, sampling: Sampling, vocab_size: int, prompt_ids: Iterable[int] = (), row: int = 0
    ) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng((sampling.seed, row))
        self._seen = np.zeros(vocab_size, dtype=bool)
        self._seen[list(prompt_ids)] = True

    def choose(self, logits: NDArray[np.float32]) -> int:
        """The next token's id from logits (V,). Raises QuambaError (exit 9) if the largest is not finite."""
        check_finite(logits)
        if self.sampling.repetition_penalty != 1.0:
            logits = penalized(logits, self._seen, self.sampling.repetition_penalty)
        token = int(logits.argmax()) if self.sampling.temperature == 0.0 else self._draw(logits)
        self._seen[token] = True
        return token

    def _draw(self, logits: NDArray[np.float32]) -> int:
        tokens, probabilities = kept_tokens(logits, self.sampling)
        cumulative = probabilities.cumsum(dtype=np.float64)
        drawn = cumulative.searchsorted(self._random.random() * cumulative[-1], side="right")
        return int(tokens[min(int(drawn), len(tokens) - 1)])


def likeliest(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """The token of the largest logit of each row, logits (B, V) -> (B,); the lowest id where several are.

    Raises QuambaError (exit 9) if the largest of a row is not finite.
    """
    for row in logits:
        check_finite(row)
    tokens: NDArray[np.int64] = logits.argmax(-1).astype(np.int64, copy=False)
    return tokens


def check_finite(logits: NDArray[np.float32]) -> None:
    """Raise QuambaError (exit 9) if the largest of logits (V,) is not finite: NaN wins over every number."""
    if not np.isfinite(logits.max()):
        raise QuambaError(
            "the model's logits are not finite",
            found=f"{np.isnan(logits).sum()} NaN and {np.isposinf(logits).sum()} inf of {logits.size}",
            fix="look for the first layer that is wrong with `quamba-export compare`",
            code=ExitCode.NUMERIC,
        )


def penalized(logits: NDArray[np.float32], seen: NDArray[np.bool_], penalty: float) -> NDArray[np.float32]:
    """Logits (V,), of seen tokens divided if positive, multiplied if negative (CTRL, section 4.1)."""
    factor = np.float32(penalty)
    return np.where(seen, np.where(logits > 0, logits / factor, logits * factor), logits)


def kept_tokens(logits: NDArray[np.float32], sampling: Sampling) -> tuple[NDArray[np.intp], Probabilities]:
    """The tokens (n,) that the filters leave of logits (V,), by rising id, and their probabilities (n,)."""
    scaled = (logits - logits.max()) / np.float32(sampling.temperature)
    tokens: NDArray[np.intp] = np.arange(logits.size)
    if 0 < sampling.top_k < logits.size:
        tokens = np.flatnonzero(scaled >= np.partition(scaled, -sampling.top_k)[-sampling.top_k])
    probabilities = np.exp(scaled[tokens])
    probabilities /= probabilities.sum()
    if sampling.top_p < 1.0:
        kept = probabilities >= top_p_border(probabilities, sampling.top_p)
        tokens, probabilities = tokens[kept], probabilities[kept]
    if sampling.min_p > 0.0:
        kept = probabilities >= sampling.min_p * probabilities.max()
        tokens, probabilities = tokens[kept], probabilities[kept]
    return tokens, probabilities / probabilities.sum()


def top_p_border(probabilities: Probabilities, top_p: float) -> float:
    """The least probability that belongs to the smallest set reaching `top_p` (Holtzman et al., 2020)."""
    falling = np.sort(probabilities)[::-1]
    sums = falling[:HEAD].cumsum(dtype=np.float64)
    if sums[-1] < top_p:
        sums = falling.cumsum(dtype=np.float64)
    count = int(sums.searchsorted(top_p)) + 1
    return float(falling[min(count, falling.size) - 1])
