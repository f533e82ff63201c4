"""`sweep`: the variants that fields make, what is refused before any work, what a second run takes over."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny_flow import Flow, run_json

from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
from quamba_export.calib.recipes.recipe import load_recipe
from quamba_export.exporter.commands.sweep import show
from quamba_export.exporter.report.charts import dots
from quamba_export.exporter.studies import sweep as engine
from quamba_export.exporter.studies.score_variant import score_variant
from quamba_export.exporter.studies.variants import (
    Variant,
    known_fields,
    parse_vary,
    scan_input_variants,
    variants,
)
from quamba_export.runtime.errors import QuambaError

SIZE = ("--calib-size", 2, "--calib-seqlen", 32, "--window", 16, "--max-tokens", 32)
# a recipe that is no model's default, with observers that need no more text than that
OTHER = ("--vary", "observer=mse", "--vary", "observers.ssm_state.kind=absmax")


def made(flow: Flow, *vary: str) -> list[Variant]:
    """Variants of a model of that kind, its state and samples as large as the recipes' percentiles need."""
    config = replace(load_checkpoint(str(flow.checkpoint)).config, d_state=32)
    return variants(parse_vary(vary), load_recipe("quamba"), config, 512, 4096)


# Variants


def test_every_combination_is_a_variant(flow: Flow) -> None:
    found = made(flow, "alpha=0.99,1.0", "hadamard=on,off", "qformat=w8a8,w4a8,w4a16")
    assert len(found) == 12
    assert [v.values["qformat"] for v in found[:3]] == ["w8a8", "w4a8", "w4a16"]
    assert {(v.recipe.observer("x").as_table()["alpha"], v.recipe.rotate_out_proj) for v in found} == {
        (alpha, flag) for alpha in (0.99, 1.0) for flag in (True, False)
    }


@pytest.mark.parametrize(
    ("field", "value", "path", "expected"),
    [
        ("observer", "mse", ("observers", "x"), {"kind": "mse"}),
        ("sigma", "0.1", ("observers", "x", "sigma"), 0.1),
        ("observers.dt.kind", "entropy", ("observers", "dt", "kind"), "entropy"),
        ("observers.ssm_state.alpha", "0.9", ("observers", "ssm_state", "alpha"), 0.9),
        ("per_channel_weights", "off", ("per_channel_weights",), False),
        ("weights.kind", "gptq", ("weights", "kind"), "gptq"),
        ("weights.clip", "true", ("weights", "clip"), True),
        ("recipe", "quamba-1b", ("name",), "quamba-1b"),
    ],
)
def test_a_field_lands_where_a_recipe_has_it(
    flow: Flow, field: str, value: str, path: tuple[str, ...], expected: Any
) -> None:
    (variant,) = made(flow, f"{field}={value}", *(["qformat=w4a8"] if value == "gptq" else []))
    table: Any = variant.recipe.as_table()
    for key in path:
        table = table[key]
    assert table == expected
    assert field in known_fields()


def test_groups_bring_their_reorder_and_are_at_most_what_the_model_has() -> None:
    from random_checkpoints import MAMBA2_GROUPS

    base = replace(load_recipe("quamba"), observers={})  # absolute maxima: any sample is long enough
    assert not base.reorder
    with pytest.raises(QuambaError, match="more groups than"):
        variants(parse_vary(["groups=2x2,8x8"]), base, MAMBA2_GROUPS, 4096, 512)
    (variant,) = variants(parse_vary(["groups=2x2"]), base, MAMBA2_GROUPS, 4096, 512)
    assert (variant.recipe.head_groups, variant.recipe.channel_groups, variant.recipe.reorder) == (2, 2, True)


def test_a_smoothed_x_is_no_study_of_the_scan_s_input(flow: Flow) -> None:
    with pytest.raises(QuambaError, match="no smoothed x"):
        made(flow, "recipe=smoothquant", "ssm-input=fp32")
    smoothed, unused = made(flow, "recipe=smoothquant", "qformat=w8a8,fp32")
    assert smoothed.recipe.smoothing == unused.recipe.smoothing
    with pytest.raises(QuambaError, match="no smoothed x"):
        scan_input_variants([smoothed], load_checkpoint(str(flow.checkpoint)).config)


