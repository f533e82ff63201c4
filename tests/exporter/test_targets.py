"""`targets list|show`: what is printed of the data files, and the predicted floors by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from quamba_export.exporter.cli import app
from quamba_export.exporter.model_sizes import CONFIGS, IntegerForm, token_bytes
from quamba_export.exporter.speed.predicted_floors import predicted_floors
from quamba_export.exporter.speed.random_models import random_model
from quamba_export.exporter.tensorrt.speed import states_of
from quamba_export.targets.target import load_target, target_names


@pytest.mark.parametrize("qformat", get_args(IntegerForm))
@pytest.mark.parametrize("name", ["mamba-130m", "mamba2-130m"])
def test_the_bytes_of_a_token_are_those_of_an_exported_model(name: str, qformat: IntegerForm) -> None:
    model = random_model(name, qformat=qformat)
    found = token_bytes(CONFIGS[name], qformat)
    weights = sum(tensor.nbytes for key, tensor in model.tensors.items() if key != "embedding.weight")
    assert found.weights == pytest.approx(weights, rel=0.01)
    assert found.state == sum(state.nbytes for state in states_of(model))


def test_a_floor_is_bytes_through_bandwidth() -> None:
    target = load_target("orin-nano")
    both = predicted_floors(target)
    floors = {floor.size: floor for floor in both if floor.qformat == "w8a8"}
    found = floors["mamba2-2.7b"]
    bytes_of_four = found.weight_bytes + 2 * 4 * found.state_bytes
    assert found.batch_tpot_ms == pytest.approx(1000 * bytes_of_four / 102e9)
    assert found.tpot_ms == pytest.approx(1000 * (found.weight_bytes + 2 * found.state_bytes) / 102e9)
    assert [size for size, floor in floors.items() if not floor.fits] == ["mamba2-8b"]
    (largest,) = (floor for floor in both if (floor.size, floor.qformat) == ("mamba2-8b", "w4a8"))
    assert largest.weight_bytes < 5.4e9
    assert not largest.fits  # with an embedding of 2.1 GB beside the head, of which a token reads one row
    assert predicted_floors(load_target("cpu")) == []


def invoke(*words: str) -> str:
    result = CliRunner().invoke(app, ["targets", *words], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_all_are_listed() -> None:
    assert invoke() == invoke("list")
    for name in target_names():
        assert name in invoke("list")
    listed = json.loads(invoke("list", "--json"))["targets"]
    assert [target["name"] for target in listed] == target_names()


def test_predictions_are_named_as_such_with_their_formula(tmp_path: Path) -> None:
    shown = invoke("show", "orin")
    for part in (
        "JetPack 6.2: TensorRT 10.3, CUDA 12.6",
        "predicted and not measured",
        "[ms] = (weight bytes",
    ):
        assert part in shown
    said = json.loads(invoke("show", "h200", "--json"))
    assert set(said) == {"target", "formula", "predicted_floors"}
    assert "redicted" not in invoke("show", "cpu")


@pytest.mark.parametrize("words", [["show"], ["list", "h200"], ["toast"]])
def test_anything_else_is_a_usage_error(words: list[str]) -> None:
    result = CliRunner().invoke(app, ["targets", *words])
    assert result.exit_code == 2 or getattr(result.exception, "code", None) == 2
