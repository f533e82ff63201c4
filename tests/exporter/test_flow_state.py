"""A dynamic int8 scan state by the commands: export, build, eval, compare, inspect, and states in files.

Rounded up by chance it is one, too: the commands that would rebuild its model know which it is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_flow import Flow, run_json


@pytest.fixture(scope="module")
def dynamic(flow: Flow, tmp_path_factory: pytest.TempPathFactory) -> Flow:
    folder = tmp_path_factory.mktemp("dynamic")
    return exported(flow, folder, "int8-dynamic")


@pytest.fixture(scope="module")
def stochastic(flow: Flow, tmp_path_factory: pytest.TempPathFactory) -> Flow:
    return exported(flow, tmp_path_factory.mktemp("stochastic"), "int8-stochastic")


def exported(flow: Flow, folder: Path, state: str) -> Flow:
    made = replace(flow, export=folder / "export", bundle=folder / "bundle")
    source = (flow.checkpoint, "--calibration", flow.calibration, "-o", made.export)
    run_json("export", *source, "--ssm-state-dtype", state)
    run_json("build", made.export, "--target", "cpu", "-o", made.bundle)
    return made


def score(made: Flow, state: str) -> float:
    """The perplexity of bundle and reference."""
    text = ("--data", made.text, "--window", 32, "--max-tokens", 80, "--mode", "decode")
    bundle = run_json("eval", made.bundle, *text)
    widths = ("--calibration", made.calibration, "--ssm-state-dtype", state)
    reference = run_json("eval", made.checkpoint, *text, *widths)
    assert bundle["ssm_state_dtype"] == reference["ssm_state_dtype"] == state
    assert bundle["perplexity"] == pytest.approx(reference["perplexity"], rel=1e-6)
    return float(bundle["perplexity"])


def test_bundle_and_reference_score_the_same(dynamic: Flow, stochastic: Flow) -> None:
    nearest, by_chance = score(dynamic, "int8-dynamic"), score(stochastic, "int8-stochastic")
    assert nearest != by_chance
    assert nearest == pytest.approx(by_chance, rel=0.05)


def test_a_state_of_another_rounding_is_refused(dynamic: Flow, stochastic: Flow, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    run_json("run", dynamic.bundle, "--prompt", "w3 w4", "--max-new-tokens", 2, "--save-state", saved)
    loaded = ("--load-state", saved, "--max-new-tokens", 2)
    assert run_json("run", stochastic.bundle, *loaded, exit_code=4) == {}


def test_compare_knows_the_state_in_the_float_model_s_basis(dynamic: Flow, stochastic: Flow) -> None:
    for made in (dynamic, stochastic):
        text = ("--data", made.text, "--window", 32, "--max-tokens", 64)
        sources = ("--against", made.checkpoint, "--calibration", made.calibration)
        to_reference, _, between = run_json("compare", made.export, *sources, *text)["pairs"]
        assert {site["max_abs"] for site in between["sites"] if site["site"] != "logits"} == {0.0}
        states = [site for site in to_reference["sites"] if site["site"].endswith(".ssm_state")]
        assert states
        assert min(site["snr_db"] for site in states) > 10


def test_inspect_counts_codes_and_scales(flow: Flow, dynamic: Flow, stochastic: Flow) -> None:
    half, facts = run_json("inspect", flow.export), run_json("inspect", dynamic.bundle)
    assert facts["state_dtypes"] == {"conv": "int8", "ssm": "int8-dynamic"}
    by_chance = run_json("inspect", stochastic.bundle)
    assert by_chance["state_dtypes"] == {"conv": "int8", "ssm": "int8-stochastic"}
    assert by_chance["state_bytes"] == facts["state_bytes"]
    n_state = facts["config"]["d_state"]
    assert facts["state_bytes"]["ssm"] == half["state_bytes"]["ssm"] // 2 * (n_state + 4) // n_state


def test_a_text_goes_on_as_if_it_had_not_been_put_aside(dynamic: Flow, tmp_path: Path) -> None:
    run = ("run", dynamic.bundle, "--threads", 1)
    whole = run_json(*run, "--prompt", "w3 w4 w5", "--max-new-tokens", 9, "--save-state", tmp_path / "whole")
    run_json(*run, "--prompt", "w3 w4 w5", "--max-new-tokens", 4, "--save-state", tmp_path / "half")
    rest = ("--load-state", tmp_path / "half", "--marks", 0, "--max-new-tokens", 5)
    rest = (*rest, "--save-state", tmp_path / "rest")
    assert run_json(*run, *rest)["token_ids"] == whole["token_ids"][4:]
    assert (tmp_path / "rest").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("state", ["int8-dynamic", "int8-stochastic"])
def test_widths_without_int8_activations_refuse_it(flow: Flow, state: str, tmp_path: Path) -> None:
    source = (flow.checkpoint, "--calibration", flow.calibration, "-o", tmp_path / "export")
    widths = ("--qformat", "w4a16", "--ssm-state-dtype", state)
    assert run_json("export", *source, *widths, exit_code=2) == {}
