"""`accuracy`: which rows a model gets, and that the table holds what was scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from random_checkpoints import MAMBA1, MAMBA2_GROUPS
from rich.console import Console
from tiny_flow import run_json, write_tiny_checkpoint, write_words

from quamba_export.calib.config import MambaConfig
from quamba_export.exporter.commands.accuracy import show
from quamba_export.exporter.studies import sweep
from quamba_export.exporter.studies.accuracy_table import (
    HEADS,
    ROWS,
    chosen_rows,
    model_folders,
    row_variants,
    table_of,
)
from quamba_export.runtime.errors import QuambaError

LARGE_STATE = replace(MAMBA1, d_state=32)  # 2048 values: enough for the recipes' percentile of it


def test_every_row_is_a_variant_of_its_models() -> None:
    for config in (LARGE_STATE, MAMBA2_GROUPS):
        (rows,) = chosen_rows([], {"model": config}).values()
        assert len(row_variants(rows, config, 512, 4096)) == len(rows)
        assert ("quamba2-w8a8" in {row.name for row in rows}) == (config.kind == "mamba2")
    assert len({row.name for row in ROWS}) == len(ROWS)
    with pytest.raises(QuambaError, match="unknown row") as caught:
        chosen_rows(["w4a8-gptk"], {"model": MAMBA1})
    assert caught.value.fix == "did you mean w4a8-gptq?"


def test_a_row_that_is_for_one_model_of_two_leaves_the_other_out() -> None:
    both = {"one": MAMBA1, "two": MAMBA2_GROUPS}
    chosen = chosen_rows(["quamba2-w8a8"], both)
    assert {name: [row.name for row in rows] for name, rows in chosen.items()} == {"two": ["quamba2-w8a8"]}
    with pytest.raises(QuambaError, match="no row of the table is for these models") as caught:
        chosen_rows(["quamba2-w8a8"], {"one": MAMBA1})
    assert "mamba1" in caught.value.found
    assert "quamba2-w8a8" not in caught.value.allowed


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    folders = model_folders(tmp_path, ["a/first", "b/second/"])
    assert [folder.name for folder in folders.values()] == ["first", "second"]
    with pytest.raises(QuambaError, match="two models have one name") as caught:
        model_folders(tmp_path, ["a/first", "b/second", "c/first"])
    assert caught.value.found == "a/first, c/first"


def test_a_line_holds_what_was_scored() -> None:
    mode = {"perplexity": 5.05, "against_perplexity": 5.0, "ratio": 1.01, "kl": 0.01, "top1_agreement": 0.97}
    words = {"cloze_accuracy": 0.25, "cloze_standard_error": 0.04, "against_cloze_accuracy": 0.26}
    lines = table_of([(ROWS[0], {"prefill": mode | words, "decode": mode})]).splitlines()
    assert [len(line.split("|")) for line in lines] == [len(HEADS) + 2] * 4
    assert lines[2] == "| float | 5.0000 | - | - | 5.0000 | - | - | 26.0% |"
    figures = "5.0500 (1.0100) | 0.0100 | 97.0%"
    assert lines[3] == f"| {ROWS[0].name} | {figures} | {figures} | 25.0% +- 4.0% |"


@pytest.mark.parametrize("config", [LARGE_STATE, MAMBA2_GROUPS], ids=["mamba1", "mamba2"])
def test_the_command_writes_a_table_for_each_model(config: MambaConfig, tmp_path: Path) -> None:
    checkpoint, words, out = (tmp_path / name for name in ("model", "text.txt", "out"))
    write_tiny_checkpoint(checkpoint, config)
    write_words(words)
    size = ("--calib-size", 2, "--calib-seqlen", 32, "--window", 16, "--max-tokens", 32)
    rows = ("--only", "w4a8-nearest", "--only", "quarot-w8a8", "--only", "smoothquant-w8a8")
    text = ("--data", words, "--score", words)
    found = run_json("accuracy", checkpoint, *text, "-o", out, *size, *rows)
    (model,) = found["models"].values()
    assert sorted(model) == ["quarot-w8a8", "smoothquant-w8a8", "w4a8-nearest"]
    assert {"prefill", "decode"} <= set(model["w4a8-nearest"])
    assert (out / "accuracy.md").read_text().count("\n| ") == 6


def test_data_too_short_for_the_default_recipe_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, config in (("short", MAMBA1), ("enough", MAMBA2_GROUPS)):
        write_tiny_checkpoint(tmp_path / name, config)
    write_words(tmp_path / "text.txt")
    monkeypatch.setattr(sweep, "_calibrate", lambda task: pytest.fail("the work begins"))
    text = ("--data", tmp_path / "text.txt", "--score", tmp_path / "text.txt", "-o", tmp_path / "out")
    size = ("--calib-size", 2, "--calib-seqlen", 32, "--window", 16, "--max-tokens", 32)
    rows = ("--only", "w4a8-nearest", "--only", "w4a8-gptq")
    with pytest.raises(pytest.fail.Exception, match="the work begins"):
        run_json("accuracy", tmp_path / "short", tmp_path / "enough", *text, *size, *rows)
    assert capsys.readouterr().err.count("warning: little data for recipe") == 1


def test_a_row_is_one_line_however_narrow_the_terminal() -> None:
    row = f"| quamba2-w8a8 | {' | '.join(['5.9917 (1.0025)'] * 8)} |"
    show([row], console := Console(width=40, record=True))
    assert console.export_text() == row + "\n"