@pytest.mark.parametrize(
    ("vary", "text"),
    [
        (["weights.kind=gptq", "qformat=w4a8,w8a8"], "rounded to 4 bits"),
        (["weights.kind=gptq", "weights.bits=8", "qformat=w4a16"], "weights.bits=4"),
        (["weights.kind=gptq", "weights.head_bits=8", "qformat=w4a8-head4"], "lm_head that is rounded to 8"),
        (["qformat=w8a8,w4ax"], "says no block's widths"),
        (["qformat=w4a16", "ssm-state-dtype=float16,int8"], "no int8 scan state"),
        (["qformat=fp16", "ssm-state-dtype=int8-dynamic"], "no int8 scan state"),
        (["qformat=w4a16", "ssm-input=fp32"], "no int8 scan input"),
        (["ssm-state-dtype=int8-dynamic", "ssm-input=fp32"], "no dynamic int8 state"),
        (["recipe=smoothquant", "qformat=w4a16"], "smooths int8 activations"),
    ],
)
def test_a_form_that_the_calibration_is_not_for_is_refused_before_it(
    flow: Flow, vary: list[str], text: str
) -> None:
    with pytest.raises(QuambaError) as caught:
        made(flow, *vary)
    assert text in str(caught.value)


def test_a_state_is_as_wide_as_in_an_export_unless_it_is_named(flow: Flow) -> None:
    assert [v.ssm_state_dtype for v in made(flow, "qformat=fp32,w8a8")] == ["float32", "float16"]
    assert [v.ssm_state_dtype for v in made(flow, "qformat=fp32", "ssm-state-dtype=float16")] == ["float16"]


@pytest.mark.parametrize(
    ("vary", "text"),
    [
        ("alfa=0.9", "did you mean alpha"),
        ("observers.x.alfa=0.9", r"did you mean observers\.x\.alpha"),
        ("alpha", "names no values"),
        ("alpha=0.9,0.9", "twice"),
        ("alpha=1.5", "out of range"),
        ("alpha=0.9999999999", "too short"),
        ("hadamard=maybe", "is a flag"),
        ("groups=4", "is a number"),
        ("qformat=w3a3", "unknown --qformat"),
        ("ssm-input=int4", "unknown --ssm-input"),
        ("ssm_state_dtype=int4", "unknown --ssm-state-dtype"),
        ("recipe=quambo", "did you mean quamba"),
        (f"alpha={','.join(str(1 - k / 10000) for k in range(1001))}", "too many"),
    ],
)
def test_what_no_variant_can_be_made_of_is_refused(flow: Flow, vary: str, text: str) -> None:
    with pytest.raises(QuambaError) as caught:
        made(flow, vary)
    assert text.replace("\\", "") in str(caught.value)


# Runs


