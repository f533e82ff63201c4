"""The commands one after the other, on a tiny random Mamba-1 and Mamba-2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_flow import Flow, run_json


def evaluate(flow: Flow, path: Path, *flags: object) -> dict[str, Any]:
    return run_json("eval", path, "--data", flow.text, "--window", 32, "--max-tokens", 80, *flags)


def test_a_model_scores_the_same_as_export_bundle_and_reference(flow: Flow) -> None:
    reference = evaluate(flow, flow.checkpoint, "--calibration", flow.calibration)
    export, bundle = (evaluate(flow, path) for path in (flow.export, flow.bundle))
    assert [result["kind"] for result in (reference, export, bundle)] == ["reference", "export", "bundle"]
    assert export["perplexity"] == pytest.approx(reference["perplexity"], rel=1e-6)
    assert bundle["perplexity"] == export["perplexity"]
    assert bundle["tokens"] == 31 + 31 + 15


def test_decode_steps_through_the_stored_states(flow: Flow) -> None:
    prefill, decode = (
        evaluate(flow, flow.bundle, "--mode", mode, "--against", flow.checkpoint)
        for mode in ("prefill", "decode")
    )
    assert decode["perplexity"] == pytest.approx(prefill["perplexity"], rel=1e-6)
    assert decode["against_perplexity"] == pytest.approx(prefill["against_perplexity"], rel=1e-4)
    assert decode["kl"] > 0
    assert 0.5 < decode["top1_agreement"] <= 1


def test_compare_finds_the_graph_equal_to_the_reference(flow: Flow, tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    flags = (
        "--against",
        flow.checkpoint,
        "--data",
        flow.text,
        "--window",
        32,
        "--max-tokens",
        64,
        "--html",
        page,
    )
    result = run_json("compare", flow.bundle, *flags)
    assert result["tokens"] == 64
    to_reference, to_onnx, between = result["pairs"]
    assert (between["reference"], between["candidate"]) == ("pytorch", "onnxruntime")
    codes = [site["differing_codes"] for site in between["sites"] if site["differing_codes"] is not None]
    assert len(codes) >= 9 * 2
    assert max(codes) <= 1e-4
    names = [site["site"] for site in to_onnx["sites"]]
    assert {
        "layers.0.norm_out",
        "layers.1.conv_in",
        "layers.1.ssm_state",
        "layers.0.conv_state",
        "logits",
    } <= set(names)
    assert names == [site["site"] for site in to_reference["sites"]]
    assert min(site["snr_db"] for site in to_onnx["sites"]) > 10
    assert "http" not in page.read_text().replace("http://www.w3.org", "")


def test_compare_refuses_a_calibration_of_another_run(flow: Flow, tmp_path: Path) -> None:
    other = tmp_path / "calibration"
    run_json(
        "calibrate",
        flow.checkpoint,
        "--data",
        flow.text,
        "-o",
        other,
        "--calib-size",
        2,
        "--calib-seqlen",
        16,
    )
    flags = ("--against", flow.checkpoint, "--data", flow.text, "--calibration", other)
    assert run_json("compare", flow.export, *flags, exit_code=4) == {}


def test_what_is_replaced_is_told(flow: Flow, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ("--calib-size", 2, "--calib-seqlen", 16)
    for kind, *command in (
        ("calibration", "calibrate", flow.checkpoint, "--data", flow.text, *size),
        ("export", "export", flow.checkpoint, "--qformat", "fp16"),
        ("bundle", "build", flow.export, "--target", "cpu"),
    ):
        told = f"{tmp_path / kind} is an earlier {kind}, of 20"
        run_json(*command, "-o", tmp_path / kind)
        assert told not in capsys.readouterr().err
        run_json(*command, "-o", tmp_path / kind)
        assert told in capsys.readouterr().err


def test_inspect_tells_what_each_folder_holds(flow: Flow) -> None:
    folders = {
        "checkpoint": flow.checkpoint,
        "calibration": flow.calibration,
        "export": flow.export,
        "bundle": flow.bundle,
    }
    facts = {kind: run_json("inspect", path) for kind, path in folders.items()}
    assert {kind: found["kind"] for kind, found in facts.items()} == {kind: kind for kind in folders}
    lines = 4 if facts["checkpoint"]["config"]["kind"] == "mamba1" else 12
    calibrated, exported = facts["calibration"]["layer_table"], facts["export"]["layer_table"]
    assert [entry["name"] for entry in calibrated] == [entry["name"] for entry in exported]
    assert len(exported) == lines
    assert exported[0]["value"] == calibrated[0]["value"]
    assert exported[1] != calibrated[1] == {"name": "wx_scale", "shape": "-", "value": "-"}
    assert facts["export"]["bytes_by_group"]["in_proj"] < facts["checkpoint"]["bytes_by_group"]["in_proj"] / 2
    assert facts["bundle"]["state_dtypes"] == {"conv": "int8", "ssm": "float16"}


def test_inspect_refuses_a_layer_the_model_has_not(flow: Flow) -> None:
    for path in (flow.calibration, flow.export):
        assert run_json("inspect", path, "--layer", 2, exit_code=2) == {}


def test_weights_are_rounded_as_the_flags_say_and_exported(flow: Flow, tmp_path: Path) -> None:
    data = ("--data", flow.text, "--calib-size", 4, "--calib-seqlen", 16)
    flags = ("--rounding", "gptq", "--act-order", "--clip-weights", "--damping", 0.02, "--descent-sweeps", 2)
    made = run_json("calibrate", flow.checkpoint, *data, *flags, "-o", tmp_path / "c")
    assert len(made["rounding_errors"]) == 4
    table = json.loads((tmp_path / "c" / "calibration.json").read_text())["recipe"]["weights"]
    options = {"bits": 4, "damping": 0.02, "act_order": True, "clip": True, "descent_sweeps": 2}
    assert table == {"kind": "gptq"} | options
    rounded = run_json("inspect", tmp_path / "c")["rounded"]
    assert {entry.pop("projection"): entry for entry in rounded} == made["rounding_errors"]
    widths = ("--qformat", "w4a8")
    calibrated = ("--calibration", tmp_path / "c", *widths)
    run_json("export", flow.checkpoint, *calibrated, "-o", tmp_path / "e")
    reference, export = evaluate(flow, flow.checkpoint, *calibrated), evaluate(flow, tmp_path / "e")
    assert export["perplexity"] == pytest.approx(reference["perplexity"], rel=1e-6)
    run_json("calibrate", flow.checkpoint, *data, "--weight-bits", 4, "-o", tmp_path / "d", exit_code=3)
