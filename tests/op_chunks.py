"""QuantizedSSDScan's whole chunks from the formula of its README, one head and one chunk after the other.

x is codes, or FloatInputSSDScan's fp32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from op_cases.drawing import Array
from op_formulas import f32, narrowed, widened

CHUNK, TILE = 64, 8
TILES = CHUNK // TILE


def scan_chunks(i: Mapping[str, Array], step: Array, decay: Array, state_scale: Array) -> tuple[Array, Array]:
    """x (B, L, H, P), B and C (B, L, G, N) codes of whole chunks; step, decay (B, L, H); state_scale
    (H, P, N) -> y (B, L, H, P) without D x, and the state.
    """
    x, state = i["x"], i["state"].copy()
    y = np.empty(x.shape, f32)
    for b, h in np.ndindex(x.shape[0], x.shape[2]):
        g = h * i["B"].shape[2] // x.shape[2]
        x_scale = i["x_scale"][i["scale_index"][h]]
        for first in range(0, x.shape[1], CHUNK):
            part = slice(first, first + CHUNK)
            steps, decays = step[b, part, h], decay[b, part, h]
            rows, read = (i[name][b, part, g].astype(np.int64) for name in ("B", "C"))
            old = widened(state[b, h], state_scale[h])
            y[b, part, h], new = chunk(
                *codes_of(x[b, part, h], x_scale),
                steps,
                decays,
                rows,
                read,
                (x_scale, i["B_scale"][g], i["C_scale"][g]),
                old,
            )
            state[b, h] = narrowed(new, state, state_scale[h])
    return y, state


def codes_of(x: Array, x_scale: Array) -> tuple[NDArray[np.int64], Array]:
    """x (Q, P) as integers, and the unit of each channel (P) in scales."""
    if x.dtype == np.int8:
        return x.astype(np.int64), np.ones(x.shape[1], f32)
    whole, unit = fixed_point((x / x_scale).T, 21)
    return whole.T, unit[:, 0]


def chunk(
    x: Array,
    x_unit: Array,
    steps: Array,
    decays: Array,
    rows: Array,
    read: Array,
    scales: tuple[Array, np.float32, np.float32],
    h: Array,
) -> tuple[Array, Array]:
    """x (Q, P) integers of x_unit (P), rows and read (Q, N) integers; steps and decays (Q); scales of x (P),
    B and C; h (P, N) -> y (Q, P), h behind the chunk, not rounded yet.
    """
    x_scale, B_scale, C_scale = scales
    reach, first = weights(decays, steps)
    mixed, mixed_unit = fixed_point(reach * (read @ rows.T).astype(f32))
    inside = (mixed @ x).astype(f32) * x_unit * mixed_unit * (B_scale * C_scale * x_scale)
    held, held_unit = fixed_point(h)
    before = (read @ held.T).astype(f32) * (held_unit[:, 0] * C_scale)
    weighted, weighted_unit = fixed_point((reach[-1][:, None] * (x.astype(f32) * x_unit)).T)
    added = (weighted @ rows).astype(f32) * (weighted_unit * (x_scale * B_scale)[:, None])
    return inside + before * first[:, None], h * first[-1] + added


def weights(decays: Array, steps: Array) -> tuple[Array, Array]:
    """At token t: the step of each token s and the decay since (Q, Q); the decay since the begin (Q)."""
    tile = np.arange(CHUNK) // TILE
    begin, end = tile * TILE, (tile + 1) * TILE
    begun = np.array([run(decays[begin[t] : t + 1]) for t in range(CHUNK)])
    ended = np.array([run(decays[s + 1 : end[s]]) for s in range(CHUNK)])
    total = begun[TILE - 1 :: TILE]
    between = np.array([[run(total[first:last]) for first in range(TILES + 1)] for last in range(TILES)])
    reach = (ended * steps) * (between[tile][:, tile + 1] * begun[:, None])
    for t in range(CHUNK):
        for s in range(begin[t], t + 1):
            reach[t, s] = run(decays[s + 1 : t + 1]) * steps[s]
        reach[t, t + 1 :] = 0
    return reach, between[tile, 0] * begun


def run(factors: Array) -> np.float32:
    """The product from the left, rounded after each factor."""
    return np.multiply.accumulate(factors)[-1] if len(factors) else f32(1)


def fixed_point(x: Array, digits: int = 13) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Integers and the unit of each row: 2^-digits of the power of two at or below its largest value."""
    _, exponent = np.frexp(np.maximum(np.abs(x).max(-1, keepdims=True), f32(2.0**-100)))
    unit = np.ldexp(f32(1), exponent - digits - 1)
    return np.rint(x / unit).astype(np.int64), unit
