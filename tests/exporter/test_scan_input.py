"""Modes of the scan's input: which equal int8 in every tensor, which do not, in PyTorch and in ONNX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_flow import Flow, run_json

from quamba_export.calib.calibration import read_calibration
from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.calib.model.scan_input import MODES, ScanInput, scan_input_named, with_scan_input
from quamba_export.exporter.options import chosen_scan_input
from quamba_export.runtime.errors import ExitCode, QuambaError

SAME_AS_INT8 = [
    ScanInput("simulated-int8"),
    ScanInput("dual-scale", 1.0),  # control groups: the same path with s2 = s1
    ScanInput("uniform-scale", 1.0),
]
OTHERS = [
    ScanInput("fp32"),
    ScanInput("dual-scale"),
    ScanInput("dual-scale", 3.0),
    ScanInput("uniform-scale", 1.5),
    ScanInput("w4a5-se"),
]
TOKENS = 12


def tapped(model: QuantizedModel, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every tensor of a prefill and of a token behind it, the logits and the states."""
    found: dict[str, torch.Tensor] = {}

    def tap(step: str) -> Any:
        return lambda site, value: found.update({f"{step}.{site}": value})

    logits, states = model.run(ids[:, :-1], None, tap("prefill"))
    after, states = model.run(ids[:, -1:], states, tap("decode"))
    found |= {"logits": logits, "next": after}
    return found | {f"conv.{i}": state for i, state in enumerate(states.conv)}


@pytest.fixture(scope="module", params=["float16", "int8"])
def model(flow: Flow, request: pytest.FixtureRequest) -> QuantizedModel:
    """With x scales that clip: a third of what the calibration found."""
    made = quantize_model(
        load_checkpoint(str(flow.checkpoint)),
        read_calibration(flow.calibration),
        ssm_state_dtype=request.param,
    )
    return clipped(made)


def clipped(model: QuantizedModel) -> QuantizedModel:
    tensors, scales, inner = dict(model.tensors), dict(model.scales), model.config.d_inner
    for i in range(model.config.n_layer):
        if f"layers.{i}.x" in scales:
            scales[f"layers.{i}.x"] /= 3
        else:
            tensors[f"layers.{i}.x_scale"] = tensors[f"layers.{i}.x_scale"] / 3
        out_scale = tensors[f"layers.{i}.conv1d.out_scale"].clone()
        out_scale[:inner] /= 3
        tensors[f"layers.{i}.conv1d.out_scale"] = out_scale
    return replace(model, tensors=tensors, scales=scales)


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(7).integers(1, 64, (2, TOKENS)))


@pytest.mark.parametrize("mode", SAME_AS_INT8, ids=str)
def test_simulation_and_control_groups_equal_int8_in_every_tensor(
    flow: Flow, model: QuantizedModel, ids: torch.Tensor, mode: ScanInput
) -> None:
    studied = with_scan_input(model, read_calibration(flow.calibration), mode)
    expected, found = tapped(model, ids), tapped(studied, ids)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if name.endswith(".x"):
            value = value * model.site_scale(name.split(".", 1)[1])
            found[name] = found[name] * studied.site_scale(name.split(".", 1)[1])
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("mode", OTHERS, ids=str)
def test_other_modes_change_the_scan_and_never_its_codes(
    flow: Flow, model: QuantizedModel, ids: torch.Tensor, mode: ScanInput
) -> None:
    """conv_in of the first layer stands before any scan, and so do x_proj's inputs: the codes of x."""
    studied = with_scan_input(model, read_calibration(flow.calibration), mode)
    expected, found = tapped(model, ids), tapped(studied, ids)
    assert not torch.equal(found["logits"], expected["logits"])
    for name in ("B", "C", "dt"):  # of Mamba-1, x_proj's: it got the int8 codes
        assert torch.equal(found[f"prefill.layers.0.{name}"], expected[f"prefill.layers.0.{name}"])


