"""GPTQ through a whole model: what a layer sees, the same bytes however it is done, what is exported."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from random_checkpoints import MAMBA1, MAMBA2, MAMBA2_GROUPS, random_checkpoint

from quamba_export.calib.calibrate import calibrate, partial_directory
from quamba_export.calib.calibration import read_calibration, write_calibration
from quamba_export.calib.data import calibration_windows
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.rewrites import rewrite
from quamba_export.calib.recipes.layer_rules import LayerRule
from quamba_export.calib.recipes.recipe import default_recipe, load_recipe
from quamba_export.calib.rounding.hessian import Hessian
from quamba_export.calib.rounding.stored_weight import rounded_shapes
from quamba_export.plugins.common.int4 import group_sizes, unpack_int4
from quamba_export.runtime.errors import ExitCode, QuambaError

SAMPLES, LENGTH = 6, 12  # a whole micro-batch and a part of one
CONFIGS = pytest.mark.parametrize("config", [MAMBA1, MAMBA2_GROUPS], ids=["mamba1", "mamba2-g2"])


def checkpoint_of(config, folder):
    return random_checkpoint(config, 0, folder / "tokenizer.json")


@pytest.fixture
def run(folder):
    def run(config, rounding=None, **options):
        recipe = default_recipe(config).rounded_by({"kind": "gptq", **(rounding or {})})
        sizes = {"calib_size": SAMPLES, "calib_seqlen": LENGTH}
        return calibrate(checkpoint_of(config, folder), folder / "text.txt", recipe, **sizes, **options)

    return run


def dequantized(weight, scale):
    if scale.dtype == torch.float32:
        return weight.float() * scale[:, None]
    sizes = torch.tensor(group_sizes(2 * weight.shape[1]))
    return unpack_int4(weight).float() * scale.float().repeat_interleave(sizes, dim=1)


def put(model, calibration, layers):
    """Replace the projections of the first `layers` layers by what they were rounded to."""
    for name in rounded_shapes(model.config):
        prefix, number, projection = name.split(".")
        if int(number) < layers:
            parts = (calibration.weights[f"{name}.{part}"] for part in ("weight", "weight_scale"))
            model.tensors[f"backbone.{prefix}.{number}.mixer.{projection}.weight"] = dequantized(*parts)


@CONFIGS
@pytest.mark.parametrize("bits", [4, 8])
def test_every_layer_is_rounded_on_what_the_rounded_ones_before_it_give(run, folder, config, bits):
    """Each weight again, from one pass of the whole float model with all samples at once."""
    calibration = run(config, {"bits": bits})
    recipe = calibration.recipe
    paths = folder / "text.txt", folder / "tokenizer.json"
    tokens = torch.from_numpy(calibration_windows(*paths, 0, count=SAMPLES, size=LENGTH))
    exact = rewrite(checkpoint_of(config, folder), calibration)
    for name, shape in rounded_shapes(config).items():
        layer, projection = int(name.split(".")[1]), name.split(".")[2]
        model = rewrite(checkpoint_of(config, folder), calibration)
        put(model, calibration, layer + (projection == "out_proj"))
        seen, site = {}, "norm_out" if projection == "in_proj" else "out_proj_in"
        with torch.no_grad():
            model(tokens, observe=seen.__setitem__)
        hessian = Hessian(shape[1])
        hessian.add(seen[f"layers.{layer}.{site}"])
        weight = exact.tensors[f"backbone.{name.replace(projection, f'mixer.{projection}')}.weight"]
        expected = recipe.weights.round(weight, recipe.grid(bits), hessian.matrix(), name).dequantize()
        found = dequantized(
            calibration.weights[f"{name}.weight"], calibration.weights[f"{name}.weight_scale"]
        )
        assert torch.isclose(found, expected, rtol=1e-3, atol=1e-7).float().mean() > 0.995, name
        errors = calibration.run["rounding_errors"][name]
        assert 0 < errors["error"] < errors["nearest_error"]


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_any_number_of_workers_gives_the_same_bytes(run, tmp_path):
    for workers in (1, 3):
        run(MAMBA2, {"descent_sweeps": 2}, workers=workers, out_dir=tmp_path / str(workers))
    assert files(tmp_path / "1") == files(tmp_path / "3")
    assert "weights.safetensors" in files(tmp_path / "1")


class StopHereError(Exception):
    pass


def stop_after(layers):
    """Progress that ends a calibration of two layers when so many are rounded."""

    def stop(progress):
        if progress.stage == "weights" and progress.done >= progress.total - (2 - layers) * SAMPLES // 2:
            raise StopHereError

    return stop


@pytest.mark.parametrize("layers", [1, 2])
def test_resuming_after_any_layer_gives_the_same_bytes(run, tmp_path, layers):
    with pytest.raises(StopHereError):
        run(MAMBA1, {"descent_sweeps": 2}, out_dir=tmp_path / "stopped", progress=stop_after(layers))
    unfinished = partial_directory(tmp_path / "stopped")
    for name in ("out_proj_in.bin", f"residual{(layers + 1) % 2}.bin"):  # what the next layer writes anew
        (unfinished / name).write_bytes(b"\xff" * (unfinished / name).stat().st_size)
    again = []
    run(MAMBA1, {"descent_sweeps": 2}, out_dir=tmp_path / "stopped", resume=True, progress=again.append)
    run(MAMBA1, {"descent_sweeps": 2}, out_dir=tmp_path / "whole")
    assert len(again) == 2 - layers
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_rounded_layers_of_another_run_are_not_taken_over(run, tmp_path):
    """One run stops behind its last layer, another in the same place behind its first, and is resumed."""
    for damping, layers in ((10.0, 2), (0.01, 1)):
        with pytest.raises(StopHereError):
            run(MAMBA1, {"damping": damping}, out_dir=tmp_path / "out", progress=stop_after(layers))
    with pytest.raises(QuambaError, match="has another recipe"):
        run(MAMBA1, {"damping": 10.0}, out_dir=tmp_path / "out", resume=True)
    run(MAMBA1, out_dir=tmp_path / "out", resume=True)
    run(MAMBA1, out_dir=tmp_path / "whole")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@CONFIGS
@pytest.mark.parametrize(("bits", "qformat"), [(4, "w4a8"), (4, "w4a16"), (8, "w8a8")])
def test_the_quantized_model_has_the_calibrations_weights(run, folder, tmp_path, config, bits, qformat):
    calibration = run(config, {"bits": bits}, out_dir=tmp_path / "c")
    model = quantize_model(checkpoint_of(config, folder), read_calibration(tmp_path / "c"), qformat)
    assert all(torch.equal(model.tensors[name], tensor) for name, tensor in calibration.weights.items())
    logits, _ = model(torch.arange(20)[None])
    assert torch.isfinite(logits).all()
    with pytest.raises(QuambaError, match=f"rounded to {bits} bits") as caught:
        quantize_model(checkpoint_of(config, folder), calibration, "w8a8" if bits == 4 else "w4a8")
    assert caught.value.code == ExitCode.USAGE


def test_a_recipe_without_weights_is_nearest_and_has_no_file_of_them(folder, tmp_path):
    recipe = load_recipe("quamba")
    checkpoint = checkpoint_of(MAMBA1, folder)
    found = calibrate(
        checkpoint, folder / "text.txt", recipe, calib_size=1, calib_seqlen=8, out_dir=tmp_path / "c"
    )
    assert recipe.as_table()["weights"] == {"kind": "nearest", "clip": False}
    assert (found.weights, sorted(files(tmp_path / "c"))) == ({}, ["calibration.json", "scales.safetensors"])
    clipped = dataclasses.replace(found, recipe=recipe.rounded_by({"clip": True}))
    plain, clipped = (quantize_model(checkpoint, c, "w4a8").tensors for c in (found, clipped))
    assert not torch.equal(plain["layers.0.in_proj.weight"], clipped["layers.0.in_proj.weight"])


def test_a_calibration_without_its_weights_is_refused(run, tmp_path):
    run(MAMBA1, out_dir=tmp_path / "c")
    content = (tmp_path / "c" / "weights.safetensors").read_bytes()
    (tmp_path / "c" / "weights.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(QuambaError, match=r"weights\.safetensors is not the file") as caught:
        read_calibration(tmp_path / "c")
    assert caught.value.code == ExitCode.INTEGRITY
    (tmp_path / "c" / "weights.safetensors").unlink()
    with pytest.raises(QuambaError, match=r"weights\.safetensors is missing"):
        read_calibration(tmp_path / "c")
    path = tmp_path / "c" / "calibration.json"
    table = json.loads(path.read_text())
    del table["files"]["weights.safetensors"]
    path.write_text(json.dumps(table))
    with pytest.raises(QuambaError, match=r"'files' does not describe scales\.safetensors, weights"):
        read_calibration(tmp_path / "c")


@pytest.mark.parametrize("scale", [0.0, 1e-41, -1e-41, float("nan"), float("inf")])
def test_a_calibration_with_an_impossible_weight_scale_is_refused(run, tmp_path, scale):
    calibration = run(MAMBA1, {"bits": 8}, out_dir=tmp_path / "c")
    calibration.weights["layers.1.out_proj.weight_scale"][3] = scale
    with pytest.raises(QuambaError, match=r"'layers\.1\.out_proj\.weight_scale' has impossible values"):
        write_calibration(calibration, tmp_path / "d")


def test_columns_that_int4_cannot_pack_are_refused_before_any_work(run):
    with pytest.raises(QuambaError, match=r"(?s)in_proj does not fit int4.*40 columns.*--weight-bits 8"):
        run(dataclasses.replace(MAMBA1, d_model=40))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"kind": "gtpq"}, "did you mean gptq"),
        ({"kind": "gptq", "dampening": 0.1}, "did you mean damping"),
        ({"kind": "nearest", "bits": 4}, r"(?s)unknown option of nearest.*--rounding gptq"),
        ({"act_order": True}, r"(?s)unknown option of nearest.*--rounding gptq"),
        ({"kind": "gptq", "bits": 4.0}, "weights.bits has a wrong value"),
        ({"kind": "gptq", "bits": True}, "weights.bits has a wrong value"),
        ({"kind": "gptq", "act_order": 1}, "weights.act_order has a wrong value"),
        ({"kind": "gptq", "bits": 3}, "allowed: 4, 8"),
        ({"kind": "gptq", "damping": -1}, "must not be negative"),
    ],
)
def test_a_wrong_table_is_refused_in_words(table, words):
    with pytest.raises(QuambaError, match=words):
        load_recipe("quamba").rounded_by(table)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_head_is_rounded_on_what_the_rounded_layers_give(run, folder, bits, tmp_path):
    calibration = run(MAMBA1, {"bits": 8, "head_bits": bits})
    name = f"w8a8-head{bits}"
    model = quantize_model(checkpoint_of(MAMBA1, folder), calibration, name)
    assert torch.equal(model.tensors["lm_head.weight"], calibration.weights["lm_head.weight"])
    errors = calibration.run["rounding_errors"]["lm_head"]
    assert 0 < errors["error"] < errors["nearest_error"]
    write_calibration(calibration, tmp_path / "calibration")
    assert read_calibration(tmp_path / "calibration").digest == calibration.digest
    other = 12 - bits
    with pytest.raises(QuambaError, match=f"lm_head that is rounded to {bits} bits"):
        quantize_model(checkpoint_of(MAMBA1, folder), calibration, f"w8a8-head{other}")
    floats = quantize_model(checkpoint_of(MAMBA1, folder), calibration, "w8a8")
    assert floats.tensors["lm_head.weight"].dtype == torch.float16


def test_a_head_in_one_piece_or_in_several_is_the_same(run, monkeypatch):
    whole = run(MAMBA2, {"head_bits": 4}).weights
    monkeypatch.setattr("quamba_export.calib.model.tables.PIECE", 24)
    for name, tensor in run(MAMBA2, {"head_bits": 4}).weights.items():
        assert torch.equal(tensor, whole[name]), name


def test_blocks_of_a_mixed_recipe_are_rounded_to_their_own_bits(run, folder):
    recipe = dataclasses.replace(
        default_recipe(MAMBA1), qformat="w4a8", layers=(LayerRule("first", {}, "w8a8"),)
    ).rounded_by({"kind": "gptq"})
    sizes = {"calib_size": SAMPLES, "calib_seqlen": LENGTH}
    calibration = calibrate(checkpoint_of(MAMBA1, folder), folder / "text.txt", recipe, **sizes)
    scales = [calibration.weights[f"layers.{i}.in_proj.weight_scale"].dtype for i in (0, 1)]
    assert scales == [torch.float32, torch.float16]
    quantize_model(checkpoint_of(MAMBA1, folder), calibration, "w4ax")
    with pytest.raises(QuambaError, match="rounded to 8 bits") as caught:
        quantize_model(checkpoint_of(MAMBA1, folder), calibration, "w4a8")
    assert caught.value.found == "--qformat w4a8, 4 bits in layer 0"
