"""Simulated int8 and the control groups have int8's bits in every tensor, within a chunk and beyond."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.calib.model.scan_input import ScanInput, with_scan_input
from quamba_export.calib.model.state_dtype import SsmStateDtype
from tests.exported_graph import CONFIGS, Graph, calibrated, tapped, tokens

SAME_AS_INT8 = [ScanInput("simulated-int8"), ScanInput("dual-scale", 1.0), ScanInput("uniform-scale", 1.0)]
LENGTHS = {"mamba1": (1, 65), "mamba2 in groups": (1, 63, 64, 65, 200)}  # Mamba-1's scan has no chunks
Arrays = dict[str, np.ndarray]


def models(kind: str, state_dtype: SsmStateDtype, mode: ScanInput) -> tuple[QuantizedModel, QuantizedModel]:
    """int8, and the same model with x of `mode`."""
    checkpoint, calibration = calibrated(CONFIGS[kind])
    unused: Any = {f"layers.{i}.x": {"absmax": 1.0} for i in range(checkpoint.config.n_layer)}
    calibration = replace(calibration, statistics=unused)
    int8 = quantize_model(checkpoint, calibration, ssm_state_dtype=state_dtype)
    return int8, with_scan_input(int8, calibration, mode)


def assert_same(models: tuple[QuantizedModel, QuantizedModel], expected: Arrays, found: Arrays) -> None:
    """Every tensor, x as what it stands for."""
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if name.endswith(".x"):
            of_int8, of_mode = (model.site_scale(name).numpy() for model in models)
            np.testing.assert_array_equal(found[name] * of_mode, value * of_int8, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def recorder(into: Arrays) -> Callable[[str, Tensor], None]:
    return lambda site, value: into.update({site: value.numpy()})


@pytest.mark.parametrize("mode", SAME_AS_INT8, ids=str)
@pytest.mark.parametrize("state_dtype", ["float16", "int8"])
@pytest.mark.parametrize("kind", LENGTHS)
def test_pytorch_gives_int8_s_bits(kind: str, state_dtype: SsmStateDtype, mode: ScanInput) -> None:
    both = models(kind, state_dtype, mode)
    for length in LENGTHS[kind]:
        ids = tokens(both[0].config, 1, length + 1)
        states: list[Any] = [None, None]
        for part in (ids[:, :-1], ids[:, -1:]):  # a prompt, and a token behind it
            found: list[Arrays] = [{}, {}]
            for k, model in enumerate(both):
                logits, states[k] = model.run(part, states[k], recorder(found[k]))
                found[k] |= {"logits": logits.numpy()}
                found[k] |= {f"conv.{i}": state.numpy() for i, state in enumerate(states[k].conv)}
            assert_same(both, *found)


@pytest.mark.parametrize(
    ("kind", "state_dtype", "mode"),
    [
        (kind, dtype, mode)
        for kind in LENGTHS
        for dtype, mode in zip(("float16", "int8"), SAME_AS_INT8[:2], strict=True)
    ],
    ids=str,
)
def test_onnx_gives_int8_s_bits(
    kind: str, state_dtype: SsmStateDtype, mode: ScanInput, tmp_path: Path
) -> None:
    both = models(kind, state_dtype, mode)
    sites = tuple(
        site for site in tapped(both[0], tokens(both[0].config, 1, 1)) if site.startswith("layers.")
    )
    graphs = [Graph(model, tmp_path, sites) for model in both]
    for length in LENGTHS[kind]:
        ids = tokens(both[0].config, 1, length + 1)
        calls = [graph.run(ids[:, :-1]) for graph in graphs]
        assert_same(both, *calls)
        carried = [graph.next_states(call) for graph, call in zip(graphs, calls, strict=True)]
        assert_same(
            both, *(graph.run(ids[:, -1:], past) for graph, past in zip(graphs, carried, strict=True))
        )