def test_a_sweep_goes_on_and_shares_what_it_can(
    flow: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("sweep", flow.checkpoint, "--data", flow.text, "--score", flow.text, "-o", tmp_path, *SIZE)
    vary = ("--vary", "ssm-state-dtype=float16,float32")
    first = run_json(*command, *vary, "--mode", "both")
    assert [v["values"] for v in first["variants"]] == [
        {"ssm-state-dtype": "float16"},
        {"ssm-state-dtype": "float32"},
    ]
    assert {mode: set(first["variants"][0]["scores"][mode]) for mode in ("prefill", "decode")} == {
        mode: {"perplexity", "against_perplexity", "ratio", "kl", "top1_agreement", "tokens", "bits_per_byte"}
        for mode in ("prefill", "decode")
    }
    assert len(list((tmp_path / "calibrations").iterdir())) == 1
    assert "<circle" in (tmp_path / "sweep.html").read_text()
    assert json.loads((tmp_path / "sweep.json").read_text())["variants"] == first["variants"]

    def no_work(task: object) -> str:
        raise AssertionError(task)

    monkeypatch.setattr(engine, "_calibrate", no_work)
    monkeypatch.setattr(engine, "_score", no_work)
    assert run_json(*command, *vary, "--mode", "both")["variants"] == first["variants"]
    run_json(*command, *OTHER, exit_code=70)  # no_work's AssertionError


def test_data_too_short_for_the_default_recipe_are_told_once(
    flow: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However its weights are rounded, as calibrate does."""

    def no_work(task: object) -> str:
        raise AssertionError(task)

    monkeypatch.setattr(engine, "_calibrate", no_work)
    command = ("sweep", flow.checkpoint, "--data", flow.text, "--score", flow.text, "-o", tmp_path, *SIZE)
    run_json(*command, "--vary", "qformat=w4a8", "--vary", "weights.kind=nearest,gptq", exit_code=70)
    short = load_checkpoint(str(flow.checkpoint)).config.kind == "mamba1"
    printed = capsys.readouterr().err
    assert printed.count("warning: little data for recipe quamba: layers.0.x has 2048 values") == short
    run_json(*command, *OTHER, exit_code=70)
    assert "little data" not in capsys.readouterr().err


def test_a_signal_to_end_waits_for_no_process() -> None:
    running = engine._in_processes(time.sleep, [0, 30], 2)
    next(running)
    start = time.monotonic()
    with pytest.raises(SystemExit):  # as the command does at SIGTERM, which its processes are not sent
        running.throw(SystemExit(143))
    assert time.monotonic() - start < 15


def test_ssm_input_has_every_mode_and_its_control_groups(flow: Flow, tmp_path: Path) -> None:
    result = run_json(
        *("sweep", "ssm-input", flow.checkpoint, "--data", flow.text, "--score", flow.text),
        "-o",
        tmp_path,
        *SIZE,
    )
    rows = {(v["values"]["ssm-input"], v["values"]["scale-factor"]): v["scores"] for v in result["variants"]}
    assert len(rows) == 9
    int8 = rows.pop(("int8", "-"))
    same = [rows[key] for key in (("simulated-int8", "-"), ("dual-scale", "1 (control)"))]
    assert all(row["prefill"] == int8["prefill"] for row in (*same, rows[("uniform-scale", "1 (control)")]))
    inner = load_checkpoint(str(flow.checkpoint)).config
    per_token = inner.d_inner * inner.n_layer
    sizes = {mode: row["scan_input_bytes_a_token"] for (mode, _), row in rows.items()}
    assert sizes["fp32"] == 4 * per_token
    assert sizes["w4a5-se"] == per_token * 5 / 8
    assert rows[("w4a5-se", "auto")]["outlier_share"] > int8["outlier_share"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("CHECKPOINT",), "a sweep of nothing"),
        (("a", "b"), "takes one checkpoint"),
        (("ssm-input",), "one checkpoint"),
    ],
)
def test_arguments_that_name_no_sweep_are_refused(
    words: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run_json("sweep", *words, "--data", "a.txt", "--score", "b.txt", "-o", tmp_path, exit_code=2)
    assert text in capsys.readouterr().err


def test_no_text_and_a_place_in_a_bundle_are_refused_before_any_work(
    flow: Flow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").touch()
    command = ("sweep", flow.checkpoint, "--data", flow.text, *OTHER, *SIZE)
    run_json(*command, "--score", tmp_path / "empty.txt", "-o", tmp_path / "sweep", exit_code=3)
    assert "too short to score" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()
    run_json(*command, "--score", flow.text, "-o", flow.bundle, exit_code=2)
    assert "would lie in a bundle or export" in capsys.readouterr().err
    assert not (flow.bundle / "calibrations").exists()


def test_dots_stand_in_the_order_of_their_values() -> None:
    drawn = dots([("a", 0.001), ("b", 0.1), ("c", 0.0)], "KL")
    places = [float(part.split('"')[0]) for part in drawn.split('cx="')[1:]]
    assert places[0] == places[2] < places[1]


@pytest.mark.parametrize("qformat", ["fp16", "w8a16"])
def test_formats_without_int8_activations_are_scored_too(flow: Flow, tmp_path: Path, qformat: str) -> None:
    """A format of floats takes nothing from the calibration that its variant has."""
    (variant,) = made(flow, f"qformat={qformat}")
    text = str(flow.text)
    study = engine.Study(str(flow.checkpoint), (), 2, 32, text, 16, 32, ("prefill",), None, tmp_path)
    found = score_variant(study, variant, flow.calibration)
    assert found["prefill"]["kl"] < 0.01


def test_a_narrow_terminal_cuts_no_name_off(tmp_path: Path) -> None:
    heads = ["ssm-input", "scale-factor", *["a figure"] * 6]
    console = Console(width=80)
    with console.capture() as shown:
        show(tmp_path, heads, [["simulated-int8", "2025 (the study's)", *["11.57480"] * 6]], console)
    text = shown.get()
    assert "…" not in text
    assert text.count("11.57480") == 6
