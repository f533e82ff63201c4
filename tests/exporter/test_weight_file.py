"""Weights that are written as they are named: onnx's own bytes and places, and none of them in the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import uses_external_data

from quamba_export.exporter.graph.onnx_export import onnx_from_model, write_model
from quamba_export.exporter.graph.weight_file import SMALLEST, WeightFile
from tests.exported_graph import CONFIGS, quantized


@pytest.mark.parametrize("qformat", ["w8a8", "w4a16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_files_are_those_of_onnx(name: str, qformat: str, tmp_path: Path) -> None:
    model = quantized(CONFIGS[name], qformat=qformat)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    write_model(model, ours)
    onnx.save_model(
        onnx_from_model(model),
        str(theirs / "model.onnx"),
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=SMALLEST,
    )
    for file in ("model.onnx", "model.onnx.data"):
        assert (ours / file).read_bytes() == (theirs / file).read_bytes(), file


def test_the_graph_keeps_no_weight(tmp_path: Path) -> None:
    with (tmp_path / "weights").open("wb") as data:
        graph = onnx_from_model(quantized(CONFIGS["mamba2"]), WeightFile(data, "weights")).graph
    outside = [tensor for tensor in graph.initializer if uses_external_data(tensor)]
    assert {"embedding.weight", "layers.0.in_proj.weight"} <= {tensor.name for tensor in outside}
    assert not any(tensor.raw_data for tensor in outside)
    assert all(len(tensor.raw_data) < SMALLEST for tensor in graph.initializer)


def test_a_tensor_that_is_not_contiguous_is_written_row_by_row(tmp_path: Path) -> None:
    values = np.arange(1024, dtype=np.int16).reshape(32, 32).T
    with (tmp_path / "weights").open("wb") as data:
        WeightFile(data, "weights")(values, "turned")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "weights", np.int16).reshape(32, 32), values)
