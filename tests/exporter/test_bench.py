"""`bench`: one contestant's figures, and with --provider cuda where its nodes ran."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from tiny_flow import Flow, run_json
from tiny_recurrent import write_tiny_export
from typer.testing import CliRunner

from quamba_export.exporter.commands.bench import bench as command
from quamba_export.exporter.speed import bench, bench_models
from quamba_export.runtime.bundle import open_bundle
from quamba_export.runtime.ort_placement import Placement

SIZE = ("--threads", "1", "--prompt-tokens", "5", "--new-tokens", "3", "--rounds", "2")
PLACED = [
    Placement("CUDAExecutionProvider", 9, {"Mul": 8, "MemcpyToHost": 1}),
    Placement("CPUExecutionProvider", 2, {"BitwiseXor": 1, "MatMulInteger": 1}),
]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_export(tmp_path_factory.mktemp("bench") / "export"))


def test_an_export_on_the_cpu_has_one_place_and_times(export: str) -> None:
    result = run_json("bench", export, *SIZE)
    (speed,) = result["speeds"]
    assert (speed["name"], result["placements"]) == ("ONNX Runtime", [])
    assert speed["prefill_tokens_per_second"] == pytest.approx(5e3 / speed["ttft_ms"])
    assert speed["decode_tokens_per_second"] == pytest.approx(1e3 / speed["tpot_ms"])


def test_who_is_left_out_is_told(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_models.importlib.util, "find_spec", lambda name: None)
    result = run_json("bench", flow.export, *SIZE, "--against", flow.checkpoint)
    assert [speed["name"] for speed in result["speeds"]][1:] == ["PyTorch reference", "PyTorch float"]
    assert result["left_out"].startswith("transformers, which is not installed: pip install")
    assert result["left_out"] in capsys.readouterr().err


def test_figures_stay_whole_on_80_columns(export: str) -> None:
    app = typer.Typer()
    app.command("bench")(command)
    printed = CliRunner().invoke(app, [export, *SIZE], env={"COLUMNS": "80"})
    rows = {line.split()[-6 if "TPOT" in line else -5]: line for line in printed.output.splitlines()[1:3]}
    assert set(rows) == {"TTFT", "TPOT"}


def test_nodes_left_on_the_cpu_are_told(export: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "place_nodes", lambda *arguments: PLACED)
    monkeypatch.setattr(bench, "open_bundle", lambda path, threads, provider: open_bundle(Path(path)))
    app = typer.Typer()
    app.command("bench")(command)
    printed = CliRunner().invoke(app, [export, *SIZE, "--provider", "cuda"], env={"COLUMNS": "200"})
    assert printed.exit_code == 0, printed.output
    assert "ONNX Runtime, CUDA" in printed.output
    lines = " ".join(printed.output.split())
    assert "CPUExecutionProvider: 2 nodes of a decode step (1 BitwiseXor, 1 MatMulInteger)" in lines
    result = run_json("bench", export, *SIZE, "--provider", "cuda")
    assert [placement["nodes"] for placement in result["placements"]] == [9, 2]
