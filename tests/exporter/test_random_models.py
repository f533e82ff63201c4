"""Random models have the names and shapes of quantized ones, and values that neither clip nor vanish."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from refusals import refused

from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.exporter.speed import random_models
from quamba_export.exporter.speed.random_models import CONFIGS, random_model
from tests.random_calibrations import random_calibration
from tests.random_checkpoints import random_checkpoint


@pytest.mark.parametrize("qformat", ["w8a8", "w4a8", "w4a16", "w8a16"])
@pytest.mark.parametrize("name", ["mamba-130m", "mamba2-130m", "mamba2-8b"])
def test_it_is_made_like_a_calibrated_model(name: str, qformat: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(CONFIGS[name], n_layer=2, d_model=64, d_inner=2048, vocab_size=64)
    monkeypatch.setitem(random_models.CONFIGS, name, small)
    checkpoint = random_checkpoint(small)
    calibrated = quantize_model(checkpoint, random_calibration(small, digest=checkpoint.digest), qformat)
    drawn = random_model(name, qformat=qformat)
    described = [{n: (t.dtype, t.shape) for n, t in m.tensors.items()} for m in (drawn, calibrated)]
    extra = {n for n in described[0] if n.endswith((".out_scale", ".lm_head.weight"))} - set(described[1])
    assert {n: d for n, d in described[0].items() if n not in extra} == described[1]
    assert set(drawn.scales) == set(calibrated.scales)


@pytest.mark.parametrize(
    ("name", "qformat"), [("mamba-130m", "w8a8"), ("mamba2-130m", "w8a8"), ("mamba2-130m", "w4a8")]
)
def test_activations_fill_the_codes_and_the_logits_differ(name: str, qformat: str) -> None:
    model, deviations = random_model(name, n_layer=2, qformat=qformat), {}
    ids = torch.arange(16)[None] * 1009

    def tap(site: str, value: torch.Tensor) -> None:
        deviations[site] = float(value.float().std())
        if value.dtype == torch.int8:
            assert float((value.abs() >= 127).float().mean()) < 0.01, site

    logits, _ = model.run(ids, tap=tap)
    assert all(
        2 < deviations[f"layers.1.{site}"] < 60 for site in ("norm_out", "z", "dt", "x", "out_proj_in")
    )
    assert 0.5 < float(logits.std()) < 2
    assert len(set(logits.argmax(-1).flatten().tolist())) > 8


def test_an_unknown_size_is_refused() -> None:
    with refused("unknown model size", "found: mamba2-9t", code=2):
        random_model("mamba2-9t")


def test_widths_of_no_random_model_are_refused() -> None:
    with refused(
        "no random models of these widths", "found: fp16", "allowed: w8a8, w4a8, w4a16, w8a16", code=2
    ):
        random_model("mamba2-130m", qformat="fp16")
