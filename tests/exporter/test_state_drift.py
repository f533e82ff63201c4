"""`state-drift`: a state that keeps what is added, and one that does not; the command and its plot."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from tiny_flow import Flow, run_json

from quamba_export.calib.studies.state_drift import drift_of, positions, state_drift
from quamba_export.calib.studies.state_formats import Dynamic, Held, fp16
from tests.exported_graph import CONFIGS, quantized
from tests.refusals import refused


def sticky(h: torch.Tensor, layer: int, position: int) -> torch.Tensor:
    """A planted fault: a hundredth of the state is added with every token."""
    return h * 1.01


@pytest.mark.parametrize("name", ["mamba1", "mamba2 in groups"])
def test_what_a_format_loses_and_nothing_else(name: str) -> None:
    config = CONFIGS[name]
    ids = torch.randint(config.vocab_size, (128,), generator=torch.Generator().manual_seed(1))
    formats: dict[str, Held] = {"fp32": lambda h, layer, position: h, "fp16": fp16, "row": Dynamic()}
    exact, half, row, fault = state_drift(quantized(config, "float32"), ids, formats | {"fault": sticky})
    assert set(exact.errors) == {0.0}
    assert 0 < max(half.errors) < max(row.errors) < 0.1
    assert exact.verdict == "bounded"
    assert max(fault.errors) > 3 * max(row.errors)
    assert fault.errors[-1] > 2 * fault.errors[0]


def test_growth_is_from_a_quarter_of_the_text_to_its_end() -> None:
    curve = {tokens: 1e-3 * tokens for tokens in positions(256)}
    assert positions(256)[:4] == [1, 2, 3, 4]
    assert drift_of("line", curve).growth == pytest.approx(4, rel=0.05)
    assert drift_of("line", curve).verdict == "grows"
    assert drift_of("flat", dict.fromkeys(curve, 0.01)).verdict == "bounded"


def test_the_command_prints_and_plots(flow: Flow, tmp_path: Path) -> None:
    source = (flow.checkpoint, "--calibration", flow.calibration, "--data", flow.text, "--tokens", 80)
    facts = run_json("state-drift", *source, "--plot", tmp_path / "drift.svg")
    names = [drift["name"] for drift in facts["formats"]]
    assert names[:3] == ["fp16", "static", "row"]
    svg = ElementTree.parse(tmp_path / "drift.svg").getroot()
    lines = [mark for mark in svg.iter() if mark.tag.endswith("polyline")]
    assert len(lines) == len(names)
    run_json("state-drift", *source, "--formats", "rows", exit_code=2)


def test_a_short_text_is_refused() -> None:
    with refused("too short to drift", "9 tokens"):
        state_drift(quantized(CONFIGS["mamba1"], "float32"), torch.ones(9, dtype=torch.int64), {"fp16": fp16})
