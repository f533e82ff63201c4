"""Scales on the command line: mixed data, data too short, errors as a page, and drift on other texts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from random_checkpoints import MAMBA1
from tiny_flow import Flow, run_json

from quamba_export.calib.calibration import read_calibration, write_calibration
from quamba_export.calib.recipes.recipe import load_recipe
from quamba_export.exporter.commands.calibrate import tell_shortages

SIZE = ("--calib-size", 4, "--calib-seqlen", 32)


def drift(flow: Flow, calibration: Path, *flags: object, exit_code: int = 0) -> dict[str, Any]:
    size = ("--samples", 4, "--seqlen", 32)
    return run_json(
        "scale-drift", calibration, "--against", flow.checkpoint, *size, *flags, exit_code=exit_code
    )


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other.txt"
    path.write_text(" ".join(f"w{1 + k * k % 7}" for k in range(200)))
    return path


def test_the_calibration_text_itself_has_not_drifted(flow: Flow) -> None:
    """The same values bit for bit, so the figures are the recorded ones."""
    (text,) = drift(flow, flow.calibration, "--data", flow.text)["texts"]
    recorded = json.loads((flow.calibration / "calibration.json").read_text())["statistics"]
    assert {site["site"] for site in text["sites"]} == set(recorded)
    for site in text["sites"]:
        statistic = recorded[site["site"]]
        assert site["clipped_share"] == site["calibrated_clipped_share"] == statistic["clipped_share"]
        assert site["snr_db"] == site["calibrated_snr_db"] == statistic["snr_db"]
        assert site["reach"] == 1.0


def test_the_layer_whose_scale_clips_most_is_named_first(
    flow: Flow, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = read_calibration(flow.calibration)
    scales = made.scales | {"layers.1.z": made.scales["layers.1.z"] / 16}
    write_calibration(dataclasses.replace(made, scales=scales), tmp_path / "small")
    own, foreign = drift(flow, tmp_path / "small", "--data", flow.text, "--data", other)["texts"]
    for text in (own, foreign):
        assert (text["layers"][0]["layer"], text["layers"][0]["worst_site"]) == (1, "z")
        assert text["layers"][0]["worst_clipped_share"] > 0.1
    assert [text["text"] for text in (own, foreign)] == [str(flow.text), str(other)]


def test_drift_is_of_the_calibrations_own_checkpoint(flow: Flow, other: Path, tmp_path: Path) -> None:
    made = read_calibration(flow.calibration)
    write_calibration(dataclasses.replace(made, checkpoint_digest="0" * 64), tmp_path / "foreign")
    drift(flow, tmp_path / "foreign", "--data", other, exit_code=4)
    drift(flow, flow.calibration, "--data", other, "--samples", 4000, exit_code=3)


def test_drift_needs_what_calibration_recorded(
    flow: Flow, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_calibration(
        dataclasses.replace(read_calibration(flow.calibration), statistics={}), tmp_path / "bare"
    )
    drift(flow, tmp_path / "bare", "--data", other, exit_code=3)
    assert "scales without statistics" in capsys.readouterr().err
    drift(flow, flow.calibration, "--data", other, "--samples", 4000, exit_code=3)
    assert "--samples" in capsys.readouterr().err


def test_a_mixture_is_calibrated_and_recorded(flow: Flow, other: Path, tmp_path: Path) -> None:
    texts = ("--data", flow.text, "--data", other)
    weights = ("--data-weight", 3, "--data-weight", 1)
    mixed = run_json("calibrate", flow.checkpoint, *texts, *weights, "-o", tmp_path / "mixed", *SIZE)
    assert mixed["mixture"] == [
        {"data": flow.text.name, "weight": 3.0, "samples": 3},
        {"data": "other.txt", "weight": 1.0, "samples": 1},
    ]
    assert mixed["data"] == f"{flow.text.name} + other.txt"
    assert mixed["digest"] == read_calibration(tmp_path / "mixed").digest
    alone = read_calibration(flow.calibration)
    assert "mixture" not in alone.run
    assert any(
        (scale != alone.scales[site]).any()
        for site, scale in read_calibration(tmp_path / "mixed").scales.items()
    )
    few = ("--data-weight", 3)
    run_json("calibrate", flow.checkpoint, *texts, *few, "-o", tmp_path / "none", *SIZE, exit_code=2)
    assert not (tmp_path / "none").exists()


def test_a_layer_has_the_observer_of_its_rule(flow: Flow, tmp_path: Path) -> None:
    rule = "[[layers]]\nat = 'last'\nobservers.x = { kind = 'mse' }"
    for name, text in (("plain", ""), ("layered", rule)):
        (tmp_path / f"{name}.toml").write_text(text)
        recipe = ("--recipe", tmp_path / f"{name}.toml", "-o", tmp_path / name)
        run_json("calibrate", flow.checkpoint, "--data", flow.text, *recipe, *SIZE)
    plain, layered = (read_calibration(tmp_path / name) for name in ("plain", "layered"))
    differing = {site for site, scale in plain.scales.items() if scale != layered.scales[site]}
    assert differing == {"layers.1.x"}
    assert layered.statistics["layers.1.x"]["observer"] == {"kind": "mse"}
    assert layered.statistics["layers.1.x"]["mse"] < plain.statistics["layers.1.x"]["mse"]


@pytest.mark.parametrize("groups", [1, 2, None])
def test_groups_go_from_one_to_a_scale_for_each_channel(
    flow: Flow, tmp_path: Path, groups: int | None
) -> None:
    """None: as many as there are; one more is refused."""
    config = read_calibration(flow.calibration).config
    heads, channels = groups or config.n_heads // max(config.n_groups, 1), groups or config.headdim
    recipe = tmp_path / "grouped.toml"
    recipe.write_text(f"reorder = true\nhead_groups = {heads}\nchannel_groups = {max(channels, 1)}")
    arguments = ("--data", flow.text, "--recipe", recipe, "-o", tmp_path / "made", *SIZE)
    if config.kind == "mamba1":  # it has no heads
        run_json("calibrate", flow.checkpoint, *arguments, exit_code=3)
        return
    run_json("calibrate", flow.checkpoint, *arguments)
    made = read_calibration(tmp_path / "made")
    assert made.scales["layers.0.x"].shape == (config.n_groups, heads, channels)
    run_json("export", flow.checkpoint, "--calibration", tmp_path / "made", "-o", tmp_path / "export")
    recipe.write_text(f"reorder = true\nhead_groups = {config.n_heads}\nchannel_groups = {channels}")
    run_json("calibrate", flow.checkpoint, *arguments, exit_code=3)


def test_a_recipe_that_needs_more_data_is_refused_before_any_work(
    flow: Flow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "fine.toml"
    recipe.write_text("[observers.z]\nkind = 'percentile'\nalpha = 0.9999999")
    arguments = ("calibrate", flow.checkpoint, "--data", flow.text, "-o", tmp_path / "none", *SIZE)
    run_json(*arguments, "--recipe", recipe, exit_code=3)
    printed = capsys.readouterr().err
    assert "the data are too short for the observer of site 'layers.0.z'" in printed
    values = 32 * read_calibration(flow.calibration).config.d_inner
    assert f"found: {values} values a scale in each sample of 32 tokens" in printed
    assert "10000000 or more for kind percentile, alpha 0.9999999" in printed
    assert not list(tmp_path.glob("none*"))


def test_the_models_default_recipe_warns_instead(flow: Flow, capsys: pytest.CaptureFixture[str]) -> None:
    """Which recipe it is follows from the model: nobody asked for one that this text is too short for."""
    recorded = read_calibration(flow.calibration)
    arguments = ("calibrate", flow.checkpoint, "--data", flow.text, "-o", flow.calibration, *SIZE)
    warnings = run_json(*arguments)["warnings"]
    assert read_calibration(flow.calibration).digest == recorded.digest
    if recorded.recipe.name == "quamba":
        found = "2048 values a scale in each sample of 32 tokens"
        assert warnings[0] == f"layers.0.x has {found}, percentile needs 100000"
        assert "warning: little data for recipe quamba: layers.0.x" in capsys.readouterr().err
    else:
        assert warnings == []


def test_one_rank_tells_of_little_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("quamba_export.calib.ranks.rank", lambda: 1)
    assert tell_shortages(load_recipe("quamba"), MAMBA1, 1, 8)
    assert capsys.readouterr().err == ""


def test_errors_are_drawn_on_a_page_without_network(flow: Flow, tmp_path: Path) -> None:
    page = tmp_path / "scales.html"
    facts = run_json("inspect", flow.calibration, "--html", page)
    text = page.read_text()
    for error in facts["errors"]:
        assert error["site"] in text
    assert text.count("<svg") == 4
    assert "Signal-to-noise" in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    run_json("inspect", flow.export, "--html", page, exit_code=2)
