"""The norms and rotations of tests/op_definitions.py."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from op_cases.drawing import Array
from op_formulas import Attrs, dense_hadamard, dequantize, f32, half, quantize, rms_norm, silu, wide


def rms_norm_quantize(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [quantize(rms_norm(i["x"], a["epsilon"]), a["out_scale"])]


def weighted_rms_norm_quantize(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [quantize(rms_norm(i["x"], a["epsilon"]) * i["norm_weight"], a["out_scale"])]


def float_rms_norm(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [rms_norm(i["x"], a["epsilon"])]


def half_rms_norm(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [half(rms_norm(i["x"], a["epsilon"]))]


def rotated(x: Array, a: Attrs) -> NDArray[np.float32]:
    matrix = dense_hadamard(x.shape[-1]) if a["hadamard"] else np.eye(x.shape[-1])
    return (x.astype(wide) @ matrix.T.astype(wide)).astype(f32)


def hadamard_quantize(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [quantize(rotated(i["x"], a), a["out_scale"])]


def float_hadamard(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [rotated(i["x"], a)]


def half_hadamard(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [half(rotated(i["x"], a))]


def gated_norm(i: Mapping[str, Array], z: Array, a: Attrs) -> Array:
    parts = np.split(i["x"] * silu(z), int(a["n_groups"]), axis=-1)
    normed = np.concatenate([rms_norm(part, a["epsilon"]) for part in parts], axis=-1) * i["norm_weight"]
    return rotated(normed, a)


def gated_norm_quantize(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [quantize(gated_norm(i, dequantize(i["z"], a["z_scale"]), a), a["out_scale"])]


def float_gated_norm(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [gated_norm(i, i["z"], a)]


def half_gated_norm(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [half(gated_norm(i, i["z"].astype(f32), a))]