def test_dual_scale_reaches_what_int8_clips(flow: Flow, model: QuantizedModel, ids: torch.Tensor) -> None:
    """By the first layer's x against fp32, and the placeholder factor takes outliers to 0."""
    scales = read_calibration(flow.calibration)

    def first_x(mode: ScanInput) -> torch.Tensor:
        studied = with_scan_input(model, scales, mode)
        site = "layers.0.x"
        return tapped(studied, ids)[f"prefill.{site}"] * studied.site_scale(site)

    exact, int8 = first_x(ScanInput("fp32")), first_x(ScanInput())
    errors = {mode: (first_x(mode) - exact).abs().max() for mode in OTHERS[1:3]}
    assert all(error < (int8 - exact).abs().max() for error in errors.values())
    clipped_away = first_x(ScanInput("dual-scale", 2025.0))
    outliers = (exact - int8).abs() > exact.abs() / 10
    assert outliers.any()
    assert (clipped_away[outliers & (exact > 0.1)] == 0).all()


def test_factor_auto_reaches_the_largest_value_of_the_calibration() -> None:
    scales = torch.tensor([0.01, 0.04])
    assert ScanInput("dual-scale").factors(scales, 127 * 0.02).tolist() == pytest.approx([2.0, 1.0])
    assert ScanInput("w4a5-se").factors(scales, 7 * 0.02).tolist() == pytest.approx([2.0, 1.0])
    assert ScanInput("dual-scale", 5.0).factors(scales, 9.0).tolist() == [5.0, 5.0]


@pytest.mark.parametrize("mode", ["fp32", "dual-scale", "uniform-scale"])
def test_exported_graph_gives_the_reference_s_logits(flow: Flow, tmp_path: Path, mode: str) -> None:
    out = tmp_path / "export"
    run_json("export", flow.checkpoint, "--calibration", flow.calibration, "-o", out, "--ssm-input", mode)
    size = ("--data", flow.text, "--window", 16, "--max-tokens", 32)
    exported = run_json("eval", out, *size)
    reference = run_json(
        "eval", flow.checkpoint, "--calibration", flow.calibration, "--ssm_input", mode, *size
    )
    assert exported["nats_per_token"] == pytest.approx(reference["nats_per_token"], rel=1e-6)
    assert exported["ssm_input"] == reference["ssm_input"] == mode


# Flags


def test_the_published_flags_are_modes() -> None:
    published = ["fp32", "simulated-int8", "dual-scale", "w4a5-se"]
    for k, mode in enumerate(published):
        chosen = chosen_scan_input(None, None, *(j == k for j in range(4)))
        assert chosen == ScanInput(mode)  # type: ignore[arg-type]
    assert chosen_scan_input(None, None, False, False, False, False) is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("int4", None), "unknown --ssm-input"),
        (("fp32", "3"), "has one scale"),
        (("dual-scale", "0"), "out of range"),
        (("dual-scale", "nan"), "out of range"),
        (("dual-scale", "large"), "is a number"),
    ],
)
def test_what_is_no_mode_is_refused(arguments: tuple[str, str | None], text: str) -> None:
    with pytest.raises(QuambaError, match=text) as caught:
        scan_input_named(*arguments)
    assert caught.value.code is ExitCode.USAGE
    with pytest.raises(QuambaError, match="two modes"):
        chosen_scan_input("fp32", None, False, True, False, False)
    assert scan_input_named("dual-scale", "auto") == ScanInput("dual-scale")
    assert set(MODES) >= {mode.mode for mode in (*SAME_AS_INT8, *OTHERS)}


def test_fp16_activations_have_no_codes_to_study(flow: Flow) -> None:
    scales = read_calibration(flow.calibration)
    model = quantize_model(load_checkpoint(str(flow.checkpoint)), scales, qformat="w4a16")
    with pytest.raises(QuambaError, match="no int8 scan input"):
        with_scan_input(model, scales, ScanInput("fp32"))
