"""Embedding and head at 8 and 4 bits: the graph against the reference, their bytes, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from quamba_export.calib.model.qformat import qformat_named
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.rewrites import rewrite
from quamba_export.calib.rounding.nearest import Nearest
from quamba_export.calib.rounding.weight_grid import grid_of
from quamba_export.plugins.common.int4 import dequantize_int4
from quamba_export.runtime.errors import ExitCode, QuambaError
from tests.exported_graph import Graph, calibrated, quantized, tapped, tokens
from tests.random_checkpoints import MAMBA1, MAMBA2

WIDE = {"mamba1": replace(MAMBA1, d_model=160, d_inner=320), "mamba2": MAMBA2}
ENDS = ("w8a8-embedding8-head8", "w4a16-embedding4-head4", "w8a8-embedding4-head8", "w8a8-head4")


@pytest.mark.parametrize("qformat", ENDS)
@pytest.mark.parametrize("kind", WIDE)
def test_graph_and_reference_agree_in_every_bit_of_every_site(
    kind: str, qformat: str, tmp_path: Path
) -> None:
    model = quantized(WIDE[kind], qformat=qformat)
    ids = tokens(model.config, 2, 7)
    expected = tapped(model, ids)
    sites = tuple(site for site in expected if site.startswith("layers."))
    found = Graph(model, tmp_path, sites).run(ids)
    np.testing.assert_allclose(found["logits"], expected.pop("logits").numpy(), rtol=1e-6, atol=1e-5)
    for site, tensor in expected.items():
        np.testing.assert_array_equal(found[site], tensor.numpy(), err_msg=site)


@pytest.mark.parametrize(("bits", "columns", "scale_bytes"), [(8, 160, 4), (4, 80, 4), (16, 320, 0)])
def test_both_tables_take_their_bits(bits: int, columns: int, scale_bytes: int) -> None:
    """Of 160 columns: a row of codes, and an fp32 scale or two fp16 ones."""
    name = qformat_named("w8a8", embedding_bits=bits, head_bits=bits).name
    model = quantized(WIDE["mamba1"], qformat=name)
    rows = model.config.vocab_size
    for end in ("embedding", "lm_head"):
        stored = {part: tensor for part, tensor in model.tensors.items() if part.startswith(end)}
        assert stored.pop(f"{end}.weight").nbytes == rows * columns
        assert sum(tensor.nbytes for tensor in stored.values()) == rows * scale_bytes


def test_codes_of_eight_bits_are_within_half_a_step_and_an_fp16_rounding() -> None:
    checkpoint, calibration = calibrated(WIDE["mamba2"])
    exact = quantize_model(checkpoint, calibration, "w8a8")
    codes = quantize_model(checkpoint, calibration, "w8a8-embedding8-head8")
    for end in ("embedding", "lm_head"):
        scale = codes.tensors[f"{end}.weight_scale"][:, None]
        difference = codes.tensors[f"{end}.weight"] * scale - exact.tensors[f"{end}.weight"].float()
        assert bool((difference.abs() <= scale * 0.6).all())


def test_names_say_what_is_not_the_format_s_own_width() -> None:
    assert qformat_named("w4a8", embedding_bits=8, head_bits=4).name == "w4a8-embedding8-head4"
    assert qformat_named("w4a8", embedding_bits=16).name == "w4a8"
    assert qformat_named("w4a8-head4").head_bits == 4
    assert qformat_named("w4a8-head4", head_bits=16).name == "w4a8"


@pytest.mark.parametrize("name", ["w8a8-head5", "w8a8-embedding32", "w8a8-embedding0"])
def test_other_bits_are_refused(name: str) -> None:
    with pytest.raises(QuambaError, match="-bits has no such width") as caught:
        qformat_named(name)
    assert (caught.value.allowed, caught.value.code) == ("4, 8, 16", ExitCode.USAGE)


@pytest.mark.parametrize("name", ["w8a8-", "w8a8-head", "w8a8-head8-embedding8", "head8", "W8A8", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(QuambaError, match="unknown --qformat"):
        qformat_named(name)


def test_columns_that_int4_cannot_pack_are_refused() -> None:
    with pytest.raises(QuambaError, match="embedding does not fit int4's packing"):
        quantized(replace(MAMBA1, d_model=24, d_inner=48), qformat="w8a8-embedding4")


def test_a_head_on_half_of_its_scale_is_noticed(tmp_path: Path) -> None:
    """The gate above, shown red."""
    model = quantized(WIDE["mamba2"], qformat="w8a8-head8")
    ids = tokens(model.config, 1, 3)
    expected, _ = model(ids)
    tensors = dict(model.tensors)
    tensors["lm_head.weight_scale"] = tensors["lm_head.weight_scale"] * (1 + 2**-10)
    found = Graph(replace(model, tensors=tensors), tmp_path).run(ids)["logits"]
    assert float((torch.from_numpy(found) - expected).abs().max()) > 1e-5


def test_tables_of_four_bits_have_the_scales_of_the_least_error() -> None:
    checkpoint, calibration = calibrated(WIDE["mamba2"])
    weight = rewrite(checkpoint, calibration).tensors["lm_head.weight"]
    tensors = quantize_model(checkpoint, calibration, "w8a8-head4").tensors
    found = dequantize_int4(tensors["lm_head.weight"], tensors["lm_head.weight_scale"])
    plain = Nearest().round(weight, grid_of(4)).dequantize()
    assert float((found - weight).square().mean()) < 0.95 * float((plain - weight).square().mean())
