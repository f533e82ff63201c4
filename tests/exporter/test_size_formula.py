"""Graphs are as large as the formula says, in every width; a table at other bits is noticed."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.qformat import BLOCKS, qformat_named
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.exporter.graph.onnx_export import onnx_from_model
from quamba_export.exporter.inspection.size_formula import constant_bytes, graph_formula, size_formula
from tests.random_calibrations import random_calibration
from tests.random_checkpoints import MAMBA1, MAMBA2_GROUPS, random_checkpoint

WIDE = [
    replace(config, d_model=512, d_inner=512, n_layer=1, dt_rank=config.dt_rank * 16)
    for config in (MAMBA1, MAMBA2_GROUPS)
]
ENDS = ("w8a8-embedding8-head8", "w4a8-embedding4-head4", "fp32-head16")


def exported(config: MambaConfig, qformat: str) -> onnx.GraphProto:
    checkpoint = random_checkpoint(config)
    calibration = random_calibration(config, digest=checkpoint.digest)
    given = None if qformat.startswith("fp") else calibration
    return onnx_from_model(quantize_model(checkpoint, given, qformat)).graph


@pytest.mark.parametrize("config", WIDE, ids=lambda config: config.kind)
@pytest.mark.parametrize("qformat", [*BLOCKS, *ENDS])
def test_a_graph_is_as_large_as_the_formula_says(config: MambaConfig, qformat: str) -> None:
    graph = exported(config, qformat)
    formula = graph_formula(config, qformat, graph)
    assert sum(constant_bytes(graph.initializer).values()) == pytest.approx(formula.total, rel=0.01)
    widths = qformat_named(qformat)
    assert widths.block is not None
    assert formula == size_formula(config, widths, [widths.block])


def test_a_table_that_is_stored_wider_is_beyond_the_formula() -> None:
    """The gate above, shown red."""
    config = WIDE[1]
    graph = exported(config, "w8a8")
    formula = size_formula(config, qformat_named("w8a8-head8"), [BLOCKS["w8a8"]])
    assert sum(constant_bytes(graph.initializer).values()) > 1.01 * formula.total


def test_the_formula_by_hand() -> None:
    """mamba1 of one layer: in_proj (1024, 512), x_proj, dt_proj, out_proj (512, 512), two tables."""
    config = WIDE[0]
    formula = size_formula(config, qformat_named("w4a16-embedding8"), [BLOCKS["w4a16"]])
    small = (config.dt_rank + 2 * config.d_state, 512), (512, config.dt_rank)
    tables = config.vocab_size * 512
    assert formula.weights == 1024 * 256 + 512 * 256 + sum(m * k for m, k in small) + 3 * tables
    assert formula.scales == 2 * (4 * 1024 + 4 * 512 + sum(m for m, _ in small) + config.vocab_size)
