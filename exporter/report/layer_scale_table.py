"""The scales around a layer's convolution in the form Quamba2 publishes: 12 for Mamba-2, 4 for Mamba-1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray


@dataclass(frozen=True)
class ScaleEntry:
    """A line of the table; shape and value are "-" where there is no such scale."""

    name: str
    shape: str
    value: str


def layer_scale_table(kind: str, scales: Mapping[str, NDArray[np.float32]]) -> list[ScaleEntry]:
    """{x_scale, wx_scale, x_out_scales, bx_scale}, for Mamba-2 also of B and C.

    The bias is fp32 in this project, so its scale is always "-".
    """
    parts = "x" if kind == "mamba1" else "xBC"
    names = (
        name
        for part in parts
        for name in (f"{part}_scale", f"w{part}_scale", f"{part}_out_scales", f"b{part}_scale")
    )
    return [
        scale_entry(name, scales[name]) if name in scales else ScaleEntry(name, "-", "-") for name in names
    ]


def scale_entry(name: str, scale: NDArray[np.float32]) -> ScaleEntry:
    low, high = float(scale.min()), float(scale.max())
    value = f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"
    return ScaleEntry(name, f"({', '.join(map(str, scale.shape))})", value)


def exported_layer_table(
    folder: Path, graph: onnx.GraphProto, config: Mapping[str, Any], layer: int
) -> list[ScaleEntry]:
    """The table from a graph's constants; a scale that is repeated over its channels counts as one.

    Empty where activations are fp16: the convolution has no scales.
    """
    if not any(tensor.name == f"layers.{layer}.conv1d.x_scale" for tensor in graph.initializer):
        return []
    sizes = [
        config["d_inner"],
        *[config["n_groups"] * config["d_state"]] * (2 * (config["kind"] == "mamba2")),
    ]
    bounds = np.cumsum(sizes)[:-1]
    found = {}
    for constant, pattern in (
        ("x_scale", "{}_scale"),
        ("weight_scale", "w{}_scale"),
        ("out_scale", "{}_out_scales"),
    ):
        values = read_constant(folder, graph, f"layers.{layer}.conv1d.{constant}")  # (C,)
        for part, scale in zip("xBC", np.split(values, bounds), strict=False):
            found[pattern.format(part)] = scale[:1].reshape(()) if (scale == scale[0]).all() else scale
    return layer_scale_table(config["kind"], found)


def read_constant(folder: Path, graph: onnx.GraphProto, name: str) -> NDArray[np.float32]:
    tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
    return np.asarray(onnx.numpy_helper.to_array(tensor, base_dir=str(folder)))
