"""The search of widths: greedy under a budget, its scores kept, its recipe one for the other commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_flow import Flow, run_json

from quamba_export.calib.recipes.as_toml import recipe_toml
from quamba_export.calib.recipes.layer_rules import LayerRule
from quamba_export.calib.recipes.recipe import load_recipe, recipe_from_table
from quamba_export.exporter.studies.search import Budget, KeptScores, recipe_with, search
from quamba_export.runtime.errors import ExitCode, QuambaError

BYTES = {"w8a8": 10.0, "w4a16": 6.0, "w4a8": 5.0}
LOSSES = (0.5, 0.1, 0.3, 0.2)  # of each layer in w4a8; a quarter of it in w4a16


def bytes_of(widths: tuple[str, ...]) -> float:
    return sum(BYTES[name] for name in widths)


def loss(widths: tuple[str, ...]) -> float:
    share = {"w8a8": 0.0, "w4a16": 0.25, "w4a8": 1.0}
    return sum(share[name] * own for name, own in zip(widths, LOSSES, strict=True))


def found(most: float, choices: tuple[str, ...] = ("w8a8", "w4a8")) -> tuple[str, ...]:
    return search(4, choices, Budget(bytes_of, most, "MB"), loss).widths


def test_the_layers_that_lose_least_are_narrowed_first() -> None:
    assert found(40) == ("w8a8",) * 4
    assert found(39) == found(35) == ("w8a8", "w4a8", "w8a8", "w8a8")
    assert found(30) == ("w8a8", "w4a8", "w8a8", "w4a8")
    assert found(20) == ("w4a8",) * 4


def test_a_width_that_loses_less_for_its_bytes_comes_before_a_narrower_one() -> None:
    assert found(32, tuple(BYTES)) == ("w8a8", "w4a16", "w8a8", "w4a16")
    assert found(20, tuple(BYTES)) == ("w4a8",) * 4


def test_a_budget_that_cannot_be_met_is_refused_before_anything_is_scored() -> None:
    def never(widths: tuple[str, ...]) -> float:
        raise AssertionError("scored")

    with pytest.raises(QuambaError, match="the budget cannot be met") as caught:
        search(4, ("w8a8", "w4a8"), Budget(bytes_of, 19.5, "MB"), never)
    assert (caught.value.found, caught.value.code) == ("19.5 MB", ExitCode.USAGE)
    assert caught.value.allowed == "20 MB or more: every block in w4a8"
    with pytest.raises(QuambaError, match="the budget cannot be met"):
        search(4, ("w8a8", "w4a8"), Budget(bytes_of, float("nan"), "MB"), never)


@pytest.mark.parametrize(
    ("choices", "message"), [(("w8a8", "w4a4"), "unknown width"), (("w4a8",), "a choice")]
)
def test_other_choices_are_refused(choices: tuple[str, ...], message: str) -> None:
    with pytest.raises(QuambaError, match=message):
        found(40, choices)


def test_scores_are_kept_for_the_same_question_only(tmp_path: Path) -> None:
    path, asked = tmp_path / "r.scores.jsonl", list[tuple[str, ...]]()

    def score(widths: tuple[str, ...]) -> float:
        asked.append(widths)
        return float(len(asked))

    first = KeptScores(path, {"data": "a"}, score)
    assert [first(("w8a8",)), first(("w4a8",)), first(("w8a8",))] == [1, 2, 1]
    path.write_text(path.read_text() + '{"question": "cut sho')
    resumed = KeptScores(path, {"data": "a"}, score)
    assert [resumed(("w4a8",)), len(asked), resumed(("w4a16",))] == [2, 2, 3]
    assert KeptScores(path, {"data": "a"}, score)(("w4a16",)) == 3  # behind the line that was cut short
    assert KeptScores(path, {"data": "b"}, score)(("w4a8",)) == 4


def test_scores_are_kept_in_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "new" / "r.scores.jsonl"
    KeptScores(path, {}, len)(("w8a8",))
    assert KeptScores(path, {}, lambda widths: 0)(("w8a8",)) == 1


def test_a_recipe_is_what_its_text_says(tmp_path: Path) -> None:
    for name in ("quamba", "quamba2", "quamba-by-depth"):
        recipe = recipe_with(load_recipe(name).rounded_by({"kind": "gptq"}), ("w4a8", "w8a8", "w4a8"))
        (tmp_path / f"{name}.toml").write_text(recipe_toml(recipe, "two\nlines"))
        assert load_recipe(tmp_path / f"{name}.toml") == recipe


def test_widths_of_before_are_replaced_and_observers_stay() -> None:
    rules = [
        {"at": "first", "qformat": "w8a8"},
        {"at": "0-1", "observers": {"x": {"kind": "mse"}}, "qformat": "w4a16"},
    ]
    recipe = recipe_with(recipe_from_table({"name": "r", "layers": rules}), ("w8a8", "w4a8", "w8a8"))
    assert [block.name for block in recipe.blocks(3) or ()] == ["w8a8", "w4a8", "w8a8"]
    assert recipe.layers[0].observers["x"].kind == "mse"
    assert recipe.layers[1:] == (LayerRule("1", {}, "w4a8"),)


def test_from_a_budget_to_a_mixed_bundle(flow: Flow, tmp_path: Path) -> None:
    """search, once more from its scores, calibrate, export, eval by the commands."""
    recipe = tmp_path / "mixed.toml"
    source = (flow.checkpoint, "--calibration", flow.calibration, "--data", flow.text, "-o", recipe)
    text = ("--window", 32, "--max-tokens", 64, "--choices", "w8a8,w4a16")
    whole = run_json("search", *source, *text, "--budget-size", 1000)
    assert whole["widths"] == ["w8a8"] * len(whole["widths"])
    budget = whole["widest"] - 1e-4
    facts = run_json("search", *source, *text, "--budget-size", budget)
    assert "w4a16" in facts["widths"]
    assert facts["cost"] <= budget
    assert facts["kl"] > 0
    assert run_json("search", *source, *text, "--budget-size", budget) == {**facts, "scored": 0}
    latency = ("--budget-ms", 1.0, "--target", "orin-nano", "-o", tmp_path / "fast.toml")
    assert run_json("search", *source[:-2], *latency, *text)["unit"] == "ms"
    size, percentile = ("--calib-size", 4, "--calib-seqlen", 32), "percentile" in recipe.read_text()
    recipe.write_text(recipe.read_text().replace("0.99999", "0.9").replace("0.9995", "0.9"))  # so little text
    calibration, export = tmp_path / "calibration", tmp_path / "export"
    run_json("calibrate", flow.checkpoint, "--data", flow.text, "-o", calibration, *size, "--recipe", recipe)
    run_json("export", flow.checkpoint, "--calibration", calibration, "--qformat", "w4ax", "-o", export)
    scored = ("--data", flow.text, "--window", 32, "--max-tokens", 64, "--against", flow.checkpoint)
    found = run_json("eval", export, *scored)
    assert percentile or found["kl"] == pytest.approx(facts["kl"], rel=1e-3)
    size_facts = run_json("inspect", export)["size"]
    assert size_facts["formula"] == pytest.approx(facts["cost"] * 1e6)


def test_no_text_and_a_place_in_a_bundle_are_refused(
    flow: Flow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").touch()
    source = ("search", flow.checkpoint, "--calibration", flow.calibration, "--budget-size", 1000)
    run_json(*source, "--data", tmp_path / "empty.txt", "-o", tmp_path / "r.toml", exit_code=3)
    assert "too short to score" in capsys.readouterr().err
    run_json(*source, "--data", flow.text, "-o", flow.export / "r.toml", exit_code=2)
    assert "would lie in a bundle or export" in capsys.readouterr().err


def test_one_budget_is_wanted(flow: Flow, tmp_path: Path) -> None:
    source = (
        flow.checkpoint,
        "--calibration",
        flow.calibration,
        "--data",
        flow.text,
        "-o",
        tmp_path / "r.toml",
    )
    for flags in ((), ("--budget-size", 1, "--budget-ms", 1), ("--budget-ms", 1), ("--budget-size", 1e-6)):
        assert run_json("search", *source, *flags, exit_code=2) == {}
    assert list(tmp_path.iterdir()) == []
