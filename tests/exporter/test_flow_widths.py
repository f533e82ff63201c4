"""W4A8 and W4A16 by the commands: export, build, eval, compare, inspect and run of a tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_flow import Flow, run_json


@pytest.fixture(scope="module", params=["w4a8", "w4a16"])
def narrow(request: pytest.FixtureRequest, flow: Flow, tmp_path_factory: pytest.TempPathFactory) -> Flow:
    """The calibration of `flow` exported in other widths."""
    folder = tmp_path_factory.mktemp(request.param)
    made = replace(flow, export=folder / "export", bundle=folder / "bundle")
    source = (flow.checkpoint, "--calibration", flow.calibration, "-o", made.export)
    facts = run_json("export", *source, "--qformat", request.param)
    assert facts["qformat"] == request.param
    run_json("build", made.export, "--target", "cpu", "-o", made.bundle)
    return made


def test_bundle_and_reference_score_the_same(narrow: Flow) -> None:
    text = ("--data", narrow.text, "--window", 32, "--max-tokens", 80)
    bundle = run_json("eval", narrow.bundle, *text, "--against", narrow.checkpoint)
    widths = ("--calibration", narrow.calibration, "--qformat", bundle["qformat"])
    reference = run_json("eval", narrow.checkpoint, *text, *widths)
    assert bundle["perplexity"] == pytest.approx(reference["perplexity"], rel=1e-6)
    assert bundle["kl"] > 0
    decode = run_json("eval", narrow.bundle, *text, "--mode", "decode")
    assert decode["perplexity"] == pytest.approx(bundle["perplexity"], rel=1e-6)


def test_compare_finds_the_graph_equal_to_the_reference(narrow: Flow) -> None:
    text = ("--data", narrow.text, "--window", 32, "--max-tokens", 64)
    sources = ("--against", narrow.checkpoint, "--calibration", narrow.calibration)
    to_reference, _, between = run_json("compare", narrow.export, *sources, *text)["pairs"]
    assert {site["max_abs"] for site in between["sites"] if site["site"] != "logits"} == {0.0}
    assert min(site["snr_db"] for site in to_reference["sites"]) > 3


def test_the_projections_take_half_of_their_int8_bytes(flow: Flow, narrow: Flow) -> None:
    wide, facts = run_json("inspect", flow.export), run_json("inspect", narrow.export)
    for name in ("in_proj", "out_proj"):
        assert facts["bytes_by_group"][name] < 0.65 * wide["bytes_by_group"][name]
    lines = {"w4a8": len(wide["layer_table"]), "w4a16": 0}[facts["qformat"]]
    assert len(facts["layer_table"]) == lines
    assert facts["state_dtypes"]["conv"] == {"w4a8": "int8", "w4a16": "float16"}[facts["qformat"]]


def test_a_bundle_generates_what_its_export_does(narrow: Flow) -> None:
    prompt = ("--prompt", "w1 w2 w3", "--max-new-tokens", 9)
    bundle, export = (run_json("run", path, *prompt)["token_ids"] for path in (narrow.bundle, narrow.export))
    assert bundle
    assert bundle == export


def test_an_int8_state_beside_fp16_activations_is_refused(flow: Flow, tmp_path: Path) -> None:
    source = (flow.checkpoint, "--calibration", flow.calibration, "-o", tmp_path / "export")
    widths = ("--qformat", "w4a16", "--ssm-state-dtype", "int8")
    assert run_json("export", *source, *widths, exit_code=2) == {}
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("qformat", ["w8a16", "fp32"])
def test_floats_are_exported_built_compared_and_scored_without_a_calibration(
    flow: Flow, tmp_path: Path, qformat: str
) -> None:
    export, bundle = tmp_path / "export", tmp_path / "bundle"
    run_json("export", flow.checkpoint, "--qformat", qformat, "-o", export)
    run_json("build", export, "--target", "cpu", "-o", bundle)
    text = ("--data", flow.text, "--window", 32, "--max-tokens", 64)
    scored = run_json("eval", bundle, *text, "--against", flow.checkpoint)
    reference = run_json("eval", flow.checkpoint, *text, "--qformat", qformat)
    assert (scored["qformat"], scored["ssm_state_dtype"]) == (qformat, reference["ssm_state_dtype"])
    assert scored["perplexity"] == pytest.approx(reference["perplexity"], rel=1e-6)
    assert scored["kl"] < {"w8a16": 0.01, "fp32": 1e-6}[qformat]
    _, _, between = run_json("compare", export, "--against", flow.checkpoint, *text)["pairs"]
    assert {site["max_abs"] for site in between["sites"] if site["site"] != "logits"} == {0.0}


def test_tables_of_codes_are_named_in_the_export(flow: Flow, tmp_path: Path) -> None:
    source = (flow.checkpoint, "--calibration", flow.calibration, "-o", tmp_path / "export")
    facts = run_json("export", *source, "--embedding-bits", 8, "--lm-head-bits", 8)
    assert facts["qformat"] == "w8a8-embedding8-head8"
    wide = run_json("inspect", flow.export)["bytes_by_group"]
    assert facts["bytes_by_group"]["lm_head"] < 0.6 * wide["lm_head"]
