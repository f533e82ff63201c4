"""`--device cuda`: what a GPU finds is what a CPU finds but for the last bits, and the same on every run.

Bounds are of random models with trained magnitudes: scales within 1e-3 of each other (2e-2 where an
observer searches a grid), a rounding's lost energy within 2 %, a quantized model's nats a token within 1e-3.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_checkpoints import MAMBA1, MAMBA2_GROUPS, random_checkpoint, random_tensors, write_mamba_ssm
from tiny_flow import WORDS, run_json, write_word_tokenizer

from quamba_export.calib.calibrate import calibrate
from quamba_export.calib.calibration import Calibration
from quamba_export.calib.observers.kinds import OBSERVERS
from quamba_export.calib.recipes.recipe import Recipe, default_recipe, load_recipe

if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU: `make gpu-test` there", allow_module_level=True)

CONFIGS = {"mamba1": MAMBA1, "mamba2": MAMBA2_GROUPS}
SEARCHED = ("mse", "entropy")  # limits of a grid: a last bit may choose the neighbour


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_word_tokenizer(folder / "tokenizer.json")
    words = np.random.default_rng(0).choice(WORDS, size=1200)
    (folder / "text.txt").write_text(" ".join(words))
    return folder


def calibrated(folder: Path, kind: str, recipe: Recipe, device: str, out: Path | None = None) -> Calibration:
    checkpoint = random_checkpoint(CONFIGS[kind], 0, folder / "tokenizer.json")
    size = {"calib_size": 10, "calib_seqlen": 80}
    return calibrate(checkpoint, folder / "text.txt", recipe, device=device, out_dir=out, **size)


def recipes(kind: str) -> dict[str, Recipe]:
    base = default_recipe(CONFIGS[kind])
    plain = load_recipe("quamba")
    made = {name: replace(plain, observers={"default": OBSERVERS[name]()}) for name in OBSERVERS}
    gptq = {"kind": "gptq", "damping": 0.1}
    return made | {
        "default": base,
        "gptq": base.rounded_by(gptq),
        "smoothquant": load_recipe("smoothquant"),
    }


NAMES = sorted(recipes("mamba1"))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_finds_the_scales_of_a_cpu(folder: Path, kind: str, name: str) -> None:
    recipe, close = recipes(kind)[name], 2e-2 if name in SEARCHED else 1e-3
    here, there = (calibrated(folder, kind, recipe, device) for device in ("cpu", "cuda"))
    assert there.run["device"] == "cuda"
    for site, scale in here.scales.items():
        torch.testing.assert_close(there.scales[site], scale, rtol=close, atol=0.0)
    for projection, lost in here.run.get("rounding_errors", {}).items():
        assert there.run["rounding_errors"][projection]["error"] == pytest.approx(lost["error"], rel=0.02)
    assert here.weights.keys() == there.weights.keys()


@pytest.mark.parametrize("kind", CONFIGS)
def test_two_runs_on_a_gpu_give_the_same_bytes(folder: Path, kind: str, tmp_path: Path) -> None:
    recipe = recipes(kind)["gptq"]
    for run in ("first", "second"):
        calibrated(folder, kind, recipe, "cuda", tmp_path / run)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / run).iterdir()} for run in ("first", "second")
    )
    assert first == second


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_a_gpu_scores_as_a_cpu(folder: Path, kind: str, mode: str, tmp_path: Path) -> None:
    write_mamba_ssm(tmp_path / "model", CONFIGS[kind], random_tensors(CONFIGS[kind]))
    write_word_tokenizer(tmp_path / "model" / "tokenizer.json")
    calibrated(folder, kind, default_recipe(CONFIGS[kind]), "cpu", tmp_path / "calibration")
    text = ("--data", folder / "text.txt", "--window", 80, "--max-tokens", 160, "--mode", mode)
    found: dict[str, dict[str, Any]] = {}
    for device in ("cpu", "cuda"):
        of = ("--calibration", tmp_path / "calibration", "--against", tmp_path / "model", "--device", device)
        found[device] = run_json("eval", tmp_path / "model", *text, *of)
    for key in ("nats_per_token", "against_perplexity"):
        assert found["cuda"][key] == pytest.approx(found["cpu"][key], rel=1e-3)
    assert found["cuda"]["engine"] == "PyTorch on cuda:0"
