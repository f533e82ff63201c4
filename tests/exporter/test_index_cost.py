"""`cost`: the study's figures from the study's inputs, and a calibrated model's from its own sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_flow import Flow, run_json

from quamba_export.calib.recipes.recipe import load_recipe
from quamba_export.exporter.model_sizes import CONFIGS
from quamba_export.exporter.studies.index_cost import (
    Tables,
    conv_energy_nj,
    load_asic,
    organisations,
    share_of_token,
    tables_of,
)
from quamba_export.runtime.errors import QuambaError

STUDY = Tables(layers=64, channels=4096, conv_width=4, groups=8, head_runs=4, channel_runs=4)
ASIC = load_asic()


def test_bytes_of_a_layer_and_a_model_are_the_study_s() -> None:
    assert (STUDY.index_bytes, STUDY.scale_bytes) == (640, 512)
    sequential = organisations(STUDY, ASIC)[0]
    assert sequential.bytes == 72 * 1024
    assert sequential.bytes / 2.7e9 == pytest.approx(3e-5, rel=0.1)
    quamba2 = load_recipe("quamba2")
    eight, small = (tables_of(CONFIGS[size], quamba2) for size in ("mamba2-8b", "mamba2-2.7b"))
    assert organisations(eight, ASIC)[0].bytes == 63 * 1024
    assert small.index_bytes + small.scale_bytes == 144
    assert organisations(small, ASIC)[0].bytes == 9 * 1024
    assert (small.comparisons, replace(STUDY, head_runs=8, channel_runs=8).comparisons) == (8, 24)


def test_area_energy_and_latency_are_the_study_s() -> None:
    sequential, parallel, coarse, flat, half = organisations(STUDY, ASIC)
    assert sequential.area_mm2 == pytest.approx(2.88)
    assert parallel.area_mm2 == pytest.approx(2 * 2.88)
    assert sequential.energy_nj == pytest.approx(1, rel=0.25)  # "about 1 nJ"
    assert conv_energy_nj(STUDY, 2560, ASIC) == pytest.approx(2, rel=0.03)
    assert sequential.latency_ns == pytest.approx(7.4)
    assert parallel.latency_ns == pytest.approx(2)
    assert coarse.scale_bytes / sequential.scale_bytes == pytest.approx(1 - 0.75)
    assert coarse.bytes / sequential.bytes == pytest.approx(1 - 0.72, abs=0.005)
    assert flat.index_bytes / STUDY.layers == 4096
    assert (flat.latency_ns, round(flat.energy_nj, 1)) == (1, 0.1)
    assert half.area_mm2 == pytest.approx(2.88 / 2)


def test_one_scale_a_tensor_has_nothing_to_look_up() -> None:
    tables = tables_of(CONFIGS["mamba-2.8b"], load_recipe("quamba"))
    cost = organisations(tables, ASIC)[0]
    assert (cost.index_bytes, cost.scale_bytes, cost.comparisons) == (0, 4 * 64, 0)
    assert share_of_token(cost, CONFIGS["mamba-2.8b"]) < 1e-6


def test_the_command_takes_a_calibrated_model_s_sizes(flow: Flow, tmp_path: Path) -> None:
    facts = run_json("cost", flow.calibration)
    tables = facts["tables"]
    assert facts["organisations"][0]["index_bytes"] == tables["layers"] * tables["index_bytes_a_layer"]
    assert 0 <= facts["organisations"][0]["share_of_token"] < 0.5
    cheap = tmp_path / "cheap.toml"
    text = "\n".join(f"{key} = {value / 2}" for key, value in facts["asic"].items())
    cheap.write_text(text)
    other = run_json("cost", flow.calibration, "--constants", cheap)
    assert other["organisations"][0]["energy_nj"] == pytest.approx(facts["organisations"][0]["energy_nj"] / 2)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("mac_pj", "map_pj"), "has other keys"),
        (("mac_pj = 0.2", "mac_pj = 0"), "is no size"),
        (("mac_pj = 0.2", 'mac_pj = "a"'), "is no size"),
        (("mac_pj", "["), "is not TOML"),
    ],
)
def test_constants_are_checked(tmp_path: Path, change: tuple[str, str], text: str) -> None:
    from quamba_export.exporter.studies.index_cost import CONSTANTS

    path = tmp_path / "chip.toml"
    path.write_text(CONSTANTS.read_text().replace(*change))
    with pytest.raises(QuambaError, match=text):
        load_asic(path)
    with pytest.raises(QuambaError, match="no constants"):
        load_asic(tmp_path / "none.toml")
